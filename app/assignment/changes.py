"""A stream of server-sent events: each experiment now, and whenever it changes.

Needs the dependency `changes: ChangeFeed`. Each event is encoded once for all readers. A reader is
a position in the sequence of events, so a slow reader costs no memory: it gets the newest event of
each experiment.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from time import monotonic
from typing import Any, Final, NamedTuple

import msgspec
from litestar import Request, get
from litestar.response import Stream
from litestar.types import Receive, Send
from litestar.types import Scope as ConnectionScope

from app.access.guards import requires
from app.access.model import ApiKey, Scope
from app.assignment import limits
from app.assignment.snapshot import PreparedExperiment
from app.assignment.snapshot_keeper import SnapshotKeeper
from app.core.clock import Clock
from app.core.errors import Unavailable, WaldError
from app.core.serving import Ending, hang_up
from app.experiments.model import StateKind

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_STILL_HERE: Final = b": still here\r\n\r\n"
_GOING_AWAY: Final = "the server is going away"
_NOT_ADMITTED: Final = "the API key was revoked or has expired"


class Change(msgspec.Struct, frozen=True):
    """Key, state and versions of an experiment, and the `shares` of its variants in order."""

    experiment: str
    state: StateKind
    revision: int
    policy_version: int
    shares: tuple[float, ...]


class Event(NamedTuple):
    """The newest encoded event of one experiment. `number` grows with every event of the feed."""

    number: int
    version: int
    text: bytes


class ChangeFeed:
    """The events of one server process, and the number of their readers."""

    def __init__(self, snapshots: SnapshotKeeper, ending: Ending, clock: Clock) -> None:
        self.snapshots = snapshots
        self.ending = ending
        self.readers = 0
        self._clock = clock
        self._events: dict[str, Event] = {}  # by experiment, oldest event first
        self._number = 0
        self._compared: object = None
        self._comparing = asyncio.Lock()
        self._turn = asyncio.Lock()

    def admits(self, key: ApiKey) -> bool:
        """Return whether the key is still in force and may read."""
        keyring = self.snapshots.keyring
        try:
            return keyring is not None and keyring.by_id(key.id, Scope.READ, self._clock.now_ms()) is not None
        except WaldError:
            return False

    async def since(self, number: int) -> list[Event]:
        """Return the events after this number, oldest first, one per experiment."""
        async with self._comparing:
            await self._compare()
        events = []
        for event in reversed(self._events.values()):
            if event.number <= number:
                break
            events.append(event)
        events.reverse()
        return events

    async def turn(self) -> None:
        """Wait for this reader's turn to write one chunk. Other requests run between turns."""
        async with self._turn:
            await asyncio.sleep(0)

    async def _compare(self) -> None:
        """Encode the events of experiments that changed since the last call."""
        snapshot = self.snapshots.snapshot
        if snapshot is self._compared:
            return
        for count, (key, experiment) in enumerate(list(snapshot.by_key.items()), start=1):
            before = self._events.get(key)
            if before is None or before.version != experiment.published.version:
                self._number += 1
                self._events.pop(key, None)
                self._events[key] = Event(self._number, experiment.published.version, _text(key, experiment))
            if count % limits.CHANGES_COMPARED == 0:
                await asyncio.sleep(0)
        self._compared = snapshot


class ChangeStream(Stream):
    """The answer to one reader."""

    def __init__(self, feed: ChangeFeed, key: ApiKey) -> None:
        super().__init__(content=iter(()), media_type="text/event-stream")
        self.feed = feed
        self.key = key

    def to_asgi_response(self, *_: Any, **__: Any) -> Any:
        """Return the application that sends this answer, for Litestar."""
        return self

    async def __call__(self, scope: ConnectionScope, receive: Receive, send: Send) -> None:
        """Send events until the client leaves or stalls, the server ends, or the key is revoked."""
        gone = asyncio.ensure_future(_disconnected(receive))
        self.feed.readers += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            async for part in self._parts(gone):
                async with asyncio.timeout(limits.CHANGES_STALLED_S):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            if not gone.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            hang_up(scope)
            await asyncio.wait({gone}, timeout=limits.CHANGES_HANG_UP_S)
        finally:
            self.feed.readers -= 1
            gone.cancel()

    async def _parts(self, gone: asyncio.Future[None]) -> AsyncIterator[bytes]:
        feed, position, spoke_at = self.feed, 0, monotonic()
        over = asyncio.ensure_future(feed.ending.wait())
        try:
            while not (over.done() or gone.done()):
                swapped = asyncio.ensure_future(feed.snapshots.swapped())
                events = await feed.since(position)
                for first in range(0, len(events), limits.CHANGES_CHUNK):
                    await feed.turn()
                    if gone.done() or not feed.admits(self.key):
                        break
                    yield b"".join(event.text for event in events[first : first + limits.CHANGES_CHUNK])
                    spoke_at = monotonic()
                position = events[-1].number if events else position
                if gone.done():
                    return
                if not feed.admits(self.key):
                    yield _end(_NOT_ADMITTED)
                    return
                await _first_of({swapped, over, gone}, limits.CHANGES_CHECK_S)
                swapped.cancel()
                if monotonic() - spoke_at >= limits.STREAM_QUIET_S:
                    yield _STILL_HERE
                    spoke_at = monotonic()
                await _first_of({over, gone}, limits.CHANGES_SPACING_S)
            if not gone.done():
                yield _end(_GOING_AWAY)
        finally:
            over.cancel()


@get("/changes", guards=[requires(Scope.READ)])
async def stream_changes(request: Request[Any, Any, Any], changes: ChangeFeed) -> ChangeStream:
    """Follow all experiments: one `change` event with a JSON body for each, then one per change.

    A comment every few seconds keeps proxies from closing the stream. The last event is `end`: the
    server is shutting down (connect again), or the API key was revoked. A reader that takes nothing
    for ten seconds is disconnected. 503 if this server process has too many readers.
    """
    if changes.readers >= limits.CHANGES_READERS_MAX:
        raise Unavailable(f"this server has {limits.CHANGES_READERS_MAX} readers of changes already")
    return ChangeStream(changes, request.state.api_key)


async def _first_of(futures: Iterable[asyncio.Future[Any]], timeout_s: float) -> None:
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _text(key: str, experiment: PreparedExperiment) -> bytes:
    published = experiment.published
    change = Change(
        key, published.state, published.revision, published.policy_version, experiment.propensities
    )
    return b"event: change\r\ndata: " + msgspec.json.encode(change) + b"\r\n\r\n"


def _end(reason: str) -> bytes:
    return f"event: end\r\ndata: {reason}\r\n\r\n".encode()


ROUTES: Final = [stream_changes]
