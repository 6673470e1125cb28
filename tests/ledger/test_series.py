"""Series: as old ones are thinned, as late events come, and as a rebuild finds them."""

from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from random import Random

import msgspec
import psycopg
import pytest

from app.core.postgres import psycopg_dsn
from app.feedback.model import Source
from app.ledger import limits
from app.ledger.loop import Cleanup
from app.ledger.rebuild import Difference, rebuild_totals
from app.ledger.store import LedgerStore
from app.ledger.units.measures import CellTotals
from app.ledger.units.series import DAY, HOUR, MINUTE, Kept
from tests.ledger.support import (
    SALT,
    T0_MS,
    Assigned,
    Said,
    execute,
    exposures,
    numbered,
    rows,
    signals,
)
from tests.ledger.test_ledger import deliver
from tests.ledger.test_units import MEASURES, STICKY

pytestmark = pytest.mark.anyio

DAY_MS = 86_400_000
NOW_MS = round(datetime.now(UTC).timestamp() * 1_000)
AGES_DAYS = (0, 1, 3, 20, 50, 51)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[LedgerStore]:
    with psycopg.connect(psycopg_dsn(database_url)) as connection:
        connection.execute(
            "INSERT INTO experiments (key, definition, state, salt) VALUES (%s, %s, %s, %s)",
            (STICKY.key, msgspec.json.encode(STICKY).decode(), '{"kind": "running"}', SALT),
        )
    async with LedgerStore.open(database_url) as opened:
        yield opened


def assigned_ago(number: int, days: float) -> Assigned:
    return Assigned(1, number, number, round(NOW_MS - T0_MS - days * DAY_MS), number % 2)


def events() -> list[Assigned]:
    """Two units a minute apart, of each age."""
    return [
        assigned_ago(2 * place + one, days + one / 1_440)
        for place, days in enumerate(AGES_DAYS)
        for one in range(2)
    ]


def stored(database_url: str) -> dict[tuple[int, int], int]:
    """Units by (minute, span)."""
    found: defaultdict[tuple[int, int], int] = defaultdict(int)
    for minute, span, body in rows(database_url, "SELECT minute, span, body FROM metric_series"):
        found[minute, span] += CellTotals.from_bytes(body).units if body else 0
    return dict(found)


def whole(database_url: str, table: str) -> CellTotals:
    """All rows of a table together, without covariates."""
    total = CellTotals.none(MEASURES).outcomes(MEASURES)
    for (body,) in rows(database_url, f"SELECT body FROM {table}"):
        if body:
            one = CellTotals.from_bytes(body)
            total += one.outcomes(MEASURES) if table == "metric_totals" else one
    return total


def test_minutes_become_hours_and_days_only_whole():
    now_s = 1_790_000_000
    kept = Kept.at(now_s)
    assert kept.hours % HOUR == 0
    assert kept.days % DAY == 0
    assert now_s - kept.hours * 60 >= limits.SERIES_MINUTES_S > now_s - (kept.hours + HOUR) * 60
    spans = [kept.span(minute) for minute in (kept.hours, kept.hours - 1, kept.days, kept.days - 1)]
    assert spans == [MINUTE, HOUR, HOUR, DAY]


async def test_old_minutes_become_hours_and_then_days_and_nothing_is_lost(
    database_url: str, store: LedgerStore
) -> None:
    assigned = events()
    said = [Said(one, 1, "latency", Source.AUTOMATED, 0.25 * one.unit, one.at_ms + 1) for one in assigned]
    await deliver(store, 0, numbered([exposures(assigned), signals(said)]), Random(1))
    before = whole(database_url, "metric_series")
    assert before == whole(database_url, "metric_totals")
    assert {span for _, span in stored(database_url)} == {MINUTE}

    await Cleanup(database_url).run()

    assert whole(database_url, "metric_series") == before
    spans = [span for (_, span), units in sorted(stored(database_url).items()) for _ in range(units)]
    assert spans == [DAY] * 4 + [HOUR] * 4 + [MINUTE] * 4
    assert await rebuild_totals(database_url) == []


async def test_what_comes_late_to_an_hour_is_added_to_it(database_url: str, store: LedgerStore) -> None:
    """Revised signals change their minutes, however old; thinning and rebuild find the same."""
    assigned = events()
    await deliver(store, 0, numbered([exposures(assigned)]), Random(1))
    await Cleanup(database_url).run()
    counts = stored(database_url)
    said = [Said(one, 1, "latency", Source.AUTOMATED, 0.25 * one.unit, one.at_ms + 1) for one in assigned]
    earlier = Assigned(1, 4, 99, assigned[4].at_ms - 10 * DAY_MS, 0)  # of a unit that then stood elsewhere
    late = numbered([signals(said), exposures([earlier])], start=50)
    await deliver(store, 0, late, Random(2))
    assert whole(database_url, "metric_series") == whole(database_url, "metric_totals")
    assert await rebuild_totals(database_url) == []

    await Cleanup(database_url).run()
    assert whole(database_url, "metric_series") == whole(database_url, "metric_totals")
    moved = stored(database_url)
    hour = (T0_MS + assigned[4].at_ms) // 60_000 // HOUR * HOUR
    assert moved[hour, HOUR] == counts[hour, HOUR] - 1
    assert sum(moved.values()) == len(assigned)
    assert await rebuild_totals(database_url) == []


async def test_a_rebuild_mends_series_of_every_span(database_url: str, store: LedgerStore) -> None:
    assigned = events()
    await deliver(store, 0, numbered([exposures(assigned)]), Random(1))
    await Cleanup(database_url).run()
    right = stored(database_url)
    for span in (MINUTE, HOUR, DAY):
        for spoiled in ("''", "'\\x00'"):
            execute(database_url, f"UPDATE metric_series SET body = {spoiled} WHERE span = {span}")
            differences = await rebuild_totals(database_url)
            assert differences == [Difference("metric_series", 1, 1, variant) for variant in (0, 1)]
            assert stored(database_url) == right
    assert await rebuild_totals(database_url) == []


async def test_units_from_before_there_were_series_come_in_by_a_rebuild(
    database_url: str, store: LedgerStore
) -> None:
    assigned = events()
    await deliver(store, 0, numbered([exposures(assigned)]), Random(1))
    right = stored(database_url)
    execute(database_url, "UPDATE unit_totals SET minute = NULL")
    execute(database_url, "TRUNCATE metric_series")
    assert Difference("assignments", 1) in await rebuild_totals(database_url)
    assert stored(database_url) == right
    assert await rebuild_totals(database_url) == []


async def test_a_unit_that_the_log_does_not_know_is_no_unit(database_url: str, store: LedgerStore) -> None:
    await deliver(store, 0, numbered([exposures(events())]), Random(1))
    right = whole(database_url, "metric_totals")
    names = "experiment_id, epoch, assignment_id, variant, segment, crossed, minute, body"
    ghost = f"INSERT INTO unit_totals ({names}, unit_hash) SELECT {names}, 424242 FROM unit_totals LIMIT 1"
    execute(database_url, ghost)
    await rebuild_totals(database_url)
    assert whole(database_url, "metric_totals") == right
    assert not rows(database_url, "SELECT FROM unit_totals WHERE unit_hash = 424242")
    assert await rebuild_totals(database_url) == []
