"""A stream of changes (server-sent events): each experiment as this server has it, now and when it moves.

Needs the dependencies `snapshots: SnapshotKeeper` and `ending: Ending`.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from litestar import get
from litestar.response import ServerSentEvent, ServerSentEventMessage

from app.access.guards import requires
from app.access.model import Scope
from app.assignment.loop import SnapshotKeeper
from app.assignment.snapshot import Snapshot
from app.core import limits
from app.core.serving import Ending
from app.experiments.model import StateKind


class Change(msgspec.Struct, frozen=True):
    """An experiment's key, state and versions; `shares` of its variants in the order of the definition."""

    experiment: str
    state: StateKind
    revision: int
    policy_version: int
    shares: tuple[float, ...]


@get("/changes", guards=[requires(Scope.READ)])
async def stream_changes(snapshots: SnapshotKeeper, ending: Ending) -> ServerSentEvent:
    """Follow all experiments: `change` events with a JSON body, first one for each, then as they move.

    A comment every few seconds keeps proxies from closing the stream. An `end` event is the last: the server
    is going away, connect again.
    """
    return ServerSentEvent(_messages(snapshots, ending))


async def _messages(snapshots: SnapshotKeeper, ending: Ending) -> AsyncIterator[ServerSentEventMessage]:
    seen: dict[str, int] = {}
    over = asyncio.ensure_future(ending.wait())
    try:
        while not over.done():
            swapped = asyncio.ensure_future(snapshots.swapped())
            for change in _unseen(snapshots.snapshot, seen):
                yield ServerSentEventMessage(event="change", data=msgspec.json.encode(change).decode())
            await asyncio.wait(
                {swapped, over}, timeout=limits.STREAM_QUIET_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not swapped.done():
                swapped.cancel()
                if not over.done():
                    yield ServerSentEventMessage(comment="still here", data=None)
        yield ServerSentEventMessage(event="end", data="the server is going away")
    finally:
        over.cancel()


def _unseen(snapshot: Snapshot, seen: dict[str, int]) -> list[Change]:
    """Experiments whose version is not the one in `seen`, which is brought up to date."""
    changes = []
    for key, experiment in snapshot.by_key.items():
        published = experiment.published
        if seen.get(key) != published.version:
            seen[key] = published.version
            changes.append(
                Change(
                    key,
                    published.state,
                    published.revision,
                    published.policy_version,
                    experiment.propensities,
                )
            )
    return changes


ROUTES: Final = [stream_changes]
