"""The words of feedback: an event as a client sends it, and what became of it. Pure."""

from datetime import datetime
from enum import IntEnum, IntFlag, StrEnum
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from app.core.errors import Conflict, Forbidden, Gone, InvalidInput, NotFound, UnprocessableInput, WaldError
from app.core.limits import SIGNAL_VALUE_MAX, UNIT_LENGTH_MAX
from app.feedback import limits
from app.feedback.limits import CLOCK_TOLERANCE_S

SourceName = Literal["implicit", "explicit", "automated", "human"]


class Source(IntEnum):
    """Where a signal comes from, as stored."""

    IMPLICIT = 0  # behaviour: copied, regenerated, dwelled
    EXPLICIT = 1  # the user said so: a thumb, a rating
    AUTOMATED = 2  # a program scored it
    HUMAN = 3  # a reviewer labelled it


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One signal about an assignment, named by `assignment_id`, or by `experiment` and `unit`.

    `value` replaces the catalogue value of the signal (1 for a signal outside the catalogue). `at` is when it
    happened, ISO 8601 with an offset or seconds since the epoch; without it, or in the future, it is the time
    of arrival. Events with an `id` count once, the first wins; without one, an assignment has one value per
    (signal, source), and the newest wins.
    """

    signal: str
    assignment_id: str | None = None
    experiment: str | None = None
    unit: str | None = None
    value: float | None = None
    source: SourceName = "explicit"
    id: str | None = None
    at: Annotated[datetime, msgspec.Meta(tz=True)] | float | None = None


class Verdict(IntEnum):
    """What became of one event. `REASONS` says it in words."""

    ACCEPTED = 0
    MALFORMED_ID = 1
    UNKNOWN_SIGNING_KEY = 2
    FORGED_ID = 3
    ID_FROM_THE_FUTURE = 4
    EXPIRED_ID = 5
    UNKNOWN_EXPERIMENT = 6
    SIGNAL = 7
    VALUE = 8
    TIME = 9
    EVENT_ID = 10
    UNIT = 11
    ADDRESS = 12
    UNIT_BY_CLIENT_KEY = 13
    ID_REUSED = 14


class Reason(NamedTuple):
    """Why an event was refused: the error it would be on its own, the field and what is allowed."""

    error: type[WaldError]
    field: str
    reason: str


REASONS: Final = {
    Verdict.MALFORMED_ID: Reason(
        InvalidInput, "assignment_id", "must be 80 characters of URL-safe base64 as given by /assign"
    ),
    Verdict.UNKNOWN_SIGNING_KEY: Reason(
        UnprocessableInput, "assignment_id", "signed under a key that is unknown here or retired"
    ),
    Verdict.FORGED_ID: Reason(
        UnprocessableInput, "assignment_id", "its signature does not match: another installation made the id"
    ),
    Verdict.ID_FROM_THE_FUTURE: Reason(UnprocessableInput, "assignment_id", "its time has not come yet"),
    Verdict.EXPIRED_ID: Reason(
        Gone,
        "assignment_id",
        f"its horizon passed more than {limits.ASSIGNMENT_ID_GRACE_S // 86_400} days ago",
    ),
    Verdict.UNKNOWN_EXPERIMENT: Reason(NotFound, "experiment", "no such experiment"),
    Verdict.SIGNAL: Reason(InvalidInput, "signal", "must be 1 to 128 of A-Z a-z 0-9 . _ -"),
    Verdict.VALUE: Reason(
        InvalidInput,
        "value",
        "must be within the range of the experiment's reward; in a sum or outside the catalogue, "
        f"at most {SIGNAL_VALUE_MAX:g} in size",
    ),
    Verdict.TIME: Reason(
        InvalidInput,
        "at",
        f"must not be more than {limits.CLOCK_SKEW_S_MAX // 3_600} hours ahead, "
        f"nor more than {limits.FEEDBACK_AGE_S_MAX // 86_400} days ago",
    ),
    Verdict.EVENT_ID: Reason(
        InvalidInput, "id", f"must be 1 to {limits.EVENT_ID_LENGTH_MAX} characters without NUL"
    ),
    Verdict.UNIT: Reason(InvalidInput, "unit", f"must be 1 to {UNIT_LENGTH_MAX} characters without NUL"),
    Verdict.ADDRESS: Reason(
        InvalidInput, "assignment_id", "give either assignment_id, or experiment and unit"
    ),
    Verdict.UNIT_BY_CLIENT_KEY: Reason(
        Forbidden, "assignment_id", "a client-side key names an assignment by its assignment_id only"
    ),
    Verdict.ID_REUSED: Reason(
        Conflict, "id", "another event of this batch has this id and says something else"
    ),
}
"""Every verdict but ACCEPTED."""


class Remark(IntFlag):
    """What an accepted event should be told. `REMARKS` says it in words."""

    UNKNOWN_SIGNAL = 1
    LATE = 2
    EARLY = 4
    NOT_STARTED = 8
    UNRECORDED = 16
    OUT_OF_RANGE = 32
    VALUE_MISSING = 64


class RemarkText(NamedTuple):
    """The stable name of a remark, the field it is about, and its words."""

    kind: str
    field: str
    reason: str


REMARKS: Final = {
    Remark.UNKNOWN_SIGNAL: RemarkText(
        "unknown_signal", "signal", "neither the reward nor a metric of {experiment} reads {signal!r}"
    ),
    Remark.LATE: RemarkText(
        "late", "at", "after the horizon of {horizon_s:g} s from the assignment: stored, not counted"
    ),
    Remark.EARLY: RemarkText(
        "early",
        "at",
        f"more than {CLOCK_TOLERANCE_S:g} s before the assignment: stored, not counted; check the clock of"
        " the sender, or leave out `at`",
    ),
    Remark.NOT_STARTED: RemarkText(
        "not_started", "experiment", "{experiment} is a draft: nothing counts before it is started"
    ),
    Remark.UNRECORDED: RemarkText(
        "unrecorded",
        "assignment_id",
        "the assignment was not recorded (forced, not targeted, not running, or Valkey was away): its"
        " feedback is not counted",
    ),
    Remark.OUT_OF_RANGE: RemarkText(
        "out_of_range", "value", "{value:g} is outside of the declared range, {low} to {high}"
    ),
    Remark.VALUE_MISSING: RemarkText(
        "value_missing", "value", "a metric measures {signal!r}, but no value was sent: it counts as 1"
    ),
}
"""Every remark, in words that are completed with the event's own."""


