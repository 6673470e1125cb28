"""Storage of freezes. A writer holds the experiment's row of `publications`."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.access.tables import api_keys
from app.allocation import limits
from app.allocation.freezes import Cause, Freeze
from app.allocation.tables import freezes
from app.assignment.snapshot import PublishedContextual, PublishedSegments

ByContext = PublishedContextual | PublishedSegments | None

_PASSED: Final = "all its causes have passed"


class Held(msgspec.Struct, frozen=True):
    """The posterior or weights that a frozen contextual policy decides by, and their epoch."""

    epoch: int
    contextual: PublishedContextual | None = None
    segmented: PublishedSegments | None = None

    @classmethod
    def of(cls, epoch: int, by_context: ByContext) -> "Held":
        """Return the form in which it is stored."""
        if isinstance(by_context, PublishedSegments):
            return cls(epoch, segmented=by_context)
        return cls(epoch, contextual=by_context)

    @property
    def by_context(self) -> ByContext:
        """None for policies that read none."""
        return self.segmented or self.contextual


async def read_freezes(connection: AsyncConnection, experiment_id: int) -> list[Freeze]:
    """Return the newest `FREEZES_SHOWN` freezes of an experiment, the newest first."""
    statement = select(freezes).where(freezes.c.experiment_id == experiment_id)
    newest = statement.order_by(freezes.c.id.desc()).limit(limits.FREEZES_SHOWN)
    return [_freeze(row) for row in await connection.execute(newest)]


async def read_freeze(connection: AsyncConnection, experiment_id: int) -> Freeze | None:
    """Return the freeze in force, if any."""
    row = (await connection.execute(_lasting(experiment_id))).one_or_none()
    return None if row is None else _freeze(row)


async def read_held(connection: AsyncConnection, experiment_id: int) -> Held | None:
    """Return what the freeze in force holds, if any."""
    row = (await connection.execute(_lasting(experiment_id))).one_or_none()
    return None if row is None else msgspec.msgpack.decode(row.held, type=Held)


async def begin(connection: AsyncConnection, experiment_id: int, causes: Sequence[Cause], held: Held) -> None:
    """Begin a freeze."""
    row = {"experiment_id": experiment_id, "causes": msgspec.to_builtins(causes)}
    await connection.execute(insert(freezes).values(**row, held=msgspec.msgpack.encode(held)))


async def hold(connection: AsyncConnection, experiment_id: int, held: Held) -> None:
    """Let the freeze that lasts hold something else."""
    await connection.execute(_change(experiment_id).values(held=msgspec.msgpack.encode(held)))


async def name_causes(connection: AsyncConnection, experiment_id: int, causes: Sequence[Cause]) -> None:
    """Replace the causes of the freeze that lasts."""
    await connection.execute(_change(experiment_id).values(causes=msgspec.to_builtins(causes)))


async def lift(
    connection: AsyncConnection, experiment_id: int, *, key_id: int | None = None, reason: str = _PASSED
) -> None:
    """End the freeze that lasts; `key_id`: of the API key that overrides it."""
    name = select(api_keys.c.name).where(api_keys.c.id == key_id).scalar_subquery()
    by = None if key_id is None else func.coalesce(name, f"key {key_id}")
    ended = {"lifted_at": func.clock_timestamp(), "lifted_by": by, "reason": reason}
    await connection.execute(_change(experiment_id).values(**ended))


def _lasting(experiment_id: int) -> Any:
    mine = freezes.c.experiment_id == experiment_id
    return select(freezes).where(mine, freezes.c.lifted_at.is_(None))


def _change(experiment_id: int) -> Any:
    mine = freezes.c.experiment_id == experiment_id
    return update(freezes).where(mine, freezes.c.lifted_at.is_(None))


def _freeze(row: Row[Any]) -> Freeze:
    causes = msgspec.convert(row.causes, tuple[Cause, ...])
    return Freeze(
        since=row.since, causes=causes, lifted_at=row.lifted_at, lifted_by=row.lifted_by, reason=row.reason
    )
