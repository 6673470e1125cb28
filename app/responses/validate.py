"""Validation of the responses of a request, with redaction. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from app.assignment.assignment_id import BODY_BYTES, AssignmentId, Verdict
from app.assignment.bucketing import unit_hash
from app.assignment.snapshot import PreparedExperiment, Snapshot
from app.core.errors import InvalidInput, TooLarge, Unavailable, WaldError
from app.core.limits import UNIT_LENGTH_MAX
from app.core.text import unstorable
from app.feedback.limits import (
    ASSIGNMENT_ID_AHEAD_S_MAX,
    ASSIGNMENT_ID_GRACE_S,
    CLOCK_SKEW_S_MAX,
    FEEDBACK_AGE_S_MAX,
    RESPONSE_ID_LENGTH_MAX,
)
from app.feedback.model import REASONS, EventResult
from app.responses import limits
from app.responses.aliases import as_text
from app.responses.entry import AcceptedResponse, encode_texts
from app.responses.model import Response, Texts, key_of, key_of_content
from app.responses.redaction import redact

_TOKEN_RESULTS: Final = {
    Verdict.MALFORMED: EventResult.MALFORMED_ID,
    Verdict.UNKNOWN_KEY: EventResult.UNKNOWN_SIGNING_KEY,
    Verdict.FORGED: EventResult.FORGED_ID,
}
_encode: Final = msgspec.msgpack.Encoder().encode


class Refusal(NamedTuple):
    """Reason to refuse one response: the error of a request with this response alone."""

    error: type[WaldError]
    field: str
    reason: str


class Validated(NamedTuple):
    """Accepted responses, and the refusals of all others by their number in the request.

    `unknown`: an experiment or signing key is not known, which a server that has not loaded
    everything may not know yet. `redacted`: number of responses from which something was removed.
    """

    accepted: list[AcceptedResponse]
    refused: dict[int, Refusal]
    unknown: bool
    redacted: int


class _Refused(Exception):
    """Raised for a response that is refused."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class _Address(NamedTuple):
    """The experiment and unit of a response, and the body of its assignment id if it was given."""

    experiment: PreparedExperiment
    unit_hash: int
    assignment: bytes


def validate(responses: Sequence[Response], snapshot: Snapshot, now_us: int, *, by_unit: bool) -> Validated:
    """Validate the responses of one request that arrived at `now_us` (microseconds).

    `by_unit`: the caller may name assignments by their unit. Raises Unavailable while no signing
    key is known.
    """
    accepted: list[AcceptedResponse] = []
    refused: dict[int, Refusal] = {}
    redacted = 0
    addresses = _addresses(responses, snapshot, now_us, by_unit=by_unit)
    for number, (response, address) in enumerate(zip(responses, addresses, strict=True)):
        if isinstance(address, Refusal):
            refused[number] = address
            continue
        try:
            _check(response)
            at_us = _at_us(response.at, now_us)
            before = _texts(response)
            texts = redact(before, address.experiment.published.responses.redact)
        except _Refused as error:
            refused[number] = error.refusal
        except WaldError as error:
            field = error.errors[0].field if error.errors else "response"
            refused[number] = Refusal(type(error), field, error.detail)
        else:
            redacted += bool(texts.redacted)
            accepted.append(_accepted(response, address, texts, now_us, at_us))
    unknown = any(refusal in _UNKNOWN for refusal in refused.values())
    return Validated(accepted, refused, unknown, redacted)


_ADDRESS: Final = Refusal(InvalidInput, "assignment_id", "give either assignment_id, or experiment and unit")


def _refusal(result: EventResult) -> Refusal:
    return Refusal(*REASONS[result])


_UNKNOWN: Final = (_refusal(EventResult.UNKNOWN_EXPERIMENT), _refusal(EventResult.UNKNOWN_SIGNING_KEY))


def _addresses(
    responses: Sequence[Response], snapshot: Snapshot, now_us: int, *, by_unit: bool
) -> list[_Address | Refusal]:
    """Find the experiment and the assignment of each response, as for feedback."""
    if snapshot.signer is None:
        raise Unavailable("no key to verify assignment ids with has been loaded yet")
    bodies, verdicts = snapshot.signer.verify_batch([response.assignment_id or "" for response in responses])
    raw = bodies.tobytes()
    addresses: list[_Address | Refusal] = []
    for number, (response, verdict) in enumerate(zip(responses, verdicts.tolist(), strict=True)):
        if response.assignment_id is not None and response.experiment is None and response.unit is None:
            body = raw[number * BODY_BYTES : (number + 1) * BODY_BYTES]
            address = _by_assignment(Verdict(verdict), body, snapshot, now_us)
        elif response.assignment_id is None and response.experiment and response.unit is not None:
            address = _by_unit(response, snapshot) if by_unit else _refusal(EventResult.UNIT_BY_CLIENT_KEY)
        else:
            address = _ADDRESS
        addresses.append(address)
    return addresses


