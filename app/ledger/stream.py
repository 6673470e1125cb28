"""The ledger's side of the event streams: read behind a position, and say how far the ledger is."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app.core.valkey import shard_key
from app.ledger import limits
from app.ledger.log.batch import StreamEntry

_COUNT_DIGITS: Final = 19  # of the greatest count that Valkey can hold
_SHOWN_BYTES: Final = 64
_ADVANCE: Final = files(__package__).joinpath("lua/advance.lua").read_text()


class ShardStream:
    """One shard's stream. Nothing in Valkey says where its reader is: the position is the ledger's."""

    def __init__(self, valkey: Redis, shard: int) -> None:
        self._valkey = valkey
        self._events = shard_key(shard, "events")
        self._appended = shard_key(shard, "appended")
        self._whole = shard_key(shard, "whole")
        self._advance = valkey.register_script(_ADVANCE)

    async def read(self, after: str, *, wait_ms: int | None = None) -> list[StreamEntry]:
        """At most `LEDGER_READ_ENTRIES_MAX` entries behind `after`; with `wait_ms`, waits for the first."""
        reply: Any = await self._valkey.xread(
            {self._events: after}, count=limits.LEDGER_READ_ENTRIES_MAX, block=wait_ms
        )
        return [_entry(*item) for item in reply[0][1]] if reply else []

    async def last_id(self) -> str:
        """The id of the newest entry that was ever appended; `0-0` without any."""
        try:
            found = await self._valkey.xinfo_stream(self._events)
        except ResponseError:  # there is no stream yet
            return "0-0"
        return cast("dict[str, bytes]", found)["last-generated-id"].decode()

    async def advance(self, position: str, applied: int) -> bool:
        """Let go of what is applied; harmless when repeated.

        False: Valkey has lost its data, and what came since lies before the position. Nothing was let go.
        """
        keys = [self._events, self._appended, self._whole]
        return int(await self._advance(keys=keys, args=[position, applied])) >= 0

    async def waiting(self, position: str, applied: int) -> int:
        """Events behind the position; at least 1 while there is an entry."""
        async with self._valkey.pipeline(transaction=True) as pipeline:
            pipeline.get(self._appended)
            pipeline.xrange(self._events, f"({position}", "+", count=1)
            appended, beyond = cast("Sequence[Any]", await pipeline.execute())
        return max(_count(appended) - applied, len(beyond)) if beyond else 0


def _entry(raw_id: bytes, fields: dict[bytes, bytes]) -> StreamEntry:
    """Fields that are missing or unreadable give an entry with a `fault`, which counts as no event."""
    absent = [name for name in (b"k", b"n", b"b") if name not in fields]
    n = _count(fields.get(b"n", b""))
    fault = ""
    if absent:
        fault = f"fields are missing: {b', '.join(absent).decode()}"
    elif not 0 < n <= limits.LEDGER_ENTRY_EVENTS_MAX:
        shown = fields[b"n"][:_SHOWN_BYTES].decode("utf-8", "replace")
        fault = f"n must be a number of events from 1 to {limits.LEDGER_ENTRY_EVENTS_MAX}; got {shown!r}"
    kind = fields.get(b"k", b"").decode("utf-8", "replace")
    return StreamEntry(raw_id.decode(), kind, 0 if fault else n, fields.get(b"b", b""), fault)


def _count(text: bytes | None) -> int:
    """A count of events as Valkey holds it; 0 if it is not one."""
    return int(text) if text is not None and len(text) <= _COUNT_DIGITS and text.isdigit() else 0
