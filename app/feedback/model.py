"""Types of feedback: the event that a client sends, its result, and the receipt. Pure."""

from datetime import datetime
from enum import IntEnum, IntFlag, StrEnum, unique
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from app.core.errors import Conflict, Forbidden, Gone, InvalidInput, NotFound, UnprocessableInput, WaldError
from app.core.limits import SIGNAL_VALUE_MAX, UNIT_LENGTH_MAX
from app.feedback import limits
from app.feedback.limits import CLOCK_TOLERANCE_S, RESPONSE_ID_LENGTH_MAX

RESERVED_PREFIX: Final = "judge."
"""Beginning of the signals of promoted judges. A client that sent them could pass as a judge."""

SourceName = Literal["implicit", "explicit", "automated", "human"]


class Source(IntEnum):
    """Origin of a signal, as stored."""

    IMPLICIT = 0  # behaviour: copied, regenerated, dwelled
    EXPLICIT = 1  # the user said so: a thumb, a rating
    AUTOMATED = 2  # a program scored it
    HUMAN = 3  # a reviewer labelled it


DERIVED_ID: Final = "\x1f"
"""Beginning of the ids of signals that Wald derives from responses. Clients' ids do not have it."""


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One signal about an assignment.

    It is named by `assignment_id`, by `experiment` and `unit`, or by the `response_id` of a
    response (with its `experiment`, if several experiments have that response).

    `value` replaces the catalogue value of the signal (1 for a signal outside the catalogue). `at`
    is when it happened, ISO 8601 with an offset or seconds since the epoch; without it, or in the
    future, it is the time of arrival. Events with an `id` count once, the first wins; without one,
    an assignment has one value per (signal, source), and the newest wins.
    """

    signal: str
    assignment_id: str | None = None
    experiment: str | None = None
    unit: str | None = None
    response_id: str | None = None
    value: float | None = None
    source: SourceName = "explicit"
    id: str | None = None
    at: Annotated[datetime, msgspec.Meta(tz=True)] | float | None = None


@unique
class EventResult(IntEnum):
    """Result of validating one event. `REASONS` has the texts."""

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
    RESPONSE_ID = 15
    RESERVED_SIGNAL = 16


class Reason(NamedTuple):
    """Reason to refuse an event, with the field and the error of a request with this event alone."""

    error: type[WaldError]
    field: str
    reason: str


REASONS: Final = {
    EventResult.MALFORMED_ID: Reason(
        InvalidInput, "assignment_id", "must be 80 characters of URL-safe base64 as given by /assign"
    ),
    EventResult.UNKNOWN_SIGNING_KEY: Reason(
        UnprocessableInput,
        "assignment_id",
        "is signed with a key that is retired or that this server does not know",
    ),
    EventResult.FORGED_ID: Reason(
        UnprocessableInput,
        "assignment_id",
        "has a wrong signature: it was made or changed outside this installation",
    ),
    EventResult.ID_FROM_THE_FUTURE: Reason(
        UnprocessableInput,
        "assignment_id",
        f"is dated more than {limits.ASSIGNMENT_ID_AHEAD_S_MAX // 3_600} hours ahead",
    ),
    EventResult.EXPIRED_ID: Reason(
        Gone,
        "assignment_id",
        f"its horizon passed more than {limits.ASSIGNMENT_ID_GRACE_S // 86_400} days ago",
    ),
    EventResult.UNKNOWN_EXPERIMENT: Reason(NotFound, "experiment", "does not exist"),
    EventResult.SIGNAL: Reason(InvalidInput, "signal", "must be 1 to 128 of A-Z a-z 0-9 . _ -"),
    EventResult.RESERVED_SIGNAL: Reason(
        Forbidden,
        "signal",
        f"signals that begin with {RESERVED_PREFIX!r} come from promoted judges only: use another name",
    ),
    EventResult.VALUE: Reason(
        InvalidInput,
        "value",
        "must be within the range of the signal in the experiment's reward, and is needed if the"
        " reward has no value for the signal; for a summed reward, or a signal that the reward does"
        f" not read, at most {SIGNAL_VALUE_MAX:g} in absolute value",
    ),
    EventResult.TIME: Reason(
        InvalidInput,
        "at",
        f"must be at most {limits.CLOCK_SKEW_S_MAX // 3_600} hours ahead and "
        f"at most {limits.FEEDBACK_AGE_S_MAX // 86_400} days ago",
    ),
    EventResult.EVENT_ID: Reason(
        InvalidInput,
        "id",
        f"must be 1 to {limits.EVENT_ID_LENGTH_MAX} characters without NUL, and not begin with U+001F",
    ),
    EventResult.UNIT: Reason(InvalidInput, "unit", f"must be 1 to {UNIT_LENGTH_MAX} characters without NUL"),
    EventResult.ADDRESS: Reason(
        InvalidInput, "assignment_id", "give either assignment_id, or experiment and unit, or response_id"
    ),
    EventResult.UNIT_BY_CLIENT_KEY: Reason(
        Forbidden, "assignment_id", "a client-side key names an assignment by its assignment_id only"
    ),
    EventResult.ID_REUSED: Reason(
        Conflict,
        "id",
        "another event of this request has the same id but a different signal, source or value",
    ),
    EventResult.RESPONSE_ID: Reason(
        InvalidInput, "response_id", f"must be 1 to {RESPONSE_ID_LENGTH_MAX} characters without NUL"
    ),
}
"""The text of every result except ACCEPTED."""


class Remark(IntFlag):
    """Reasons why an accepted event may not count as intended. `REMARKS` has the texts."""

    UNKNOWN_SIGNAL = 1
    LATE = 2
    EARLY = 4
    NOT_STARTED = 8
    UNRECORDED = 16
    OUT_OF_RANGE = 32
    VALUE_MISSING = 64


class RemarkText(NamedTuple):
    """The stable name of a remark, its field and its text."""

    kind: str
    field: str
    reason: str


REMARKS: Final = {
    Remark.UNKNOWN_SIGNAL: RemarkText(
        "unknown_signal", "signal", "neither the reward nor a metric of {experiment} reads {signal!r}"
    ),
    Remark.LATE: RemarkText(
        "late", "at", "is after the horizon of {horizon_s:g} s from the assignment: stored, not counted"
    ),
    Remark.EARLY: RemarkText(
        "early",
        "at",
        f"is more than {CLOCK_TOLERANCE_S:g} s before the assignment: stored, not counted; check the"
        " sender's clock, or leave out `at`",
    ),
    Remark.NOT_STARTED: RemarkText(
        "not_started", "experiment", "{experiment} is a draft: no event counts before it is started"
    ),
    Remark.UNRECORDED: RemarkText(
        "unrecorded",
        "assignment_id",
        "the assignment was not recorded (forced, not targeted, not running, or Valkey was away): its"
        " feedback is not counted",
    ),
    Remark.OUT_OF_RANGE: RemarkText(
        "out_of_range", "value", "{value:g} is outside the declared range, {low} to {high}"
    ),
    Remark.VALUE_MISSING: RemarkText(
        "value_missing", "value", "a metric measures {signal!r}, but the event has no value: it counts as 1"
    ),
}
"""The text of every remark, with fields for the event's values."""


