"""Reviews over HTTP: settings and readings of experimenters, claims and answers of reviewers.

Needs the dependencies `review_service`, `review_reader` and `review_import`.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from litestar import Request, get, post, put
from litestar.exceptions import HTTPException
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.params import Parameter
from litestar.response import Stream

from app.access.guards import requires
from app.access.model import ApiKey, Scope
from app.core.errors import InvalidInput
from app.core.text import Key
from app.reviews import limits
from app.reviews.import_service import ImportReceipt, ImportService
from app.reviews.model import (
    Answer,
    Comment,
    Digit,
    Queue,
    Reason,
    Review,
    ReviewSettings,
    Seconds,
    Shown,
    StoredSettings,
    Workload,
    reviewer_of_key,
)
from app.reviews.overview import Overview
from app.reviews.reading_service import ReviewReader
from app.reviews.records import MEDIA_TYPES, Format
from app.reviews.service import ReviewService

AnyRequest = Request[Any, Any, Any]
ClaimableQueue = Literal["sample", "disagreement"]


class SettingsView(ReviewSettings, frozen=True, kw_only=True):
    """Settings in force. `revision` 0: these are the defaults, and nothing is sampled yet."""

    revision: int

    @classmethod
    def of(cls, settings: StoredSettings | None) -> "SettingsView":
        """Return the view of stored settings, or of the defaults."""
        if settings is None:
            return cls(revision=0)
        fields = msgspec.structs.asdict(settings)
        del fields["created_at"]
        return cls(**fields)


class ClaimRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request for the next item: of one experiment or all, of one queue or both."""

    experiment: Key | None = None
    queue: ClaimableQueue | None = None


class Claimed(msgspec.Struct, frozen=True):
    """The item of a reviewer; null if there is none to review now."""

    item: Shown | None


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A label under a lease. `seconds` is the time it took; by default, that since the claim."""

    lease: UUID
    label: Digit
    comment: Comment = ""
    seconds: Seconds | None = None


class Skip(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The reason to skip an item under a lease."""

    lease: UUID
    reason: Reason
    seconds: Seconds | None = None


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lease to give back."""

    lease: UUID


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The next revision of an answer: a label, or the reason of a skip."""

    label: Digit | None = None
    reason: Reason | None = None
    comment: Comment = ""


class Workloads(msgspec.Struct, frozen=True):
    """Work of the holder of a key, by experiment."""

    experiments: list[Workload]


@get("/experiments/{key:str}/review", guards=[requires(Scope.READ)])
async def get_review_settings(key: str, review_service: ReviewService) -> SettingsView:
    """Read the review settings of an experiment; before the first, the defaults as revision 0."""
    return SettingsView.of(await review_service.settings(key))


@put("/experiments/{key:str}/review", guards=[requires(Scope.ADMIN)], status_code=200)
async def put_review_settings(key: str, data: ReviewSettings, review_service: ReviewService) -> SettingsView:
    """Set up the reviews of an experiment, or replace their settings.

    From then on, the sample is drawn from all stored responses. Items that a reviewer has seen keep
    their rubric, labels and number of reviewers. 409 for other digits once labels exist.
    """
    return SettingsView.of(await review_service.put_settings(key, data))


@get("/experiments/{key:str}/reviews", guards=[requires(Scope.READ)])
async def experiment_reviews(key: str, review_reader: ReviewReader) -> Overview:
    """Read progress by queue and stratum, the counts and seconds of reviewers, and agreement."""
    return await review_reader.overview(key)


@get("/experiments/{key:str}/reviews/export", guards=[requires(Scope.READ)], media_type="text/csv")
async def export_reviews(
    key: str,
    review_reader: ReviewReader,
    file_format: Annotated[Format, Parameter(query="format")] = "csv",
    content: Literal["answers", "items"] = "answers",
    *,
    revisions: bool = False,
) -> Stream:
    """Download answers, or the items that still want labels, as CSV or JSON Lines.

    `items` are blind and have their texts, so that they can be labelled elsewhere and imported.
    With `revisions`, answers that were corrected are in the file too.
    """
    if content == "items":
        parts = await review_reader.items(key, file_format)
    else:
        parts = await review_reader.answers(key, file_format, revisions=revisions)
    name = f'attachment; filename="{key}-{content}.{file_format}"'
    return Stream(parts, media_type=MEDIA_TYPES[file_format], headers={"Content-Disposition": name})


async def _any_media_type(_: AnyRequest) -> None:
    """Replace the application's hook, which accepts only JSON."""


