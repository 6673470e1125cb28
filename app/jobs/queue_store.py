"""Rows of a table as jobs that workers claim, lease and settle.

The table belongs to another room. It has the columns `id`, `step` (in the schedule of retries),
`attempts` (begun, ever), `next_attempt_at` (null once no attempt will be made), `leased_until` and
a lane. The number of the attempt fences the result: a worker whose lease another one took over
settles nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any, Final, NamedTuple

from sqlalchemy import Table, and_, bindparam, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

_CLAIM: Final = files(__package__).joinpath("sql/claim.sql").read_text()


class Claimed(NamedTuple):
    """A leased job. `attempt` counts from 1."""

    id: Any
    attempt: int


class JobQueue:
    """Jobs in `table`, in lanes that take turns.

    `lanes` is a SELECT of the open lanes and of how many of their jobs may be leased at a time; its
    parameters are given to `claim`. Due jobs are taken in the order `order_in_lane` of each lane,
    and then in the `order` of all: each is a list of columns with an optional DESC.
    """

    def __init__(self, table: Table, *, lane: str, lanes: str, order_in_lane: str, order: str) -> None:
        columns = {part.split()[0] for part in f"{order_in_lane}, {order}".split(", ")}
        self._table = table
        self._claim = text(
            _CLAIM.format(
                table=table.name,
                lane=lane,
                lanes=lanes,
                order_columns=", ".join(f"j.{column}" for column in sorted(columns)),
                order_in_lane=_prefixed("j", order_in_lane),
                order=_prefixed("picked", order),
            )
        )

    async def claim(
        self,
        connection: AsyncConnection,
        *,
        now: datetime,
        lease_s: float,
        claims_max: int,
        lanes: Mapping[str, Any],
    ) -> list[Claimed]:
        """Claim due jobs. No other worker gets them for `lease_s` seconds."""
        until = now + timedelta(seconds=lease_s)
        parameters = {"now": now, "until": until, "claims_max": claims_max, **lanes}
        rows = await connection.execute(self._claim, parameters)
        return [Claimed(row.id, row.attempt) for row in rows]

    async def renew(self, connection: AsyncConnection, jobs: Sequence[Claimed], until: datetime) -> None:
        """Lengthen the leases that are still ours."""
        if jobs:
            await connection.execute(update(self._table).where(self._fenced(jobs)).values(leased_until=until))

    async def lock(self, connection: AsyncConnection, jobs: Sequence[Claimed]) -> set[Any]:
        """Lock claimed jobs in the order of their ids; return the ids of those still ours."""
        if not jobs:
            return set()
        column = self._table.c.id
        statement = select(column).where(self._fenced(jobs)).order_by(column).with_for_update()
        return set((await connection.scalars(statement)).all())

    async def settle(self, connection: AsyncConnection, rows: Iterable[Mapping[str, Any]]) -> None:
        """Store the states of locked jobs after their attempts, and end their leases.

        Each row has `id`, `next_attempt_at` and the same further columns.
        """
        settled = [{"leased_until": None, **row} for row in rows]
        if not settled:
            return
        values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in settled[0] if name != "id"}
        statement = update(self._table).where(self._table.c.id == bindparam("job")).values(values)
        await connection.execute(
            statement,
            [{"job": row["id"]} | {f"new_{name}": row[name] for name in values} for row in settled],
        )

    def _fenced(self, jobs: Sequence[Claimed]) -> Any:
        columns = self._table.c
        ours = tuple_(columns.id, columns.attempts).in_([tuple(job) for job in jobs])
        return and_(ours, columns.leased_until.is_not(None))


def _prefixed(table: str, order: str) -> str:
    return ", ".join(f"{table}.{part}" for part in order.split(", "))