class SignalState(StrEnum):
    """State of a signal in the log."""

    COUNTED = "counted"  # in time, and its assignment counts
    WAITING = "waiting"  # the exposure of its assignment has not arrived, or was not recorded
    UNKNOWN_UNIT = "unknown_unit"  # its unit had no assignment at that time
    LATE = "late"  # after the horizon of its assignment
    EARLY = "early"  # more than `CLOCK_TOLERANCE_S` before its assignment


SIGNAL_STATES: Final = tuple(SignalState)
COUNTED, WAITING, UNKNOWN_UNIT, LATE, EARLY = range(len(SIGNAL_STATES))
"""Positions of the states in `SIGNAL_STATES`."""


class ItemError(msgspec.Struct, frozen=True):
    """Reason to refuse one event. `kind` is the last part of the type of the same problem alone."""

    kind: str
    field: str
    reason: str


class Rejection(msgspec.Struct, frozen=True):
    """One refused event and its place in the request, from 0."""

    index: int
    error: ItemError


class FeedbackWarning(msgspec.Struct, frozen=True, omit_defaults=True):
    """Reason why an accepted event does not count, or may not count as intended.

    `index` is its place in the request, from 0. `nearest` is the known signal with the most similar
    spelling.
    """

    index: int
    kind: str
    field: str
    reason: str
    nearest: str | None = None


class Receipt(msgspec.Struct, frozen=True):
    """The answer to `/feedback`: how many events are durable, and which were refused.

    As far as the server knows, each accepted event is in one of the counts from `counted` to `early`.
    `waiting` events name a unit, whose assignment only the ledger can find, or an assignment that was
    not recorded. `warned` counts the events with warnings, and `warnings` has the first warnings.
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
