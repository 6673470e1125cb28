"""Fast path of `POST /feedback`. Its reference is the handler in `routes.py`."""

import asyncio
from typing import Final

import msgspec
import structlog

from app.access.model import ApiKey, Scope, credential
from app.assignment.snapshot_keeper import SnapshotKeeper
from app.core.clock import Clock
from app.core.errors import Unavailable, WaldError
from app.core.fast_path import Headers, Reply
from app.core.limits import FEEDBACK_BODY_BYTES_MAX
from app.feedback.decode import MediaType
from app.feedback.service import FeedbackService, receipt_status

_LOG: Final = structlog.get_logger(__name__)
_JSON: Final = ((b"content-type", b"application/json"),)
_PROBLEM: Final = ((b"content-type", b"application/problem+json"),)
_encode: Final = msgspec.json.Encoder().encode


class FeedbackFastPath:
    """Takes JSON from callers who may give feedback; anything else goes to the framework."""

    method = b"POST"
    path = b"/feedback"
    body_bytes_max = FEEDBACK_BODY_BYTES_MAX

    def __init__(self, feedback: FeedbackService, keeper: SnapshotKeeper, clock: Clock) -> None:
        self._feedback = feedback
        self._keeper = keeper
        self._clock = clock

    def admits(self, headers: Headers) -> bool:
        """Return whether the caller may give feedback and the body is declared as JSON."""
        return self._caller(headers) is not None and (b"content-type", b"application/json") in headers

    def answer(self, query: bytes, headers: Headers, body: bytes, reply: Reply) -> bool:  # noqa: ARG002
        """Give `reply` the receipt, or the error, once the accepted events are durable."""
        caller = self._caller(headers)
        if caller is None:  # its key was revoked while the body arrived
            return False
        try:
            receipt, written = self._feedback.take(body, MediaType.JSON, by_unit=not caller.client)
        except WaldError as error:
            reply(*_refusal(error))
            return True
        if written is None:
            reply(receipt_status(receipt), _JSON, _encode(receipt))
            return True

        def finish(written: asyncio.Future[None]) -> None:
            match written.exception():
                case None:
                    reply(receipt_status(receipt), _JSON, _encode(receipt))
                case WaldError() as error:
                    reply(*_refusal(error))
                case error:
                    _LOG.error("feedback_failed", exc_info=error)
                    reply(
                        *_refusal(Unavailable("the events could not be stored; sending them again is safe"))
                    )

        written.add_done_callback(finish)
        return True

    def _caller(self, headers: Headers) -> ApiKey | None:
        keyring = self._keeper.keyring
        if keyring is None:
            return None
        try:
            return keyring.authenticate(credential(headers), Scope.FEEDBACK, self._clock.now_ms())
        except WaldError:
            return None


def _refusal(error: WaldError) -> tuple[int, Headers, bytes]:
    more = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return error.status, [*_PROBLEM, *more], _encode(error.problem())
