"""The ledger's side of the event streams: reads entries and drops applied ones."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app.core.valkey import shard_key
from app.ledger import limits
from app.ledger.log.batch import StreamEntry

_COUNT_DIGITS: Final = 19  # the largest count that Valkey can hold has 19
_SHOWN_BYTES: Final = 64
_ADVANCE: Final = files(__package__).joinpath("lua/advance.lua").read_text()


class ShardStream:
    """One shard's stream. The reader's position is stored in PostgreSQL, not in Valkey."""

    def __init__(self, valkey: Redis, shard: int) -> None:
        self._valkey = valkey
        self._events = shard_key(shard, "events")
        self._appended = shard_key(shard, "appended")
        self._whole = shard_key(shard, "whole")
        self._advance = valkey.register_script(_ADVANCE)

    async def read(self, after: str, *, wait_ms: int | None = None) -> list[StreamEntry]:
        """Read at most `LEDGER_READ_ENTRIES_MAX` entries behind `after`; wait `wait_ms` for the first."""
        reply: Any = await self._valkey.xread(
            {self._events: after}, count=limits.LEDGER_READ_ENTRIES_MAX, block=wait_ms
        )
        return [_entry(*item) for item in reply[0][1]] if reply else []

    async def last_id(self) -> str:
        """Return the id of the newest entry ever appended; `0-0` if there was none."""
        try:
            stream = await self._valkey.xinfo_stream(self._events)
        except ResponseError:  # the stream does not exist yet
            return "0-0"
        return cast("dict[str, bytes]", stream)["last-generated-id"].decode()

    async def advance(self, position: str, applied: int) -> bool:
        """Drop the entries up to `position`; harmless when repeated.

        Return False, and drop nothing, if Valkey has lost its data and new entries lie before the position.
        """
        keys = [self._events, self._appended, self._whole]
        return int(await self._advance(keys=keys, args=[position, applied])) >= 0

    async def waiting(self, position: str, applied: int) -> int:
        """Return the number of events behind the position; at least 1 while there is an entry."""
        async with self._valkey.pipeline(transaction=True) as pipeline:
            pipeline.get(self._appended)
            pipeline.xrange(self._events, f"({position}", "+", count=1)
            appended, beyond = cast("Sequence[Any]", await pipeline.execute())
        return max(_count(appended) - applied, len(beyond)) if beyond else 0


def _entry(raw_id: bytes, fields: dict[bytes, bytes]) -> StreamEntry:
    """Decode an entry. If fields are missing or unreadable, it gets a `fault` and counts as no event."""
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
    """Parse a count of events from Valkey; 0 if it is not a number."""
    return int(text) if text is not None and len(text) <= _COUNT_DIGITS and text.isdigit() else 0
