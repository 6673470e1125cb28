"""Valkey for assignment: what is published, and the first draws of strict stickiness."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, cast

import hiredis
from redis.asyncio import Redis

from app.assignment import limits
from app.core.errors import Unavailable
from app.core.multiplex import MultiplexedConnection
from app.core.valkey import KEY_PREFIX, registry_key

_EXPERIMENTS: Final = registry_key("experiments")
_VERSIONS: Final = registry_key("versions")
_REVISION: Final = registry_key("revision")

WHOLE_KEY: Final = registry_key("whole")
"""Mark that everything is published. A Valkey that was emptied lacks it."""
REFILLED_ANNOUNCEMENT: Final = "@refilled"
"""Message on the channel of changes: the mark is set."""

KILLED_KEY: Final = registry_key("killed")
"""Hash of experiment key -> encoded kill, until the kill is recorded and published."""
KILLED_ANNOUNCEMENT: Final = "@killed"
"""Message on the channel of changes: the hash has changed."""


class RegistryState(NamedTuple):
    """State of what servers load.

    `revision` grows with every publication; it is None if Valkey has lost everything. `mark` is set
    once everything is published, to another value after each loss. `kills` are not published yet.
    """

    revision: int | None
    mark: bytes | None
    kills: dict[str, bytes]


class RegistryStore:
    """Reader of what servers load. Raises what the client raises."""

    def __init__(self, valkey: Redis) -> None:
        self._valkey = valkey

    async def state(self) -> RegistryState:
        """Read the state in one round trip. It changes whenever anything changes."""
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
        """Return the mark; None while Valkey is empty or being refilled."""
        return cast("bytes | None", await self._valkey.get(WHOLE_KEY))

    async def put_back(self, kills: Mapping[str, bytes]) -> None:
        """Store kills that an emptied Valkey has lost. Newer kills stay."""
        for key, kill in kills.items():
            await self._valkey.hsetnx(KILLED_KEY, key, kill.decode())

    async def versions(self) -> dict[str, int]:
        """Return the version of each published experiment, by its key."""
        versions = cast("dict[bytes, bytes]", await self._valkey.hgetall(_VERSIONS))
        return {key.decode(): int(version) for key, version in versions.items()}

    async def experiments(self, keys: Sequence[str]) -> list[bytes]:
        """Return the encoded experiments with these keys, as far as they exist."""
        bodies: list[bytes] = []
        for start in range(0, len(keys), limits.SNAPSHOT_LOAD_MAX):
            some = list(keys[start : start + limits.SNAPSHOT_LOAD_MAX])
            values = cast("list[bytes | None]", await self._valkey.hmget(_EXPERIMENTS, some))
            bodies += [value for value in values if value is not None]
        return bodies


class StickyStore:
    """Store of the first assignment of each unit, until its horizon."""

    def __init__(self, connection: MultiplexedConnection) -> None:
        self._connection = connection

    async def first(self, experiment_id: int, unit_hash: int, body: bytes, *, expiry_s: float) -> bytes:
        """Store `body` unless the unit has a stored body; return the stored one. Idempotent.

        Raises Unavailable.
        """
        key = f"{KEY_PREFIX}:{{{experiment_id}:{unit_hash}}}:sticky"
        expiry_ms = max(1, round(expiry_s * 1_000))
        try:
            kept = await self._connection.ask("SET", key, body, "NX", "GET", "PX", expiry_ms)
        except hiredis.ReplyError as error:
            raise Unavailable(f"Valkey: {error}") from error
        return body if kept is None else cast("bytes", kept)
