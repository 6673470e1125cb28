"""Judge versions in PostgreSQL: definitions, trust with its history, and breakers."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core import locks
from app.core.choices import nearest
from app.core.errors import Conflict, NotFound
from app.core.text import is_key
from app.judging import limits
from app.judging.breaker import Breaker
from app.judging.judges.model import JudgeVersion, VersionHash, version_hash
from app.judging.model import StoredVersion
from app.judging.tables import judge_transitions, judge_versions
from app.judging.trust import Event, Trust

ServesArm = Literal["refused", "intended"]

_C: Final = judge_versions.c
PREFIX_LENGTH_MIN: Final = 6
"""Length of the shortest beginning of a hash that names a version."""


class Transition(msgspec.Struct, frozen=True):
    """A change of the trust in a version, with the evidence that it was based on."""

    event: Event
    before: Trust
    after: Trust
    at: datetime
    reason: str
    evidence: Any


class RegistryStore:
    """SQL of judge versions.

    Methods that take a connection are parts of a transaction of `change`.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def change(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction."""
        async with self._engine.begin() as connection:
            yield connection

    async def register(
        self, version: JudgeVersion, serves_arm: ServesArm, at: datetime
    ) -> tuple[StoredVersion, bool]:
        """Store a version in shadow; return it, and whether it is new.

        Of a version that is known only `operation` and `serves_arm` are replaced. Raises Conflict
        when there are too many.
        """
        definition = msgspec.to_builtins(version)
        async with self._engine.begin() as connection:
            await connection.execute(locks.transaction_lock(locks.JUDGE_CREATION))
            known = await _find(connection, _C.hash == version_hash(version))
            if known is not None:
                statement = update(judge_versions).where(_C.hash == known.hash)
                values = {"definition": definition, "serves_arm": serves_arm}
                row = (await connection.execute(statement.values(values).returning(judge_versions))).one()
                return version_of(row), False
            await _check_room(connection, version.name)
            new = insert(judge_versions).values(
                hash=version_hash(version),
                name=version.name,
                definition=definition,
                serves_arm=serves_arm,
                trust_since=at,
                created_at=at,
            )
            row = (await connection.execute(new.returning(judge_versions))).one()
            return version_of(row), True

    async def all(self) -> list[StoredVersion]:
        """Return all versions, by name, the newest first."""
        statement = select(judge_versions).order_by(_C.name, _C.created_at.desc(), _C.hash)
        async with self._engine.connect() as connection:
            return [version_of(row) for row in await connection.execute(statement)]

    async def versions(self, name: str) -> list[StoredVersion]:
        """Return the versions of a judge, the newest first. Raises NotFound if there is none."""
        if not is_key(name):
            raise NotFound("this cannot be the name of a judge", field="judge")
        statement = select(judge_versions).where(_C.name == name).order_by(_C.created_at.desc(), _C.hash)
        async with self._engine.connect() as connection:
            versions = [version_of(row) for row in await connection.execute(statement)]
            if versions:
                return versions
            names = (await connection.scalars(select(_C.name).distinct())).all()
        near = nearest(name, names)
        hint = "" if near is None else f"; did you mean {near!r}?"
        raise NotFound(f"no judge is called {name!r}{hint}", field="judge")

    async def version(self, name: str, prefix: str | None = None) -> StoredVersion:
        """Return the version whose hash begins with `prefix`; null: the newest.

        Raises NotFound; Conflict if several versions begin like that.
        """
        versions = await self.versions(name)
        if prefix is None:
            return versions[0]
        short = len(prefix) < PREFIX_LENGTH_MIN
        matching = [] if short else [version for version in versions if version.hash.startswith(prefix)]
        if len(matching) == 1:
            return matching[0]
        known = ", ".join(version.hash[:12] for version in versions[:5])
        if matching:
            raise Conflict(f"several versions of {name} begin with {prefix!r}: give more characters")
        raise NotFound(
            f"no version of {name} begins with {prefix!r}; the newest are {known}", field="version"
        )

    async def by_hash(self, hashes: Sequence[str]) -> dict[VersionHash, StoredVersion]:
        """Return the versions with these hashes."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(judge_versions).where(_C.hash.in_(hashes)))
            return {VersionHash(row.hash): version_of(row) for row in rows}

    async def lock_judge(self, connection: AsyncConnection, name: str) -> dict[VersionHash, StoredVersion]:
        """Lock all versions of a judge, in the order of their hashes, and return them."""
        statement = select(judge_versions).where(_C.name == name).order_by(_C.hash).with_for_update()
        rows = await connection.execute(statement)
        return {VersionHash(row.hash): version_of(row) for row in rows}

    async def set_trust(
        self, connection: AsyncConnection, version: VersionHash, transition: Transition
    ) -> None:
        """Store a change of trust. The version is locked."""
        await connection.execute(
            update(judge_versions)
            .where(_C.hash == version)
            .values(trust=transition.after, trust_since=transition.at, trust_reason=transition.reason)
        )
        await connection.execute(
            insert(judge_transitions).values(
                version_hash=version,
                event=transition.event,
                before=transition.before,
                after=transition.after,
                at=transition.at,
                reason=transition.reason,
                evidence=msgspec.to_builtins(transition.evidence),
            )
        )

    async def history(self, version: VersionHash) -> list[Transition]:
        """Return the last changes of trust, the newest first."""
        columns = judge_transitions.c
        statement = select(judge_transitions).where(columns.version_hash == version)
        statement = statement.order_by(columns.id.desc()).limit(limits.HISTORY_MAX)
        async with self._engine.connect() as connection:
            rows = await connection.execute(statement)
            return [
                Transition(
                    Event(row.event), Trust(row.before), Trust(row.after), row.at, row.reason, row.evidence
                )
                for row in rows
            ]

    async def set_breaker(self, version: VersionHash, breaker: Breaker) -> None:
        """Store the state of a breaker."""
        async with self._engine.begin() as connection:
            values = {"breaker": msgspec.to_builtins(breaker)}
            await connection.execute(update(judge_versions).where(_C.hash == version).values(values))

    async def set_learned(self, version: VersionHash, learned: Mapping[str, Any]) -> None:
        """Store what calls taught about a version."""
        async with self._engine.begin() as connection:
            values = {"learned": dict(learned)}
            await connection.execute(update(judge_versions).where(_C.hash == version).values(values))


async def _check_room(connection: AsyncConnection, name: str) -> None:
    names = (await connection.scalars(select(_C.name))).all()
    if names.count(name) >= limits.JUDGE_VERSIONS_MAX:
        raise Conflict(f"{name} has {limits.JUDGE_VERSIONS_MAX} versions already: use another name")
    if name not in names and len(set(names)) >= limits.JUDGES_MAX:
        raise Conflict(f"there are {limits.JUDGES_MAX} judges already")


async def _find(connection: AsyncConnection, chosen: Any) -> Row[Any] | None:
    row: Row[Any] | None = (
        await connection.execute(select(judge_versions).where(chosen).with_for_update())
    ).one_or_none()
    return row


def version_of(row: Row[Any]) -> StoredVersion:
    """Return the version of a row that holds all columns of `judge_versions`."""
    return StoredVersion(
        hash=VersionHash(row.hash),
        name=row.name,
        version=msgspec.convert(row.definition, JudgeVersion),
        serves_arm=row.serves_arm,
        trust=Trust(row.trust),
        trust_since=row.trust_since,
        trust_reason=row.trust_reason,
        breaker=msgspec.convert(row.breaker, Breaker),
        learned=row.learned,
        created_at=row.created_at,
    )