def _by_assignment(verdict: Verdict, body: bytes, snapshot: Snapshot, now_us: int) -> _Address | Refusal:
    if verdict is not Verdict.VALID:
        return _refusal(_TOKEN_RESULTS[verdict])
    assigned = AssignmentId.from_body(body)
    experiment = snapshot.by_id.get(assigned.experiment_id)
    if experiment is None:
        return _refusal(EventResult.UNKNOWN_EXPERIMENT)
    age_s = (now_us / 1_000 - assigned.assigned_at_ms) / 1_000
    if age_s < -ASSIGNMENT_ID_AHEAD_S_MAX:
        return _refusal(EventResult.ID_FROM_THE_FUTURE)
    if age_s > experiment.published.reward.horizon_s + ASSIGNMENT_ID_GRACE_S:
        return _refusal(EventResult.EXPIRED_ID)
    return _Address(experiment, assigned.unit_hash, body)


def _by_unit(response: Response, snapshot: Snapshot) -> _Address | Refusal:
    unit = response.unit or ""
    if not _is_text(unit, UNIT_LENGTH_MAX):
        return _refusal(EventResult.UNIT)
    experiment = snapshot.by_key.get(response.experiment or "")
    if experiment is None:
        return _refusal(EventResult.UNKNOWN_EXPERIMENT)
    return _Address(experiment, unit_hash(experiment.published.salt, unit), b"")


def _check(response: Response) -> None:
    """Raise _Refused, naming the field, for a field out of its bounds."""
    if response.response is None and response.error is None:
        raise _invalid("response", "is required; if the model gave none, say why in `error`")
    _check_text("response", response.response, limits.TEXT_BYTES_MAX)
    _check_text("error", response.error, limits.ERROR_BYTES_MAX)
    if response.response_id is not None and not _is_text(response.response_id, RESPONSE_ID_LENGTH_MAX):
        raise _Refused(_refusal(EventResult.RESPONSE_ID))
    for field in ("session_id", "model", "finish_reason"):
        value = getattr(response, field)
        if value is not None and not _is_text(value, limits.NAME_LENGTH_MAX):
            raise _invalid(field, f"must be 1 to {limits.NAME_LENGTH_MAX} characters without NUL")
    for field, bound in _NUMBERS:
        value = getattr(response, field)
        if value is not None and not 0 <= value <= bound:
            raise _invalid(field, f"must be 0 to {bound:g}; got {value:g}")
    if response.metadata is not None:
        if problem := unstorable(response.metadata, "metadata"):
            raise _invalid(problem.field, problem.reason)
        size = len(msgspec.json.encode(response.metadata))
        if size > limits.METADATA_BYTES_MAX:
            raise _too_large("metadata", limits.METADATA_BYTES_MAX, size, " of JSON")


_NUMBERS: Final = (
    ("latency_ms", limits.LATENCY_MS_MAX),
    ("tokens_in", limits.TOKENS_MAX),
    ("tokens_out", limits.TOKENS_MAX),
    ("cost_usd", limits.COST_USD_MAX),
)


def _check_text(field: str, text: str | None, bytes_max: int) -> None:
    if text is None or len(text) * 4 <= bytes_max:  # a character has at most four bytes
        return
    size = len(text.encode())
    if size > bytes_max:
        raise _too_large(field, bytes_max, size, " in UTF-8")


def _texts(response: Response) -> Texts:
    """Return the texts of a response. Raises _Refused if the prompt is too large."""
    prompt = None if response.prompt is None else as_text(response.prompt)
    _check_text("prompt", prompt, limits.TEXT_BYTES_MAX)
    return Texts(response.response or "", prompt, response.error, response.metadata or {})


def _at_us(at: datetime | float | None, now_us: int) -> int:
    """Return when a response was shown, at most when it arrived. Raises _Refused."""
    if at is None:
        return now_us
    seconds = at.timestamp() if isinstance(at, datetime) else at
    ahead_s = seconds - now_us / 1e6
    if not -FEEDBACK_AGE_S_MAX <= ahead_s <= CLOCK_SKEW_S_MAX:
        raise _Refused(_refusal(EventResult.TIME))
    return min(round(seconds * 1e6), now_us)


def _accepted(
    response: Response, address: _Address, texts: Texts, now_us: int, at_us: int
) -> AcceptedResponse:
    experiment_id = address.experiment.published.id
    if response.response_id is not None:
        key = key_of(experiment_id, response.response_id)
    else:
        key = key_of_content(experiment_id, _encode(response))
    return AcceptedResponse(
        key.bytes,
        experiment_id,
        address.unit_hash,
        address.assignment,
        now_us,
        at_us,
        encode_texts(texts),
        response.unit,
        response.response_id,
        response.session_id,
        response.model,
        response.latency_ms,
        response.tokens_in,
        response.tokens_out,
        response.cost_usd,
        response.finish_reason,
        response.error is not None,
    )


def _is_text(text: str, length_max: int) -> bool:
    return 0 < len(text) <= length_max and "\0" not in text


def _invalid(field: str, reason: str) -> _Refused:
    return _Refused(Refusal(InvalidInput, field, reason))


def _too_large(field: str, bytes_max: int, size: int, unit: str) -> _Refused:
    reason = f"must have at most {bytes_max} bytes{unit}, got {size}: shorten it before sending"
    return _Refused(Refusal(TooLarge, field, reason))
