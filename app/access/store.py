"""Storage of keys and secrets in PostgreSQL, and of what servers load of them in Valkey."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from enum import IntEnum
from importlib.resources import files
from typing import Final, cast

import msgspec
from redis.asyncio import Redis
from sqlalchemy import Row, delete, exists, func, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.access.model import AccessSnapshot, ApiKey, KeyKind, Scope, SigningKey, StoredKey
from app.access.tables import access_changes, api_keys, ended_sessions, signing_keys
from app.core.valkey import CHANGES_CHANNEL, registry_key, valkey_needed

ANNOUNCEMENT: Final = "@access"
"""Message on the channel of changes."""

_PUBLISH_ACCESS: Final = files(__package__).joinpath("lua/publish_access.lua").read_text()
_ACCESS_KEY: Final = registry_key("access")
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(AccessSnapshot).decode

_IDS: Final = range(1, 2**31)
_NOT_REVOKED: Final = api_keys.c.revoked_at.is_(None)
_VERIFIES: Final = signing_keys.c.retired_at.is_(None)


class Publication(IntEnum):
    """Result code of `publish_access.lua`."""

    REFUSED = -1
    KEPT_NEWER = 0
    PUBLISHED = 1


class AccessStore:
    """SQL and Lua of access. Methods that write take the connection of `change`."""

    def __init__(self, engine: AsyncEngine, valkey: Redis) -> None:
        self._engine = engine
        self._valkey = valkey
        self._publish_access = valkey.register_script(_PUBLISH_ACCESS)

    @asynccontextmanager
    async def change(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that makes a new revision of access. These transactions take turns."""
        statement = postgresql.insert(access_changes).values(id=1, revision=1)
        statement = statement.on_conflict_do_update(
            index_elements=[access_changes.c.id], set_={"revision": access_changes.c.revision + 1}
        )
        async with self._engine.begin() as connection:
            await connection.execute(statement)
            yield connection

    async def insert_key(
        self,
        connection: AsyncConnection,
        *,
        name: str,
        kind: KeyKind,
        scopes: frozenset[Scope],
        digest: bytes,
        hint: str,
        expires_at: datetime | None,
    ) -> StoredKey | None:
        """Store a key and return it; None if the same key is stored already, even revoked."""
        statement = (
            postgresql.insert(api_keys)
            .values(
                name=name,
                kind=kind,
                scopes=sorted(scopes),
                digest=digest,
                hint=hint,
                expires_at=expires_at,
            )
            .on_conflict_do_nothing(index_elements=[api_keys.c.digest])
            .returning(api_keys)
        )
        row = (await connection.execute(statement)).one_or_none()
        return None if row is None else _stored_key(row)

    async def count_keys(self, connection: AsyncConnection) -> int:
        """Count the keys that are not revoked."""
        statement = select(func.count()).where(_NOT_REVOKED)
        return int((await connection.execute(statement)).scalar_one())

    async def has_key(self, connection: AsyncConnection, scope: Scope) -> bool:
        """Return whether any key in force has the scope."""
        lasting = func.coalesce(api_keys.c.expires_at > func.now(), True)
        statement = select(exists().where(_NOT_REVOKED, lasting, api_keys.c.scopes.contains([scope])))
        return bool((await connection.execute(statement)).scalar_one())

    async def admin_keys(self) -> dict[StoredKey, bytes]:
        """Return the keys in force with the scope `admin`, oldest first, with their digests."""
        lasting = func.coalesce(api_keys.c.expires_at > func.now(), True)
        statement = select(api_keys).where(_NOT_REVOKED, lasting, api_keys.c.scopes.contains([Scope.ADMIN]))
        async with self._engine.connect() as connection:
            rows = await connection.execute(statement.order_by(api_keys.c.id))
            return {_stored_key(row): row.digest for row in rows}

    async def find_key(self, digest: bytes) -> int | None:
        """Return the id of the key with this digest, even if revoked; None if it never existed."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(api_keys.c.id).where(api_keys.c.digest == digest))
            return rows.scalar_one_or_none()

    async def has_signing_key(self) -> bool:
        """Return whether any secret signs."""
        async with self._engine.connect() as connection:
            return bool((await connection.execute(select(exists().where(_VERIFIES)))).scalar_one())

    async def keys(self) -> list[StoredKey]:
        """Return the keys that are not revoked, oldest first."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(api_keys).where(_NOT_REVOKED).order_by(api_keys.c.id))
            return [_stored_key(row) for row in rows]

    async def revoke_key(self, connection: AsyncConnection, key_id: int) -> bool:
        """Revoke a key, and return whether it exists. A second call changes nothing."""
        if key_id not in _IDS:
            return False
        statement = (
            update(api_keys)
            .where(api_keys.c.id == key_id)
            .values(revoked_at=func.coalesce(api_keys.c.revoked_at, func.now()))
        )
        return (await connection.execute(statement)).rowcount == 1

    async def signing_key_ids(self, connection: AsyncConnection) -> tuple[list[int], list[int]]:
        """Return the ids of keys that verify, newest first, and of retired keys, oldest first."""
        verifying = select(signing_keys.c.id).where(_VERIFIES)
        retired = select(signing_keys.c.id).where(~_VERIFIES).order_by(signing_keys.c.retired_at)
        newest_first = verifying.order_by(signing_keys.c.created_at.desc(), signing_keys.c.id.desc())
        return (
            list((await connection.execute(newest_first)).scalars()),
            list((await connection.execute(retired)).scalars()),
        )

    async def put_signing_key(
        self, connection: AsyncConnection, key_id: int, secret: bytes, at: datetime
    ) -> None:
        """Store a secret under an id that is unused or retired."""
        fresh = {"secret": secret, "created_at": at, "retired_at": None}
        statement = postgresql.insert(signing_keys).values(id=key_id, **fresh)
        await connection.execute(
            statement.on_conflict_do_update(index_elements=[signing_keys.c.id], set_=fresh, where=~_VERIFIES)
        )

    async def retire_signing_key(self, connection: AsyncConnection, key_id: int) -> None:
        """Refuse the signatures of a key from the next revision on."""
        await connection.execute(
            update(signing_keys).where(signing_keys.c.id == key_id).values(retired_at=func.clock_timestamp())
        )

    async def snapshot(self) -> AccessSnapshot:
        """Read what servers load, as of one revision."""
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            revision = (await connection.execute(select(access_changes.c.revision))).scalar_one_or_none()
            keys = await connection.execute(select(api_keys).where(_NOT_REVOKED).order_by(api_keys.c.id))
            secrets = await connection.execute(
                select(signing_keys)
                .where(_VERIFIES)
                .order_by(signing_keys.c.created_at.desc(), signing_keys.c.id.desc())
            )
            return AccessSnapshot(
                revision=revision or 0,
                api_keys=tuple(_api_key(row) for row in keys),
                signing_keys=tuple(
                    SigningKey(row.id, row.secret, _milliseconds(row.created_at)) for row in secrets
                ),
            )

    async def end_session(self, session: bytes, ends_at: datetime) -> None:
        """Store the digest of a session that was signed out; delete sessions that have expired."""
        async with self._engine.begin() as connection:
            await connection.execute(delete(ended_sessions).where(ended_sessions.c.ends_at < func.now()))
            await connection.execute(
                postgresql.insert(ended_sessions)
                .values(digest=session, ends_at=ends_at)
                .on_conflict_do_nothing()
            )

    async def session_ended(self, session: bytes) -> bool:
        """Return whether the session with this digest was signed out."""
        statement = select(exists().where(ended_sessions.c.digest == session))
        async with self._engine.connect() as connection:
            return bool((await connection.execute(statement)).scalar_one())

    async def publish(self, snapshot: AccessSnapshot) -> Publication:
        """Publish a snapshot unless a newer one is published. Raises Unavailable without Valkey."""
        with valkey_needed():
            answer = await self._publish_access(
                keys=[_ACCESS_KEY, registry_key("revision")],
                args=[snapshot.revision, _encode(snapshot), CHANGES_CHANNEL, ANNOUNCEMENT],
            )
        return Publication(answer)

    async def revision(self) -> int:
        """Return the number of changes so far; 0 in an empty database."""
        async with self._engine.connect() as connection:
            revision = (await connection.execute(select(access_changes.c.revision))).scalar_one_or_none()
            return revision or 0

    async def published_revision(self) -> int:
        """Return the revision that was published last; 0 if Valkey lost it."""
        with valkey_needed():
            return int(await self._valkey.hget(_ACCESS_KEY, "revision") or 0)

    async def unpublish(self) -> None:
        """Delete what is published. Servers keep what they have until the next publication."""
        with valkey_needed():
            await self._valkey.delete(_ACCESS_KEY)


async def load(valkey: Redis) -> AccessSnapshot | None:
    """Return the published snapshot; None if there is none."""
    body = await valkey.hget(_ACCESS_KEY, "body")
    return None if body is None else _decode(cast("bytes", body))


async def load_revision(valkey: Redis) -> int | None:
    """Return the revision of the published snapshot; None if there is none."""
    revision = await valkey.hget(_ACCESS_KEY, "revision")
    return None if revision is None else int(revision)


def _stored_key(row: Row[tuple[object, ...]]) -> StoredKey:
    return StoredKey(
        id=row.id,
        name=row.name,
        kind=KeyKind(row.kind),
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        hint=row.hint,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


def _api_key(row: Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(
        id=row.id,
        kind=KeyKind(row.kind),
        digest=row.digest,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        expires_at_ms=None if row.expires_at is None else _milliseconds(row.expires_at),
    )


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1_000)
