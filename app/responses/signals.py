"""Signals that a response gives by itself: latency, tokens, cost, error and finish reason. Pure.

They have the source `automated` and an id of their own, so that each response counts once. A signal
of the same name that the client sends about the assignment replaces them (`ledger/log/step.py`).
"""

import re
from base64 import urlsafe_b64encode
from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np

from app.feedback.entry import TIMES, VALUES, SignalsEntry
from app.feedback.model import DERIVED_ID, Source

FINISH_REASON: Final = "finish_reason."
"""Beginning of the names of signals about the finish reason."""

ERROR: Final = "error"
NUMBERS: Final = ("latency_ms", "tokens_in", "tokens_out", "cost_usd")
"""Fields of a response that are signals under the same name."""

_NOT_IN_KEY: Final = re.compile(r"[^A-Za-z0-9._-]")
_REASON_LENGTH_MAX: Final = 64
_SAME_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "complete": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "function_call": "tool_calls",
    "safety": "content_filter",
    "refusal": "content_filter",
}
"""OpenTelemetry's name for what providers call differently."""


class Measured(NamedTuple):
    """A stored response as far as its signals depend on it. `assignment` is the body of its id."""

    response_key: UUID
    assignment: bytes
    at_us: int
    failed: bool
    tokens_in: int | None
    tokens_out: int | None
    latency_ms: float | None
    cost_usd: float | None
    finish_reason: str | None
    reads: Collection[str] = ()
    """Names of the signals that the experiment reads."""


def values(measured: Measured) -> Iterator[tuple[str, float]]:
    """Yield the name and value of each signal that the response gives.

    `error` is 0 or 1. The finish reason gives 1 for its own name, and 0 for the other finish
    reasons that the experiment reads, so that a share has its denominator.
    """
    yield ERROR, float(measured.failed)
    for name in NUMBERS:
        value = getattr(measured, name)
        if value is not None:
            yield name, float(value)
    if measured.finish_reason is not None:
        actual = reason_signal(measured.finish_reason)
        yield actual, 1.0
        for name in measured.reads:
            if name.startswith(FINISH_REASON) and name != actual:
                yield name, 0.0


def is_derived(name: str) -> bool:
    """Return whether responses give signals of this name by themselves."""
    return name == ERROR or name in NUMBERS or name.startswith(FINISH_REASON)


def reason_signal(finish_reason: str) -> str:
    """Return the name of the signal for a finish reason, in OpenTelemetry's words."""
    word = finish_reason.lower()
    word = _SAME_REASONS.get(word, word)
    return FINISH_REASON + _NOT_IN_KEY.sub("_", word)[:_REASON_LENGTH_MAX]


def entry_of(responses: Sequence[Measured], received_us: int) -> SignalsEntry:
    """Return the signals of the responses."""
    given = [(response, name, value) for response in responses for name, value in values(response)]
    return SignalsEntry(
        received_us // 1_000,
        b"".join(response.assignment for response, _, _ in given),
        [name for _, name, _ in given],
        bytes([Source.AUTOMATED]) * len(given),
        np.array([value for _, _, value in given], VALUES).tobytes(),
        np.array([response.at_us for response, _, _ in given], TIMES).tobytes(),
        [_signal_id(response.response_key, name) for response, name, _ in given],
    )


def _signal_id(key: UUID, name: str) -> str:
    return f"{DERIVED_ID}{urlsafe_b64encode(key.bytes).decode().rstrip('=')}{name}"
