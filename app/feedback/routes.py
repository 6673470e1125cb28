"""Feedback over HTTP. Needs the dependency `feedback: FeedbackService`."""

from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response, post
from litestar.openapi.spec import Operation

from app.access.guards import requires
from app.access.model import Scope
from app.core.batches import any_media_type, media_type_of, read_body, request_body
from app.core.limits import FEEDBACK_BODY_BYTES_MAX
from app.feedback import limits
from app.feedback.model import Event, Receipt
from app.feedback.service import FeedbackService, receipt_status


@dataclass
class _Feedback(Operation):
    """The operation with its body."""

    def __post_init__(self) -> None:
        self.request_body = request_body(Event, items_max=limits.FEEDBACK_BATCH_MAX)


@post(
    "/feedback",
    guards=[requires(Scope.FEEDBACK)],
    before_request=any_media_type,
    status_code=202,
    request_max_body_size=FEEDBACK_BODY_BYTES_MAX,
    operation_class=_Feedback,
)
async def give_feedback(request: Request[Any, Any, Any], feedback: FeedbackService) -> Response[Receipt]:
    """Send signals: one event, an array, newline-delimited JSON or MessagePack.

    Event: `{assignment_id | (experiment, unit) | response_id, signal, value?, source?, id?, at?}`.
    An event by `response_id` may come before its response, and waits for it. 202 means that the
    accepted events are durable; sending an event again does not count it twice. The answer to
    several events reports each: `{accepted, rejected: [{index, error: {kind, field, reason}}],
    ...}`, with 422 if none was accepted. An accepted event may still not count: it is `counted`,
    `waiting` for the ledger to find its assignment, an `unknown_signal`, `late` or `early`;
    `warnings` say why. If the request is one event instead of a list, its error is the answer: 400
    if it is malformed or out of bounds, 404 for an unknown experiment, 410 if its assignment has
    expired, 422 for an assignment id that is forged or signed elsewhere. 503 with Retry-After while
    events cannot be made durable; sending them again is safe.
    """
    media_type = media_type_of(request)
    body = await read_body(request, FEEDBACK_BODY_BYTES_MAX)
    receipt = await feedback.accept(body, media_type, by_unit=not request.state.api_key.client)
    return Response(receipt, status_code=receipt_status(receipt))


ROUTES: Final = [give_feedback]