class SignalState(StrEnum):
    """What has become of a signal in the log."""

    COUNTED = "counted"  # it belongs to an assignment that counts, and happened in time
    WAITING = "waiting"  # the exposure of its assignment has not arrived; of unrecorded ones it never does
    UNKNOWN_UNIT = "unknown_unit"  # named by a unit without an assignment at the time
    LATE = "late"  # after the horizon of its assignment
    EARLY = "early"  # more than `CLOCK_TOLERANCE_S` before its assignment


SIGNAL_STATES: Final = tuple(SignalState)
COUNTED, WAITING, UNKNOWN_UNIT, LATE, EARLY = range(len(SIGNAL_STATES))
"""Their places."""


class ItemError(msgspec.Struct, frozen=True):
    """Why one event was refused; `kind` is the last part of the type of the same problem on its own."""

    kind: str
    field: str
    reason: str


class Rejection(msgspec.Struct, frozen=True):
    """One refused event and its place in the request, from 0."""

    index: int
    error: ItemError


class FeedbackWarning(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an accepted event does not count, or not as it was likely meant.

    `index` is its place in the request, from 0. `nearest` is the known signal that is spelt most alike.
    """

    index: int
    kind: str
    field: str
    reason: str
    nearest: str | None = None


class Receipt(msgspec.Struct, frozen=True):
    """The answer to `/feedback`: how many events are now durable, and which were refused.

    Each accepted event is in one of the counts from `counted` to `early`, as far as the server knows:
    `waiting` are those whose assignment only the ledger can find, because they name a unit, or because the
    assignment was not recorded. `warnings` are the first of `warned` ones.
    """

    accepted: int
    rejected: tuple[Rejection, ...] = ()
    counted: int = 0
    waiting: int = 0
    unknown_signal: int = 0
    late: int = 0
    early: int = 0
    warned: int = 0
    warnings: tuple[FeedbackWarning, ...] = ()
