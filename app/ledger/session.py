"""The ledger's session, and what every part of a transaction does with it: copy, read arrays and signals."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from typing import Any, Final, LiteralString

import numpy as np
import structlog
from numpy.typing import NDArray
from psycopg import AsyncConnection, AsyncCursor
from psycopg.sql import SQL, Identifier

from app.core.telemetry import UNUSABLE_TOTALS
from app.ledger import rows
from app.ledger.rows import Rows


def report_unusable(table: str, key: object, error: object) -> None:
    """Totals that cannot be read, which only a hand that is not ours can bring about.

    They must not hold up the ledger: `wald rebuild` mends them.
    """
    UNUSABLE_TOTALS.labels(table).inc()
    _LOG.error(f"{table}_unusable", key=str(key), error=str(error), then="run wald rebuild")


def sql(package: str | None, name: str) -> LiteralString:
    """Return the statement in the file `sql/{name}.sql` of a package."""
    assert package is not None
    return files(package).joinpath(f"sql/{name}.sql").read_text()


_LOG: Final = structlog.get_logger(__name__)

_TEMPORARY_TABLES: Final = sql(__package__, "temporary_tables")


async def prepare(connection: AsyncConnection) -> None:
    """Make it a session of the ledger.

    What a batch touches is looked up row by row, whatever the planner thinks of the sizes of tables.
    """
    await connection.execute("SET work_mem = '32MB'")
    for way in ("hashjoin", "mergejoin", "bitmapscan", "seqscan"):
        await connection.execute(SQL("SET {} = off").format(Identifier(f"enable_{way}")))
    await connection.execute(_TEMPORARY_TABLES)


async def copy(cursor: AsyncCursor, table: LiteralString, copied: Rows) -> None:
    """Append rows to a table."""
    if copied.n:
        async with cursor.copy("COPY " + table + " FROM STDIN (FORMAT BINARY)") as writing:
            await writing.write(copied.data)


async def arrays(
    cursor: AsyncCursor,
    statement: LiteralString,
    columns: Sequence[tuple[str, str]],
    parameters: Mapping[str, int] | None = None,
) -> NDArray[np.void]:
    """The arrays of a statement's one row, side by side; `_us`: microseconds since the Unix epoch."""
    await cursor.execute(statement, parameters, binary=True)
    result: Any = cursor.pgresult
    read = [rows.array(result.get_value(0, number), kind) for number, (_, kind) in enumerate(columns)]
    found = np.empty(len(read[0]), [(name, "i8" if name.endswith("_us") else kind) for name, kind in columns])
    for (name, _), values in zip(columns, read, strict=True):
        found[name] = rows.unix_us(values) if name.endswith("_us") else values
    return found


def pieces(cursor: AsyncCursor, column: int, lengths: NDArray[np.int32]) -> list[bytes]:
    """The values of so many bytes that stand one behind the other in a column of a statement's one row."""
    result: Any = cursor.pgresult
    data = result.get_value(0, column) or b""
    ends = np.cumsum(lengths).tolist()
    return [data[start:end] for start, end in pairwise([0, *ends])]