@dataclass
class _File(Operation):
    """The operation with its body, which Litestar does not decode."""

    def __post_init__(self) -> None:
        text, label = Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.OBJECT)
        content = {kind: OpenAPIMediaType(schema=text) for kind in ("text/csv", "application/x-ndjson")}
        content["application/json"] = OpenAPIMediaType(schema=label)  # one line
        self.request_body = RequestBody(content=content, required=True)


@post(
    "/experiments/{key:str}/reviews/import",
    guards=[requires(Scope.ADMIN)],
    before_request=_any_media_type,
    status_code=200,
    request_max_body_size=limits.REVIEW_IMPORT_BYTES_MAX,
    operation_class=_File,
)
async def import_reviews(key: str, request: AnyRequest, review_import: ImportService) -> ImportReceipt:
    """Import labels that were made elsewhere: CSV or JSON Lines with response_id, label, reviewer.

    The answer names each line that is wrong. A repeated import changes nothing.
    """
    return await review_import.run(key, await request.body(), _format(request))


@get("/reviews", guards=[requires(Scope.REVIEW)])
async def list_workloads(request: AnyRequest, review_service: ReviewService) -> Workloads:
    """List the experiments in which the holder of this key has something to review."""
    return Workloads(await review_service.workload(_reviewer(request)))


@post("/reviews/claim", guards=[requires(Scope.REVIEW)], status_code=200)
async def claim_review(
    request: AnyRequest, review_service: ReviewService, data: ClaimRequest | None = None
) -> Claimed:
    """Claim the next item for the holder of this key. `item` is null if there is none.

    Who holds an item gets it again, and keeps it longer. The item does not tell variant or judge.
    """
    asked = data or ClaimRequest()
    queue = None if asked.queue is None else Queue(asked.queue)
    return Claimed(await review_service.claim(_reviewer(request), asked.experiment, queue))


@post("/reviews/{item_id:int}/submit", guards=[requires(Scope.REVIEW)], status_code=200)
async def submit_review(
    item_id: int, request: AnyRequest, data: Submission, review_service: ReviewService
) -> Review:
    """Label a claimed item. A repeated request changes nothing.

    409 if the lease has ended and other reviewers took the item, or after another answer.
    """
    answer = Answer(label=data.label, comment=data.comment, seconds=data.seconds)
    return await review_service.answer(_reviewer(request), item_id, data.lease, answer)


@post("/reviews/{item_id:int}/skip", guards=[requires(Scope.REVIEW)], status_code=200)
async def skip_review(item_id: int, request: AnyRequest, data: Skip, review_service: ReviewService) -> Review:
    """Skip a claimed item with a reason. Another reviewer gets it."""
    answer = Answer(reason=data.reason, seconds=data.seconds)
    return await review_service.answer(_reviewer(request), item_id, data.lease, answer)


@post("/reviews/{item_id:int}/release", guards=[requires(Scope.REVIEW)], status_code=204)
async def release_review(
    item_id: int, request: AnyRequest, data: Release, review_service: ReviewService
) -> None:
    """Give a claimed item back unanswered."""
    await review_service.release(_reviewer(request), item_id, data.lease)


@post("/reviews/{item_id:int}/correct", guards=[requires(Scope.REVIEW)], status_code=200)
async def correct_review(
    item_id: int, request: AnyRequest, data: Correction, review_service: ReviewService
) -> Review:
    """Correct one's own answer. The earlier revisions stay in the export."""
    if (data.label is None) == (data.reason is None):
        raise InvalidInput("needs either a label or the reason of a skip", field="label")
    answer = Answer(label=data.label, reason=data.reason, comment=data.comment)
    return await review_service.correct(_reviewer(request), item_id, answer)


@get("/reviews/{item_id:int}", guards=[requires(Scope.REVIEW)])
async def get_answered_item(item_id: int, request: AnyRequest, review_service: ReviewService) -> Shown:
    """Read an item that the holder of this key has answered, with the answer."""
    return await review_service.answered(_reviewer(request), item_id)


def _reviewer(request: AnyRequest) -> str:
    """Return the reviewer: the API key, so that two people cannot share a name by accident."""
    key: ApiKey = request.state.api_key
    return reviewer_of_key(key.id)


def _format(request: AnyRequest) -> Format:
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared == "text/csv":
        return "csv"
    if declared in {"application/x-ndjson", "application/jsonl", "application/json"}:
        return "jsonl"
    raise HTTPException(
        status_code=415,
        detail=f"content-type must be text/csv or application/x-ndjson, got {declared or 'none'}",
    )


ROUTES: Final = [
    get_review_settings,
    put_review_settings,
    experiment_reviews,
    export_reviews,
    list_workloads,
    claim_review,
    submit_review,
    skip_review,
    release_review,
    correct_review,
    get_answered_item,
    import_reviews,
]
