"""Types of responses: what a sender sends, and what is stored. Pure."""

from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

Prompt = str | list[Any]
"""A text, or the messages of a chat as the provider's API takes them."""


class Response(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A response as sent: what the product showed for an assignment.

    The assignment is named by `assignment_id`, or by `experiment` and `unit`.
    `response_id` is the provider's id of the completion, a trace id or any other text; it is an
    address for `/feedback`, unique within its experiment. Without one, a response that is sent
    again with the same content is the same response. `error` says why the model gave no response.
    `at` is when it was shown, ISO 8601 with an offset or seconds since the epoch; without it, or in
    the future, it is the time of arrival. `latency_ms` is in milliseconds, `cost_usd` in US
    dollars.
    """

    response: str | None = None
    assignment_id: str | None = None
    experiment: str | None = None
    unit: str | None = None
    response_id: str | None = None
    session_id: str | None = None
    prompt: Prompt | None = None
    model: str | None = None
    latency_ms: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: float | None = None
    finish_reason: str | None = None
    error: str | None = None
    metadata: dict[str, Any] | None = None
    at: Annotated[datetime, msgspec.Meta(tz=True)] | float | None = None


class Texts(msgspec.Struct, frozen=True, array_like=True):
    """The texts of a response, which are compressed together.

    `redacted` names the kinds of data that were removed from them.
    """

    response: str
    prompt: str | None = None
    error: str | None = None
    metadata: dict[str, Any] = {}
    redacted: tuple[str, ...] = ()


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A stored response with its assignment.

    `seq` orders responses as they were stored. `redacted` names the kinds of data that were removed
    before storing. `erased`: its texts were deleted on request, so `response` is empty.
    """

    seq: int
    response_key: UUID
    experiment_id: int
    epoch: int
    variant: int
    assignment: UUID
    unit_hash: int
    unit: str | None
    response_id: str | None
    session_id: str | None
    at: datetime
    received_at: datetime
    prompt: str | None
    response: str
    model: str | None
    latency_ms: float | None
    tokens_in: int | None
    tokens_out: int | None
    cost_usd: float | None
    finish_reason: str | None
    error: str | None
    metadata: dict[str, Any]
    redacted: tuple[str, ...] = ()
    erased: bool = False


_KEY_BYTES: Final = 16
_HASH_BYTES: Final = 8


def key_of(experiment_id: int, response_id: str) -> UUID:
    """Return the key of the response with this id in this experiment."""
    return UUID(bytes=_digest(b"id", experiment_id, response_id.encode(), _KEY_BYTES))


def key_of_content(experiment_id: int, content: bytes) -> UUID:
    """Return the key of a response without an id: a hash of everything that was sent."""
    return UUID(bytes=_digest(b"content", experiment_id, content, _KEY_BYTES))


def id_hash(response_id: str) -> int:
    """Return the hash of a response_id by which its keys are found in all experiments."""
    digest = blake2b(response_id.encode(), digest_size=_HASH_BYTES).digest()
    return int.from_bytes(digest, "big", signed=True)


def _digest(kind: bytes, experiment_id: int, content: bytes, size: int) -> bytes:
    return blake2b(content, digest_size=size, key=experiment_id.to_bytes(4, "big"), person=kind).digest()
