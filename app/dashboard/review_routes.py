"""The pages on which people review responses. Needs the dependency `review_service`.

Forms alone do everything. The script `review.js` adds keys, and keeps a lease while the page is in
view. Reviewers sign in with an API key that has the scope `review`; the key is the reviewer.
"""

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.response import Redirect

from app.access.model import ApiKey, Scope
from app.core.errors import Conflict, InvalidInput, NotFound, WaldError
from app.dashboard.pages import PAGE_HEADERS, page
from app.dashboard.sign_in_guards import FORM_BYTES_MAX, admits, problem_page, same_site
from app.reviews.model import Answer, Comment, Seconds, Shown, Workload, reviewer_of_key
from app.reviews.service import LeaseEnded, ReviewService

AnyRequest = Request[Any, Any, Any]
SKIP_REASONS: Final = ("I cannot judge this", "not my language", "unreadable or cut off", "personal data")


class AnswerForm(msgspec.Struct, frozen=True):
    """The body of an answer: a digit in `label`, or a reason. `lease` is empty for a correction."""

    lease: str = ""
    label: str = ""
    reason: str = ""
    comment: Comment = ""
    seconds: str = ""


reviews: Final = admits(Scope.REVIEW)
"""Guard of these pages: a session, or a key, that may review."""


def review_problem(request: AnyRequest, error: WaldError) -> Response[str]:
    """Return an error as a page: what became of the answer, and how to go on."""
    if isinstance(error, LeaseEnded | Conflict | InvalidInput | NotFound):
        experiment = request.path_params.get("key")
        return page(
            "review/problem.html",
            status_code=error.status,
            problem=error.problem(),
            ended=isinstance(error, LeaseEnded),
            experiment=experiment,
        )
    return problem_page(request, error)


_PAGE: Final[dict[str, Any]] = {
    "guards": [reviews],
    "include_in_schema": False,
    "exception_handlers": {WaldError: review_problem},
}
_FORM: Final[dict[str, Any]] = _PAGE | {
    "guards": [same_site, reviews],
    "request_max_body_size": FORM_BYTES_MAX,
    "status_code": 303,
}
Form = Annotated[AnswerForm, Body(media_type=RequestEncodingType.URL_ENCODED)]


@get("/review", **_PAGE)
async def review_index(request: AnyRequest, review_service: ReviewService) -> Response[str]:
    """Show the experiments in which this reviewer has something to do or has done something."""
    workloads = await review_service.workload(_reviewer(request))
    return page("review/index.html", workloads=workloads)


@get("/review/{key:str}", **_PAGE)
async def review_next(key: str, request: AnyRequest, review_service: ReviewService) -> Response[str]:
    """Claim the next item of an experiment and show it; or that everything is done."""
    reviewer = _reviewer(request)
    shown = await review_service.claim(reviewer, key)
    workload = _first(await review_service.workload(reviewer, key), key)
    last = await review_service.last_answer(reviewer, key)
    if shown is None:
        return page("review/done.html", experiment=key, workload=workload, last=last)
    return _item_page(shown, workload, last)


@get("/review/{key:str}/{item_id:int}", **_PAGE)
async def review_answered(
    key: str, item_id: int, request: AnyRequest, review_service: ReviewService
) -> Response[str]:
    """Show an item that this reviewer has answered, to correct the answer."""
    reviewer = _reviewer(request)
    shown = await review_service.answered(reviewer, item_id)
    return _item_page(shown, _first(await review_service.workload(reviewer, key), key), None)


@post("/review/{key:str}/{item_id:int}", **_FORM)
async def review_submit(
    key: str, item_id: int, request: AnyRequest, data: Form, review_service: ReviewService
) -> Redirect:
    """Store an answer, or a correction where the form has no lease, and go on to the next item."""
    answer = _answer(data)
    if data.lease:
        await review_service.answer(_reviewer(request), item_id, _lease(data.lease), answer)
    else:
        await review_service.correct(_reviewer(request), item_id, answer)
    return Redirect(f"/review/{key}", status_code=303, headers=PAGE_HEADERS)


@post("/review/{key:str}/{item_id:int}/release", **_FORM)
async def review_release(
    item_id: int, request: AnyRequest, data: Form, review_service: ReviewService
) -> Redirect:
    """Give an item back, and show the experiments."""
    await review_service.release(_reviewer(request), item_id, _lease(data.lease))
    return Redirect("/review", status_code=303, headers=PAGE_HEADERS)


@post("/review/{key:str}/renew", **(_FORM | {"status_code": 204}))
async def review_renew(key: str, request: AnyRequest, review_service: ReviewService) -> None:
    """Keep the item that this reviewer holds. The page asks for that while it is in view."""
    await review_service.renew(_reviewer(request), key)


def _item_page(shown: Shown, workload: Workload, last: int | None) -> Response[str]:
    """Return the page of an item. Its digits, from the lowest, are the keys."""
    return page(
        "review/item.html",
        shown=shown,
        labels=sorted(shown.labels.items()),
        given=shown.answer,
        workload=workload,
        last=last,
        reasons=SKIP_REASONS,
    )


def _answer(data: AnswerForm) -> Answer:
    """Return the answer of a form. Raises InvalidInput unless it has a digit or a reason."""
    seconds = _seconds(data.seconds)
    if data.label.isascii() and data.label.isdigit() and len(data.label) == 1:
        return Answer(label=int(data.label), comment=data.comment, seconds=seconds)
    if data.label or not data.reason.strip():
        raise InvalidInput("choose a label, or give a reason to skip the response", field="label")
    return Answer(reason=data.reason.strip(), comment=data.comment, seconds=seconds)


def _seconds(text: str) -> float | None:
    """Return the time that the page measured, or None if the text is not a time."""
    try:
        return msgspec.convert(float(text), Seconds)
    except (ValueError, msgspec.ValidationError):
        return None


def _lease(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInput(f"must be a UUID; got {text[:40]!r}", field="lease") from None


def _reviewer(request: AnyRequest) -> str:
    key: ApiKey = request.state.api_key
    return reviewer_of_key(key.id)


def _first(workloads: list[Workload], key: str) -> Workload:
    return workloads[0] if workloads else Workload(experiment=key, open=0, answered=0)


ROUTES: Final = [
    review_index,
    review_next,
    review_answered,
    review_submit,
    review_release,
    review_renew,
]
