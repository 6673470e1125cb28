"""The ledger's session: how PostgreSQL goes about its statements."""

import pytest
from psycopg import AsyncConnection

from app.core.postgres import connect
from app.feedback.limits import CLOCK_TOLERANCE_US
from app.ledger.session import prepare, sql
from tests.ledger.support import execute

pytestmark = pytest.mark.anyio

LOG = ("assignments", "signals", "unit_signals", "unit_totals")
LOOKING_UP = {
    "app.ledger.log": ("affect_by_unit", "lock_affected", "lock_staged", "read_signals"),
    "app.ledger.rewards": ("store_rewards",),
    "app.ledger.signals": (
        "affect_by_unit_signals",
        "count_unit_scope",
        "count_waiting_signals",
        "lock_unit_scope",
        "read_repeated_signals",
        "read_repeated_unit_signals",
        "revise_signals",
        "revise_unit_signals",
    ),
    "app.ledger.units": ("lock_unit_totals", "read_unit_contexts", "store_unit_totals"),
}
"""Statements by the packages beside which they are."""
PARAMETERS = {"tolerance_us": CLOCK_TOLERANCE_US}


async def scanned(connection: AsyncConnection) -> set[str]:
    """The tables of the log that one of the statements would read as a whole."""
    plans = [
        await (await connection.execute("EXPLAIN " + sql(package, name), PARAMETERS)).fetchall()
        for package, names in LOOKING_UP.items()
        for name in names
    ]
    lines = [line.strip() for plan in plans for (line,) in plan]
    return {table for table in LOG for line in lines if f"Seq Scan on {table} " in line}


async def test_what_a_batch_touches_is_looked_up_even_by_statistics_of_empty_tables(
    database_url: str,
) -> None:
    """A session that was not prepared reads whole tables, which is what the settings are for."""
    execute(database_url, f"ANALYZE {', '.join(LOG)}")
    async with await connect(database_url) as prepared, await connect(database_url) as plain:
        await prepare(prepared)
        await plain.execute(sql("app.ledger", "temporary_tables"))
        assert await scanned(prepared) == set()
        assert await scanned(plain)
