"""Use cases of access: create, list and revoke keys, rotate signing secrets, and publish them."""

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec
import structlog

from app.access import limits
from app.access.model import (
    NAMED_SCOPES,
    SCOPES,
    AccessSnapshot,
    KeyKind,
    Scope,
    StoredKey,
    digest,
    hint,
    plaintext,
)
from app.access.store import AccessStore
from app.core.clock import Clock
from app.core.errors import Conflict, InvalidInput, NotFound
from app.core.postgres import Transaction
from app.core.text import check_storable

_LOG = structlog.get_logger(__name__)

NO_ADMIN_KEY: Final = (
    "no API key has the scope admin: set WALD_ADMIN_KEY, or run `wald keys create NAME --kind adm`"
)
PRESET_NAME: Final = "preset by WALD_ADMIN_KEY"
"""Name of the keys that the environment presets."""


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request for a new key. Without `scopes` it gets those of its kind.

    Without `kind` it becomes a server key, or an administrator key if `scopes` contain `admin`.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.API_KEY_NAME_LENGTH_MAX)]
    kind: KeyKind | None = None
    scopes: frozenset[Scope] | None = None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class AccessService:
    """Use cases that commit a change first and then publish it; servers load it within a second.

    `on_change` gets the keys in force after a change, before they are published. So the server that
    makes a change knows it before it answers, even while Valkey is away.
    """

    def __init__(
        self,
        store: AccessStore,
        clock: Clock,
        on_change: Callable[[AccessSnapshot], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_change = on_change

    async def create(self, request: KeyRequest) -> tuple[StoredKey, str]:
        """Create a key, and return it with its plaintext, which is stored nowhere.

        Raises InvalidInput for scopes that the kind cannot have, or an expiry in the past. Raises
        Conflict at `API_KEYS_MAX` keys that are not revoked, expired keys included.
        """
        kind, scopes = _kind_and_scopes(request)
        check_storable(request.name, "name")
        if request.expires_at is not None and request.expires_at <= self._clock.now():
            raise InvalidInput("must be in the future", field="expires_at")
        key = plaintext(kind, secrets.token_bytes(32))
        async with self._store.change() as connection:
            if await self._store.count_keys(connection) >= limits.API_KEYS_MAX:
                raise Conflict(f"there are {limits.API_KEYS_MAX} API keys already: revoke one first")
            stored = await self._store.insert_key(
                connection,
                name=request.name,
                kind=kind,
                scopes=scopes,
                digest=digest(key),
                hint=hint(key),
                expires_at=request.expires_at,
            )
        assert stored is not None, "190 random bits do not repeat"
        await self._publish_or_leave_it_due()
        return stored, key

    async def list(self) -> list[StoredKey]:
        """Return all keys that are not revoked, oldest first."""
        return await self._store.keys()

    async def revoke(self, key_id: int) -> None:
        """Revoke a key for good. A second call is harmless.

        Raises NotFound; Unavailable while Valkey is away (the worker publishes the change later).
        """
        async with self._store.change() as connection:
            if not await self._store.revoke_key(connection, key_id):
                raise NotFound(f"no API key has the id {key_id}")
        await self.publish()

    async def ensure_admin_key(self, preset: str | None) -> str | None:
        """Ensure that an admin key exists, and return the plaintext of a key created for that.

        With `preset`, store that key unless it was stored before (a revoked key stays revoked), and
        return None. If several processes call this at once, one of them creates the key.
        """
        if preset is not None:
            await self.store_preset(preset)
            return None
        if await self.has_admin_key():
            return None
        key = plaintext(KeyKind.ADMIN, secrets.token_bytes(32))
        async with self._store.change() as connection:
            needed = not await self._store.has_key(connection, Scope.ADMIN)
            if needed:
                await self._insert_admin_key(connection, "first admin key", key)
        await self._publish_or_leave_it_due()
        return key if needed else None

    async def store_preset(self, preset: str) -> None:
        """Store the admin key of WALD_ADMIN_KEY unless it was stored before.

        A new preset adds a key. The earlier key stays in force until it is revoked, so a process
        with another environment cannot lock anyone out.
        """
        if await self._store.find_key(digest(preset)) is not None:
            return
        async with self._store.change() as connection:
            await self._insert_admin_key(connection, PRESET_NAME, preset)
        await self._publish_or_leave_it_due()

    async def has_admin_key(self) -> bool:
        """Return whether any key in force has the scope `admin`."""
        return bool(await self._store.admin_keys())

    async def doubts(self, preset: str | None) -> tuple[str, ...]:
        """Return problems with admin keys, each with its fix."""
        keys = await self._store.admin_keys()
        problems = []
        if not keys:
            problems.append(NO_ADMIN_KEY)
        if preset is not None and digest(preset) not in keys.values():
            problems.append(
                "the key in WALD_ADMIN_KEY is revoked or lacks the scope admin: set another key, or unset it"
            )
        presets = [key.id for key in keys if key.name == PRESET_NAME and keys[key] != digest(preset or "")]
        if preset is not None and presets:
            ids = ", ".join(map(str, presets))
            problems.append(
                f"an earlier WALD_ADMIN_KEY is still in force, as key {ids}: `wald keys revoke ID` ends it"
            )
        return tuple(problems)

    async def ensure_signing_key(self) -> None:
        """Ensure that a secret for assignment ids exists. Safe from several processes."""
        if await self._store.has_signing_key():
            return
        async with self._store.change() as connection:
            verifying, retired = await self._store.signing_key_ids(connection)
            if not verifying:
                await self._store.put_signing_key(
                    connection, _free_id(verifying, retired), _secret(), self._clock.now()
                )
        await self._publish_or_leave_it_due()

    async def has_signing_key(self) -> bool:
        """Return whether a secret for assignment ids exists."""
        return await self._store.has_signing_key()

    async def _insert_admin_key(self, connection: Transaction, name: str, key: str) -> None:
        await self._store.insert_key(
            connection,
            name=name,
            kind=KeyKind.ADMIN,
            scopes=SCOPES[KeyKind.ADMIN],
            digest=digest(key),
            hint=hint(key),
            expires_at=None,
        )

    async def rotate_signing_key(self) -> int:
        """Create a signing secret, and return its id. Older signatures stay valid.

        Servers verify with it at once and sign with it `ACCESS_PROPAGATION_MS` later, so every
        server can check each signature. Raises Conflict if all 255 ids are in use.
        """
        async with self._store.change() as connection:
            key_id = _free_id(*await self._store.signing_key_ids(connection))
            await self._store.put_signing_key(connection, key_id, _secret(), self._clock.now())
        await self._publish_or_leave_it_due()
        return key_id

    async def retire_signing_key(self, key_id: int) -> None:
        """Refuse the signatures of an older secret for good. A second call is harmless.

        Raises NotFound; Conflict for the secret that signs now; Unavailable while Valkey is away.
        """
        async with self._store.change() as connection:
            verifying, retired = await self._store.signing_key_ids(connection)
            if key_id not in verifying and key_id not in retired:
                raise NotFound(f"no signing key has the id {key_id}")
            if verifying[0] == key_id:
                raise Conflict(f"signing key {key_id} signs now: rotate first")
            if key_id in verifying:
                await self._store.retire_signing_key(connection, key_id)
        await self.publish()

    async def end_session(self, session: bytes, ends_at: datetime) -> None:
        """Refuse a session of the pages on every server, by the digest of its token."""
        await self._store.end_session(session, ends_at)

    async def session_ended(self, session: bytes) -> bool:
        """Return whether the session of this digest was signed out."""
        return await self._store.session_ended(session)

    async def publish(self) -> None:
        """Publish the keys in force to all servers. Raises Unavailable without Valkey."""
        snapshot = await self._store.snapshot()
        self._on_change(snapshot)
        await self._store.publish(snapshot)

    async def publish_if_due(self) -> bool:
        """Publish what Valkey missed or lost, and return whether there was anything to publish.

        PostgreSQL is the truth. If it is restored from an earlier backup, servers follow it.
        """
        published = await self._store.published_revision()
        revision = await self._store.revision()
        if published > revision:
            await self._store.unpublish()
        elif published == revision:
            return False
        await self.publish()
        return True

    async def _publish_or_leave_it_due(self) -> None:
        try:
            await self.publish()
        except Exception as error:  # noqa: BLE001 - the change is committed and must be returned
            _LOG.warning("access_left_to_worker", reason=repr(error))


def _kind_and_scopes(request: KeyRequest) -> tuple[KeyKind, frozenset[Scope]]:
    if request.kind is None and not request.scopes:
        raise InvalidInput("name a kind (cli, srv, adm) or some scopes", field="kind")
    asked = request.scopes or frozenset()
    kind = request.kind or (KeyKind.ADMIN if Scope.ADMIN in asked else KeyKind.SERVER)
    if request.scopes is not None and not asked:
        raise InvalidInput("must not be empty", field="scopes")
    if beyond := asked - SCOPES[kind] - NAMED_SCOPES.get(kind, frozenset()):
        raise InvalidInput(f"a key of kind {kind} cannot have {', '.join(sorted(beyond))}", field="scopes")
    return kind, asked or SCOPES[kind]


def _secret() -> bytes:
    return secrets.token_bytes(16)


def _free_id(verifying: Sequence[int], retired: Sequence[int]) -> int:
    """Return an unused id, or else the id that was retired longest ago."""
    unused = (key_id for key_id in range(1, 256) if key_id not in verifying and key_id not in retired)
    key_id = next(unused, None) or next(iter(retired), None)
    if key_id is None:
        raise Conflict("all 255 signing keys are in use: retire one first")
    return key_id
