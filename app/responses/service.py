"""The service of `POST /responses`: decodes responses, validates them and makes them durable."""

import re
from collections import Counter
from typing import Final, Protocol

import msgspec

from app.assignment.snapshot import Snapshot
from app.core.bodies import MediaType
from app.core.clock import Clock
from app.core.errors import FieldError, InvalidInput, Unavailable
from app.core.telemetry import RESPONSES_RECEIVED
from app.feedback.model import ItemError, Rejection
from app.responses.commit import ResponseCommit
from app.responses.decode import Decoded, decode
from app.responses.validate import Refusal, Validated, validate

_FIELD: Final = re.compile(r"(?:field `|\$\.)([\w.]+)")


class Snapshots(Protocol):
    """Holder of the newest snapshot."""

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        ...


class ResponseReceipt(msgspec.Struct, frozen=True):
    """The answer to `POST /responses`: how many are durable, and which were refused.

    `redacted` counts the accepted responses from which a redactor removed something.
    """

    accepted: int
    rejected: tuple[Rejection, ...] = ()
    redacted: int = 0

    @property
    def status(self) -> int:
        """202, or 422 if no response was accepted."""
        return 202 if self.accepted else 422


class ResponseService:
    """Takes the responses of requests and answers with receipts."""

    def __init__(self, snapshots: Snapshots, commit: ResponseCommit, clock: Clock) -> None:
        self._snapshots = snapshots
        self._commit = commit
        self._clock = clock

    async def accept(self, body: bytes, media_type: MediaType, *, by_unit: bool) -> ResponseReceipt:
        """Take the responses of a request; return when the accepted ones are durable.

        `by_unit`: the caller may name assignments by experiment and unit. If the request is one
        response instead of a list, its error is raised. Raises InvalidInput or TooLarge if the body
        cannot be read, Unavailable without Valkey.
        """
        decoded = decode(body, media_type)
        snapshot = self._snapshots.snapshot
        validated = validate(decoded.events, snapshot, self._clock.now_us(), by_unit=by_unit)
        if validated.unknown and not snapshot.complete:
            raise Unavailable(
                "this server does not know all experiments yet; sending the responses again is safe"
            )
        rejections = _rejections(decoded, validated)
        if validated.accepted:
            await self._commit.append(validated.accepted)
            RESPONSES_RECEIVED.labels("accepted").inc(len(validated.accepted))
        return ResponseReceipt(len(validated.accepted), rejections, validated.redacted)


def _rejections(decoded: Decoded, validated: Validated) -> tuple[Rejection, ...]:
    """Return the refused responses in the order of the request, and count them in the metrics.

    If the request was one response, raise its error.
    """
    refused: dict[int, Refusal] = {}
    for place, message in decoded.malformed.items():
        named = _FIELD.search(message)
        refused[place] = Refusal(InvalidInput, named[1] if named else "response", message)
    for number, refusal in validated.refused.items():
        refused[decoded.places[number]] = refusal
    for kind, count in Counter(refusal.error.kind for refusal in refused.values()).items():
        RESPONSES_RECEIVED.labels(kind).inc(count)
    if decoded.single:
        for error, field, reason in refused.values():
            raise error(f"{field}: {reason}", errors=(FieldError(field, reason),))
    return tuple(
        Rejection(place, ItemError(error.kind, field, reason))
        for place, (error, field, reason) in sorted(refused.items())
    )
