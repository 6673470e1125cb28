"""Group commit of responses, on a stream of their own."""

from collections.abc import Sequence

from app.core.group_commit import GroupCommit
from app.core.stream import StreamAppender
from app.core.valkey import RESPONSES
from app.responses import entry, limits
from app.responses.entry import AcceptedResponse


class ResponseCommit(GroupCommit[Sequence[AcceptedResponse]]):
    """Queue of one server's responses, at most `RESPONSES_PENDING_BYTES_MAX` large."""

    def __init__(self, appenders: Sequence[StreamAppender]) -> None:
        super().__init__(
            appenders,
            shards=(RESPONSES,),
            pack=entry.packed,
            size=_size,
            pending_max=limits.RESPONSES_PENDING_BYTES_MAX,
            flushes_max=limits.RESPONSES_FLUSHES_MAX,
        )


def _size(part: Sequence[AcceptedResponse]) -> int:
    return sum(map(entry.size, part))
