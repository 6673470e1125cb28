"""Responses over HTTP. Needs `response_service: ResponseService`."""

from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, post
from litestar import Response as Answer
from litestar.openapi.spec import Operation

from app.access.guards import requires
from app.access.model import Scope
from app.core.batches import any_media_type, media_type_of, read_body, request_body
from app.responses import limits
from app.responses.model import Response
from app.responses.service import ResponseReceipt, ResponseService


@dataclass
class _Send(Operation):
    """The operation with its body."""

    def __post_init__(self) -> None:
        self.request_body = request_body(Response, items_max=limits.RESPONSES_BATCH_MAX)


@post(
    "/responses",
    guards=[requires(Scope.FEEDBACK)],
    before_request=any_media_type,
    status_code=202,
    request_max_body_size=limits.RESPONSES_BODY_BYTES_MAX,
    operation_class=_Send,
)
async def send_responses(
    request: Request[Any, Any, Any], response_service: ResponseService
) -> Answer[ResponseReceipt]:
    """Send what the product showed: one response, an array, newline-delimited JSON or MessagePack.

    Response: `{assignment_id | (experiment, unit), response, response_id?, session_id?, prompt?,
    model?, latency_ms?, tokens_in?, tokens_out?, cost_usd?, finish_reason?, error?, metadata?,
    at?}`; OpenTelemetry's `gen_ai.` attributes are other names of these fields. 202 means that the
    accepted responses are durable; sending one again does not store it twice. The answer to several
    reports each refusal, with 422 if none was accepted. If the request is one response instead of a
    list, its error is the answer, as for `/feedback`; 413 for a text that is too large. Redactors
    of the experiment run before anything is stored. 503 with Retry-After while responses cannot be
    made durable; sending them again is safe.
    """
    media_type = media_type_of(request)
    body = await read_body(request, limits.RESPONSES_BODY_BYTES_MAX)
    by_unit = not request.state.api_key.client
    receipt = await response_service.accept(body, media_type, by_unit=by_unit)
    return Answer(receipt, status_code=receipt.status)


ROUTES: Final = [send_responses]
