"""The ledger's session: its settings, and the functions with which steps copy and read rows."""

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
    """Count and log totals that cannot be read, for example after manual edits.

    They must not stop the ledger; `wald rebuild` repairs them.
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
    """Prepare a connection for the ledger's statements.

    The planner must look up the rows of a batch one by one, whatever it assumes about table sizes.
    """
    await connection.execute("SET work_mem = '32MB'")
    for method in ("hashjoin", "mergejoin", "bitmapscan", "seqscan"):
        await connection.execute(SQL("SET {} = off").format(Identifier(f"enable_{method}")))
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
    """Return the arrays of a statement's only row, side by side.

    Columns that end in `_us` are converted to microseconds since the Unix epoch.
    """
    await cursor.execute(statement, parameters, binary=True)
    result: Any = cursor.pgresult
    values_by_column = [
        rows.array(result.get_value(0, number), kind) for number, (_, kind) in enumerate(columns)
    ]
    table = np.empty(
        len(values_by_column[0]), [(name, "i8" if name.endswith("_us") else kind) for name, kind in columns]
    )
    for (name, _), values in zip(columns, values_by_column, strict=True):
        table[name] = rows.unix_us(values) if name.endswith("_us") else values
    return table


def pieces(cursor: AsyncCursor, column: int, lengths: NDArray[np.int32]) -> list[bytes]:
    """Split a column of a statement's only row, which holds values of these lengths one after another."""
    result: Any = cursor.pgresult
    data = result.get_value(0, column) or b""
    ends = np.cumsum(lengths).tolist()
    return [data[start:end] for start, end in pairwise([0, *ends])]
