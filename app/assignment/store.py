"""What assignment reads of Valkey: what was published, and the first draws of strict stickiness."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, cast

import hiredis
from redis.asyncio import Redis

from app.access import store as access_store
from app.access.model import AccessSnapshot
from app.assignment import limits
from app.core.errors import Unavailable
from app.core.multiplex import MultiplexedConnection
from app.core.valkey import KEY_PREFIX, registry_key

_EXPERIMENTS: Final = registry_key("experiments")
_VERSIONS: Final = registry_key("versions")
_REVISION: Final = registry_key("revision")

WHOLE_KEY: Final = registry_key("whole")
"""The mark that everything which servers load is published; absent in a Valkey that was emptied."""
REFILLED_ANNOUNCEMENT: Final = "@refilled"
"""On the channel of changes: the mark has been set."""

KILLED_KEY: Final = registry_key("killed")
"""Hash: experiment key -> who killed it, why and when, as long as that is not recorded and published."""
KILLED_ANNOUNCEMENT: Final = "@killed"
"""On the channel of changes: the hash has changed."""


class RegistryState(NamedTuple):
    """State of what servers load.

    `revision` grows with every publication; None when Valkey has lost everything. `mark` is set
    once all is published, to another value after each loss. `kills` are those since what was
    published.
    """

    revision: int | None
    mark: bytes | None
    kills: dict[str, bytes]


class RegistryStore:
    """What servers load. Raises what the client raises."""

    def __init__(self, valkey: Redis) -> None:
        self._valkey = valkey

    async def state(self) -> RegistryState:
        """Return what tells whether something has changed, in one round trip."""
        asked = self._valkey.pipeline(transaction=False)
        asked.get(_REVISION)
        asked.get(WHOLE_KEY)
        asked.hgetall(KILLED_KEY)
        revision, mark, kills = cast(
            "tuple[bytes | None, bytes | None, dict[bytes, bytes]]", await asked.execute()
        )
        named = {key.decode(): kill for key, kill in kills.items()}
        return RegistryState(None if revision is None else int(revision), mark, named)

    async def mark(self) -> bytes | None:
        """Return the mark that all is published; None while Valkey is empty or being refilled."""
        return cast("bytes | None", await self._valkey.get(WHOLE_KEY))

    async def put_back(self, kills: Mapping[str, bytes]) -> None:
        """Kills that a Valkey which lost everything has forgotten. One that came since stays."""
        for key, kill in kills.items():
            await self._valkey.hsetnx(KILLED_KEY, key, kill.decode())

    async def versions(self) -> dict[str, int]:
        """Return the version of each published experiment, by its key."""
        found = cast("dict[bytes, bytes]", await self._valkey.hgetall(_VERSIONS))
        return {key.decode(): int(version) for key, version in found.items()}

    async def experiments(self, keys: Sequence[str]) -> list[bytes]:
        """Return those of them that are there, encoded."""
        found: list[bytes] = []
        for start in range(0, len(keys), limits.SNAPSHOT_LOAD_MAX):
            some = list(keys[start : start + limits.SNAPSHOT_LOAD_MAX])
            values = cast("list[bytes | None]", await self._valkey.hmget(_EXPERIMENTS, some))
            found += [value for value in values if value is not None]
        return found

    async def access_revision(self) -> int | None:
        """Return the revision of the keys in force; None when Valkey has lost them."""
        return await access_store.load_revision(self._valkey)

    async def access(self) -> AccessSnapshot | None:
        """Return keys in force; None when Valkey has lost them."""
        return await access_store.load(self._valkey)


class StickyStore:
    """The first assignment of each unit, kept until its horizon."""

    def __init__(self, connection: MultiplexedConnection) -> None:
        self._connection = connection

    async def first(self, experiment_id: int, unit_hash: int, body: bytes, *, expiry_s: float) -> bytes:
        """The body kept for this unit: `body` if there was none. Asking twice gives the same answer.

        Raises Unavailable.
        """
        key = f"{KEY_PREFIX}:{{{experiment_id}:{unit_hash}}}:sticky"
        expiry_ms = max(1, round(expiry_s * 1_000))
        try:
            kept = await self._connection.ask("SET", key, body, "NX", "GET", "PX", expiry_ms)
        except hiredis.ReplyError as error:
            raise Unavailable(f"Valkey: {error}") from error
        return body if kept is None else cast("bytes", kept)
