"""The words of reviews: settings, queues, answers, and what an item shows to its reviewer. Pure."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

import msgspec

from app.core.errors import InvalidInput
from app.core.text import check_storable
from app.reviews import limits

KEY_PREFIX: Final = "key:"
"""Prefix of reviewers who hold an API key."""

SIGNAL: Final = "review"
"""Name of the signal that the labels of the sample become."""

LABELS: Final = {1: "poor", 2: "acceptable", 3: "good"}

Rate = Annotated[float, msgspec.Meta(ge=0, le=1)]
Rubric = Annotated[str, msgspec.Meta(max_length=limits.RUBRIC_LENGTH_MAX)]
Digit = Annotated[int, msgspec.Meta(ge=0, le=9)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.REVIEW_WORD_LENGTH_MAX)]
Labels = Annotated[
    dict[Digit, Word],
    msgspec.Meta(min_length=limits.REVIEW_LABELS_MIN, max_length=limits.REVIEW_LABELS_MAX),
]
Reviewers = Annotated[int, msgspec.Meta(ge=1, le=limits.REVIEWERS_MAX)]
LeaseSeconds = Annotated[int, msgspec.Meta(ge=limits.REVIEW_LEASE_S_MIN, le=limits.REVIEW_LEASE_S_MAX)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=limits.REVIEW_SECONDS_MAX)]
Comment = Annotated[str, msgspec.Meta(max_length=limits.REVIEW_COMMENT_LENGTH_MAX)]
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.REVIEW_COMMENT_LENGTH_MAX)]


class Queue(StrEnum):
    """Origin of an item. Only the sample enters estimates."""

    SAMPLE = "sample"  # drawn with a known probability
    DISAGREEMENT = "disagreement"  # judges contradict each other or people: to learn from
    IMPORTED = "imported"  # labelled elsewhere, and not in the sample


class ItemState(StrEnum):
    """State of an item."""

    OPEN = "open"  # wants more reviewers -> done | given_up
    DONE = "done"  # has a label of each wanted reviewer -> open, if one becomes a skip
    GIVEN_UP = "given_up"  # too many reviewers skipped it -> done | open, if one becomes a label


class ReviewSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the reviews of one experiment.

    `rate` is the share of responses in the probability sample. `labels` has a word for each digit;
    a greater digit is better. Each item gets answers of `reviewers` distinct reviewers. A reviewer
    who gives no sign for `lease_s` seconds loses the place.
    """

    rate: Rate = limits.REVIEW_RATE
    rubric: Rubric = ""
    labels: Labels = msgspec.field(default_factory=LABELS.copy)
    reviewers: Reviewers = 1
    lease_s: LeaseSeconds = limits.REVIEW_LEASE_S

    def score(self, label: float) -> float:
        """Return a label on the scale from 0 (the lowest digit) to 1 (the highest)."""
        low, high = min(self.labels), max(self.labels)
        return (label - low) / (high - low)


class StoredSettings(ReviewSettings, frozen=True, kw_only=True):
    """Settings as stored. Each change is the next `revision`."""

    revision: int
    created_at: datetime


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer of a reviewer: a label, or the reason to skip the item.

    Raises ValueError unless it has exactly one of both.
    """

    label: int | None = None
    reason: str | None = None
    comment: str = ""
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.label is None) == (self.reason is None):
            raise ValueError("needs either a label or the reason of a skip")

    def check(self, settings: ReviewSettings) -> None:
        """Raise InvalidInput if the label is not in the settings, or a text cannot be stored."""
        if self.label is not None and self.label not in settings.labels:
            valid = ", ".join(map(str, sorted(settings.labels)))
            raise InvalidInput(f"must be one of {valid}; got {self.label}", field="label")
        if self.reason is not None and not self.reason.strip():
            raise InvalidInput("must say why the item is skipped; got only blanks", field="reason")
        check_storable(self.comment, "comment")
        check_storable(self.reason or "", "reason")

    def same(self, other: "Answer") -> bool:
        """Return whether another answer says the same, however long it took."""
        return (self.label, self.reason, self.comment) == (other.label, other.reason, other.comment)


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of a reviewer's answer. The greatest revision counts."""

    item: int
    reviewer: str
    revision: int
    label: int | None
    reason: str | None
    comment: str
    seconds: float | None
    at: datetime

    @property
    def answer(self) -> Answer:
        """Content of this revision."""
        return Answer(label=self.label, reason=self.reason, comment=self.comment, seconds=self.seconds)


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """An item as its reviewer sees it, without variant, judge and other reviewers.

    `lease` is null if the reviewer holds none. `response` is null once its text has expired.
    `answer` is the reviewer's own.
    """

    item: int
    experiment: str
    lease: UUID | None
    lease_s: int
    prompt: str | None
    response: str | None
    rubric: str
    labels: dict[int, str]
    answer: Review | None = None


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of items that one reviewer can answer and has answered in an experiment."""

    experiment: str
    open: int
    answered: int


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """The labels of one item together, as estimates read them.

    `label` is the mean of the digits of its `n_reviewers` reviewers, and `score` is that mean on
    the scale from 0 to 1. `complete` says whether every wanted reviewer has labelled it.
    """

    response_key: UUID
    epoch: int
    variant: int
    segment: str
    assignment: UUID
    unit_hash: int
    queue: Queue
    inclusion_probability: float | None
    label: float
    score: float
    n_reviewers: int
    complete: bool
    at: datetime


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A response that becomes an item. `detail` says why; reviewers do not see it."""

    experiment_id: int
    response_key: UUID
    response_id: str | None
    epoch: int
    variant: int
    assignment: UUID
    unit_hash: int
    segment: str = ""
    inclusion_probability: float | None = None
    detail: str = ""


def reviewer_of_key(key_id: int) -> str:
    """Return the reviewer who holds an API key."""
    return f"{KEY_PREFIX}{key_id}"


def imported_reviewer(name: str) -> str:
    """Return a reviewer whose labels were made elsewhere."""
    return f"import:{name.removeprefix('import:')}"
