"""Failures of calls: what an answer's status and error mean. Pure.

An error's text may quote the judged text, so it never decides that a judge is blocked: only the
status and machine-readable codes do.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from app.core.personal_data import redacted
from app.jobs.retry import retry_after_s
from app.judging.judges import limits
from app.judging.judges.model import Reason

_QUOTA: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_CODES: Final[Mapping[Reason, frozenset[str]]] = {
    Reason.CONTENT_REFUSED: frozenset(
        {
            *("content_filter", "content_policy_violation", "responsibleaipolicyviolation"),
            *("moderation_blocked", "content_blocked"),
        }
    ),
    Reason.TOO_LONG: frozenset({"context_length_exceeded", "max_tokens_exceeded", "string_above_max_length"}),
    Reason.BILLING: _QUOTA | {"billing_error"},
    Reason.MODEL_GONE: frozenset(
        {"model_not_found", "model_decommissioned", "deployment_not_found", "deploymentnotfound"}
    ),
    # 403 alone is not enough: a firewall may refuse one text by the same status.
    Reason.AUTH: frozenset(
        {
            *("invalid_api_key", "authentication_error", "permission_error", "permission_denied"),
            *("unauthorized", "account_deactivated", "unsupported_country_region_territory"),
        }
    ),
}
_STATUSES: Final[Mapping[int, Reason]] = {
    401: Reason.AUTH,
    402: Reason.BILLING,
    404: Reason.MODEL_GONE,
    405: Reason.NOT_CONFIGURED,
    410: Reason.MODEL_GONE,
    413: Reason.TOO_LONG,
}
_TOO_LONG_TEXT: Final = re.compile(
    r"context.?(?:length|window|size)|maximum (?:context|sequence)|too (?:many tokens|long)"
    r"|exceeds? the (?:maximum|model|available context)|input length",
    re.IGNORECASE,
)
_TRANSIENT_STATUSES: Final = {408, 409, 425}


class Failure(msgspec.Struct, frozen=True):
    """A call that gave no score. `retry_after_s` is the wait that the endpoint asks for."""

    reason: Reason
    detail: str = ""
    retry_after_s: float | None = None


class ErrorBody(NamedTuple):
    """Parts of an error's body: its text, its codes, and the parameter that it is about."""

    message: str = ""
    codes: frozenset[str] = frozenset()
    parameter: str | None = None


def failure(status: int, headers: Mapping[str, str], body: bytes, *, now: datetime) -> Failure:
    """Return what an answer outside of 2xx means."""
    error = error_body(body)
    detail = f"answered {status}: {error.message}" if error.message else f"answered {status}"
    wait_s = _wait_s(headers, now)
    return Failure(_reason(status, error, waits=wait_s is not None), shown(detail), wait_s)


def _reason(status: int, error: ErrorBody, *, waits: bool) -> Reason:
    if status == 429:
        return Reason.BILLING if error.codes & _QUOTA and not waits else Reason.RATE_LIMITED
    if status >= 500 or status in _TRANSIENT_STATUSES:
        return Reason.SERVER_ERROR
    for reason, codes in _CODES.items():
        if error.codes & codes:
            return reason
    if status < 400:  # a redirect: the URL is wrong, and the credential must not follow it
        return Reason.NOT_CONFIGURED
    too_long = Reason.TOO_LONG if _TOO_LONG_TEXT.search(error.message) else Reason.REQUEST_REFUSED
    return _STATUSES.get(status, too_long)


def error_body(body: bytes) -> ErrorBody:
    """Read the common forms of errors: `{"error": {…}}`, `{"error": "…"}`, `{"detail": …}`."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return ErrorBody(body[: limits.ERROR_LENGTH_MAX].decode("utf-8", "replace"))
    if not isinstance(decoded, dict):
        return ErrorBody()
    error = decoded.get("error", decoded)
    if isinstance(error, str):
        return ErrorBody(error, frozenset({error.lower()}))
    if not isinstance(error, dict):
        return ErrorBody()
    if isinstance(error.get("detail"), list):
        return _validation(error["detail"])
    texts = (error.get(name) for name in ("message", "detail", "msg"))
    message = next((text for text in texts if isinstance(text, str)), "")
    codes = {error[name].lower() for name in ("code", "type") if isinstance(error.get(name), str)}
    parameter = error.get("param")
    return ErrorBody(message, frozenset(codes), parameter if isinstance(parameter, str) else None)


def _validation(details: Sequence[Any]) -> ErrorBody:
    """Read the errors of pydantic: `[{"loc": ["body", NAME], "msg": …}]`."""
    for detail in details:
        if isinstance(detail, dict) and isinstance(detail.get("msg"), str):
            place = [part for part in detail.get("loc", ()) if isinstance(part, str) and part != "body"]
            return ErrorBody(f"{'.'.join(place)}: {detail['msg']}", parameter=place[0] if place else None)
    return ErrorBody()


def refused_parameter(body: bytes, sent: Sequence[str]) -> str | None:
    """Return which of the sent parameters an error names: as its `param`, or first in its text."""
    error = error_body(body)
    if error.parameter is not None:
        named = error.parameter.split(".")[0].split("[")[0]
        if named in sent:
            return named
    mentions = [
        (match.start(), name)
        for name in sent
        if (match := re.search(rf"(?<!\w){name}(?!\w)", error.message[: limits.ERROR_LENGTH_MAX]))
    ]
    return min(mentions)[1] if mentions else None


def shown(detail: str) -> str:
    """Return a detail for logs and people: bounded, on one line, without API keys."""
    text, _ = redacted(" ".join(detail.split()), ("api_key",))
    return text[: limits.ERROR_LENGTH_MAX]


def _wait_s(headers: Mapping[str, str], now: datetime) -> float | None:
    milliseconds = headers.get("retry-after-ms", "").strip()
    if milliseconds.isascii() and milliseconds.isdigit():
        return float(milliseconds[:12]) / 1_000
    seconds = headers.get("retry-after")
    return None if seconds is None else retry_after_s(seconds, now)


def too_long(characters_max: int, *texts: str | None) -> Failure | None:
    """Return the failure of texts that have more characters together than a version judges."""
    characters = sum(len(text) for text in texts if text is not None)
    if characters <= characters_max:
        return None
    detail = f"{characters} characters; at most {characters_max} are judged (characters_max)"
    return Failure(Reason.TOO_LONG, detail)
