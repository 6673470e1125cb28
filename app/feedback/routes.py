"""Feedback over HTTP. Needs the dependency `feedback: FeedbackService`."""

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from litestar import Request, Response, post
from litestar.exceptions import HTTPException
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema

from app.access.guards import requires
from app.access.model import Scope
from app.core.errors import TooLarge
from app.core.limits import FEEDBACK_BODY_BYTES_MAX
from app.feedback import limits
from app.feedback.decode import MediaType
from app.feedback.model import Event, Receipt
from app.feedback.service import FeedbackService, receipt_status

_MEDIA_TYPES: Final = {
    "": MediaType.JSON,
    "application/json": MediaType.JSON,
    "text/plain": MediaType.JSON,  # what a browser's sendBeacon sends
    "application/x-ndjson": MediaType.NDJSON,
    "application/ndjson": MediaType.NDJSON,
    "application/jsonl": MediaType.NDJSON,
    "application/msgpack": MediaType.MSGPACK,
    "application/x-msgpack": MediaType.MSGPACK,
    "application/vnd.msgpack": MediaType.MSGPACK,
}


@dataclass
class _Written(Schema):
    """A JSON Schema by msgspec, for a request body that Litestar does not decode."""

    written: dict[str, Any] = field(default_factory=dict)

    def to_schema(self) -> dict[str, Any]:
        """Return the schema for litestar's document."""
        return self.written


def _body_schema() -> _Written:
    (reference,), components = msgspec.json.schema_components([Event])
    event = components[reference["$ref"].rpartition("/")[2]]
    events = {"type": "array", "items": event, "minItems": 1, "maxItems": limits.FEEDBACK_BATCH_MAX}
    return _Written(written={"oneOf": [event, events]})


@dataclass
class _Feedback(Operation):
    """The operation with its body."""

    def __post_init__(self) -> None:
        content = {media_type.value: OpenAPIMediaType(schema=_body_schema()) for media_type in MediaType}
        self.request_body = RequestBody(content=content, required=True)


async def _any_media_type(_: Request[Any, Any, Any]) -> None:
    """Replace the application's hook, which accepts only JSON."""


@post(
    "/feedback",
    guards=[requires(Scope.FEEDBACK)],
    before_request=_any_media_type,
    status_code=202,
    request_max_body_size=FEEDBACK_BODY_BYTES_MAX,
    operation_class=_Feedback,
)
async def give_feedback(request: Request[Any, Any, Any], feedback: FeedbackService) -> Response[Receipt]:
    """Send signals: one event, an array, newline-delimited JSON or MessagePack.

    Event: `{assignment_id | (experiment, unit), signal, value?, source?, id?, at?}`. 202 means that the
    accepted events are durable; sending an event again does not count it twice. The answer to several
    events reports each: `{accepted, rejected: [{index, error: {kind, field, reason}}], ...}`, with 422
    if none was accepted. An accepted event may still not count: it is `counted`, `waiting` for the
    ledger to find its assignment, an `unknown_signal`, `late` or `early`; `warnings` say why. If the
    request is one event instead of a list, its error is the answer: 400 if it is malformed or out of
    bounds, 404 for an unknown experiment, 410 if its assignment has expired, 422 for an assignment id
    that is forged or signed elsewhere. 503 with Retry-After while events cannot be made durable;
    sending them again is safe.
    """
    media_type = _media_type(request)
    body = await _body(request)
    receipt = await feedback.accept(body, media_type, by_unit=not request.state.api_key.client)
    return Response(receipt, status_code=receipt_status(receipt))


def _media_type(request: Request[Any, Any, Any]) -> MediaType:
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared not in _MEDIA_TYPES:
        raise HTTPException(
            status_code=415, detail=f"content-type must be one of {', '.join(MediaType)}, got {declared}"
        )
    return _MEDIA_TYPES[declared]


async def _body(request: Request[Any, Any, Any]) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > FEEDBACK_BODY_BYTES_MAX:
            raise TooLarge(f"at most {FEEDBACK_BODY_BYTES_MAX} bytes", field="body")
        parts.append(part)
    return b"".join(parts)


ROUTES: Final = [give_feedback]
