"""Responses over HTTP.

Needs the dependencies `response_service: ResponseService` and `response_reader: ResponseReader`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

from litestar import Request, delete, get, post
from litestar import Response as Answer
from litestar.openapi.spec import Operation
from litestar.params import Parameter

from app.access.guards import requires
from app.access.model import Scope
from app.core.batches import any_media_type, media_type_of, read_body, request_body
from app.core.errors import InvalidInput
from app.core.limits import PAGE_SIZE, PAGE_SIZE_MAX
from app.core.text import check_storable
from app.responses import limits
from app.responses.model import Response
from app.responses.reading_service import (
    Erased,
    ResponsePage,
    ResponseReader,
    ResponseView,
    WaitingFeedback,
)
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


@get("/responses/{response_id:str}", guards=[requires(Scope.READ)])
async def read_response(
    response_id: str, response_reader: ResponseReader, experiment: str | None = None
) -> ResponseView:
    """Return the response with this id.

    409 if several experiments have it and none is named; 410 once its texts have expired.
    """
    return await response_reader.find(response_id, experiment)


@get("/experiments/{key:str}/responses", guards=[requires(Scope.READ)])
async def list_responses(
    key: str,
    *,
    response_reader: ResponseReader,
    variant: str | None = None,
    unit: str | None = None,
    session_id: str | None = None,
    model: str | None = None,
    finish_reason: str | None = None,
    failed: bool | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after: Annotated[int | None, Parameter(ge=1, le=2**63 - 1)] = None,
    limit: Annotated[int, Parameter(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE,
) -> ResponsePage:
    """Return responses of an experiment, newest first. Pass `next` as `after`.

    `since` and `until` bound the time of arrival, ISO 8601 with an offset. `failed`: whether the
    model gave an error.
    """
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and moment.tzinfo is None:
            raise InvalidInput("needs an offset, for example Z", field=name)
    filters = {
        "variant": variant,
        "unit": unit,
        "session_id": session_id,
        "model": model,
        "finish_reason": finish_reason,
        "failed": failed,
        "since": since,
        "until": until,
    }
    for name, value in filters.items():
        if isinstance(value, str):
            check_storable(value, name)
    return await response_reader.page(key, filters, after=after, limit=limit)


@delete("/responses", guards=[requires(Scope.ADMIN)], status_code=200)
async def erase_responses(
    unit: str, response_reader: ResponseReader, experiment: str | None = None
) -> Erased:
    """Delete the texts of all responses to a unit, in one experiment or in all.

    Numbers, judgements and totals stay. Texts that are on their way are stored without content.
    """
    return await response_reader.erase(unit, experiment)


@get("/feedback/waiting", guards=[requires(Scope.READ)])
async def waiting_feedback(
    response_reader: ResponseReader,
    limit: Annotated[int, Parameter(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE,
) -> WaitingFeedback:
    """Return the feedback by `response_id` that does not count, with the reason."""
    return await response_reader.waiting(limit)


ROUTES: Final = [send_responses, read_response, list_responses, erase_responses, waiting_feedback]
