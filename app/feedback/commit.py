"""Group commit of signals."""

from collections.abc import Iterator, Sequence
from operator import attrgetter

from app.core.group_commit import GroupCommit
from app.core.packed import Packed
from app.core.stream import StreamAppender
from app.core.valkey import RESPONSES
from app.feedback import addressed, entry, limits
from app.feedback.addressed import AddressedSignal
from app.feedback.entry import SignalsEntry


class SignalsCommit(GroupCommit[SignalsEntry]):
    """Queue of one server's signals for Valkey, at most `FEEDBACK_PENDING_MAX` signals long.

    `addressed` is the queue of the signals by `response_id`.
    """

    def __init__(self, appenders: Sequence[StreamAppender], *, shards: int) -> None:
        self.addressed = AddressedCommit(appenders)
        super().__init__(
            appenders,
            shards=range(shards),
            pack=_pack,
            size=attrgetter("n"),
            pending_max=limits.FEEDBACK_PENDING_MAX,
            flushes_max=limits.FEEDBACK_FLUSHES_MAX,
        )

    async def drain(self) -> None:
        """Wait until every appended signal is written or has failed."""
        await self.addressed.drain()
        await super().drain()


class AddressedCommit(GroupCommit[Sequence[AddressedSignal]]):
    """Queue of one server's signals by `response_id`, for the stream of responses."""

    def __init__(self, appenders: Sequence[StreamAppender]) -> None:
        super().__init__(
            appenders,
            shards=(RESPONSES,),
            pack=_pack_addressed,
            size=len,
            pending_max=limits.FEEDBACK_PENDING_MAX,
            flushes_max=limits.FEEDBACK_FLUSHES_MAX,
        )


def _pack(parts: Sequence[SignalsEntry]) -> Iterator[Packed]:
    for chunk in entry.chunks(parts, limits.FEEDBACK_ENTRY_EVENTS_MAX):
        yield Packed(entry.KIND, chunk.n, entry.encode(chunk))


def _pack_addressed(parts: Sequence[Sequence[AddressedSignal]]) -> Iterator[Packed]:
    signals = [signal for part in parts for signal in part]
    for start in range(0, len(signals), limits.FEEDBACK_ENTRY_EVENTS_MAX):
        chunk = signals[start : start + limits.FEEDBACK_ENTRY_EVENTS_MAX]
        yield Packed(addressed.KIND, len(chunk), addressed.encode(chunk))
