"""Use cases of access: make, list and revoke keys, rotate signing secrets, and tell the servers."""

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec
import structlog

from app.access import limits
from app.access.model import SCOPES, AccessSnapshot, KeyKind, Scope, StoredKey, digest, hint, plaintext
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
"""The name of keys that the environment preset."""


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be made: of a kind, with all its scopes, or with the given ones.

    Without a kind it is a server's key, or an administrator's where `admin` is among the scopes.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.API_KEY_NAME_LENGTH_MAX)]
    kind: KeyKind | None = None
    scopes: frozenset[Scope] | None = None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class AccessService:
    """Every change is committed first and then published, so that servers hold it within a second.

    `on_change` is given what is in force after a change, before it is published: the server that makes a
    change knows it before it answers, also while Valkey is away.
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
        """The new key and its plaintext, which exists nowhere else.

        Raises InvalidInput for scopes beyond the kind's or an expiry that has passed; Conflict when there
        are `API_KEYS_MAX` keys that are not revoked, expired ones included.
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
        """All keys that are not revoked, oldest first."""
        return await self._store.keys()

    async def revoke(self, key_id: int) -> None:
        """Take a key out of force for good; doing it again is harmless.

        Raises NotFound; Unavailable when the servers cannot be told now (they are, once Valkey is back).
        """
        async with self._store.change() as connection:
            if not await self._store.revoke_key(connection, key_id):
                raise NotFound(f"no API key has the id {key_id}")
        await self.publish()

    async def ensure_admin_key(self, preset: str | None) -> str | None:
        """See to it that an administrator can get in; the plaintext of a key that had to be made.

        With `preset` that key is stored if it never was (once revoked it stays revoked) and None returned.
        Any number of processes may call this at once: one of them makes the key.
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
        """Store the admin key that WALD_ADMIN_KEY presets, unless it is or was there already.

        A preset that differs from an earlier one adds a key: the earlier one stays in force until it is
        revoked, so that a process with another environment cannot lock anybody out.
        """
        if await self._store.find_key(digest(preset)) is not None:
            return
        async with self._store.change() as connection:
            await self._insert_admin_key(connection, PRESET_NAME, preset)
        await self._publish_or_leave_it_due()

    async def has_admin_key(self) -> bool:
        """Whether some key in force has the scope `admin`."""
        return bool(await self._store.admin_keys())

    async def doubts(self, preset: str | None) -> tuple[str, ...]:
        """What an operator should know about admin keys, each with its fix. Empty: all is well."""
        keys = await self._store.admin_keys()
        found = []
        if not keys:
            found.append(NO_ADMIN_KEY)
        if preset is not None and digest(preset) not in keys.values():
            found.append(
                "the key in WALD_ADMIN_KEY was revoked, or lacks the scope admin: set another, or unset it"
            )
        presets = [key.id for key in keys if key.name == PRESET_NAME and keys[key] != digest(preset or "")]
        if preset is not None and presets:
            ids = ", ".join(map(str, presets))
            found.append(
                f"an earlier WALD_ADMIN_KEY is still in force, as key {ids}: `wald keys revoke ID` ends it"
            )
        return tuple(found)

    async def ensure_signing_key(self) -> None:
        """See to it that there is a secret to sign assignment ids with. Safe from several processes."""
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
        """Whether there is a secret to sign assignment ids with."""
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
        """Sign with a new secret from now on, and return its id; ids signed with older ones stay good.

        Servers verify with it at once and sign with it `ACCESS_PROPAGATION_MS` later, so that no server
        meets a signature it cannot check. Raises Conflict when all 255 ids are in use.
        """
        async with self._store.change() as connection:
            key_id = _free_id(*await self._store.signing_key_ids(connection))
            await self._store.put_signing_key(connection, key_id, _secret(), self._clock.now())
        await self._publish_or_leave_it_due()
        return key_id

    async def retire_signing_key(self, key_id: int) -> None:
        """Refuse the signatures of an older secret for good; doing it again is harmless.

        Raises NotFound; Conflict for the one that signs; Unavailable when the servers cannot be told now.
        """
        async with self._store.change() as connection:
            verifying, retired = await self._store.signing_key_ids(connection)
            if key_id not in verifying and key_id not in retired:
                raise NotFound(f"no signing key has the id {key_id}")
            if verifying[0] == key_id:
                raise Conflict(f"signing key {key_id} is the one that signs: rotate first")
            if key_id in verifying:
                await self._store.retire_signing_key(connection, key_id)
        await self.publish()

    async def end_session(self, session: bytes, ends_at: datetime) -> None:
        """Refuse a session of the pages from now on, on every server, by the digest of its token."""
        await self._store.end_session(session, ends_at)

    async def session_ended(self, session: bytes) -> bool:
        """Whether the session of this digest was signed out."""
        return await self._store.session_ended(session)

    async def publish(self) -> None:
        """Give all servers what is in force. Raises Unavailable without Valkey."""
        snapshot = await self._store.snapshot()
        self._on_change(snapshot)
        await self._store.publish(snapshot)

    async def publish_if_due(self) -> bool:
        """Publish what Valkey was away for or has lost; whether there was something.

        PostgreSQL is the truth: when it was put back to an earlier backup, servers go back with it.
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
        except Exception as error:  # noqa: BLE001 - the change is committed; its caller must hear of it
            _LOG.warning("access_left_to_worker", reason=repr(error))


def _kind_and_scopes(request: KeyRequest) -> tuple[KeyKind, frozenset[Scope]]:
    if request.kind is None and not request.scopes:
        raise InvalidInput("name a kind (cli, srv, adm) or some scopes", field="kind")
    asked = request.scopes or frozenset()
    kind = request.kind or (KeyKind.ADMIN if Scope.ADMIN in asked else KeyKind.SERVER)
    if request.scopes is not None and not asked:
        raise InvalidInput("must not be empty", field="scopes")
    if beyond := asked - SCOPES[kind]:
        raise InvalidInput(f"a key of kind {kind} cannot have {', '.join(sorted(beyond))}", field="scopes")
    return kind, asked or SCOPES[kind]


def _secret() -> bytes:
    return secrets.token_bytes(16)


def _free_id(verifying: Sequence[int], retired: Sequence[int]) -> int:
    """An id that was never used, or else the one that was retired longest ago."""
    unused = (key_id for key_id in range(1, 256) if key_id not in verifying and key_id not in retired)
    key_id = next(unused, None) or next(iter(retired), None)
    if key_id is None:
        raise Conflict("all 255 signing keys are in use: retire one first")
    return key_id
