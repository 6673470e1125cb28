"""The service of `/feedback`: decodes events, validates them and makes them durable."""

import asyncio
import re
from collections import Counter
from typing import Final, Protocol

import numpy as np

from app.assignment.snapshot import Snapshot
from app.core.clock import Clock
from app.core.errors import FieldError, InvalidInput, Unavailable, WaldError
from app.core.telemetry import FEEDBACK
from app.feedback import limits
from app.feedback.commit import SignalsCommit
from app.feedback.decode import Decoded, MediaType, decode
from app.feedback.model import REASONS, EventResult, ItemError, Receipt, Rejection, Source
from app.feedback.remarks import remarked
from app.feedback.validate import EventResults, Validated, validate

RESULTS: Final = ("counted", "waiting", "unknown_signal", "late", "early")
"""Fields of a receipt that count accepted events; also the labels of their metric."""

_COUNTED: Final = FEEDBACK.labels("counted")
_FIELD: Final = re.compile(r"(?:field `|\$\.)(\w+)")

_UNKNOWN: Final = (EventResult.UNKNOWN_EXPERIMENT, EventResult.UNKNOWN_SIGNING_KEY)


class Snapshots(Protocol):
    """Holder of the newest snapshot."""

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        ...


class FeedbackService:
    """Takes the events of requests and answers with receipts."""

    def __init__(self, snapshots: Snapshots, commit: SignalsCommit, clock: Clock) -> None:
        self._snapshots = snapshots
        self._commit = commit
        self._clock = clock
        self._next_us = 0

    async def accept(self, body: bytes, media_type: MediaType, *, by_unit: bool) -> Receipt:
        """Take the events of a request; return when the accepted events are durable.

        `by_unit`: the caller may name assignments by experiment and unit. If the request is one event
        instead of a list, its error is raised; errors in a list are part of the receipt.
        Raises InvalidInput or TooLarge if the body cannot be read, Unavailable without Valkey.
        """
        receipt, written = self.take(body, media_type, by_unit=by_unit)
        if written is not None:
            await written
        return receipt

    def take(
        self, body: bytes, media_type: MediaType, *, by_unit: bool
    ) -> tuple[Receipt, asyncio.Future[None] | None]:
        """Take the events without waiting: the receipt is valid once the future is done.

        The future is None if no event was accepted.
        """
        decoded = decode(body, media_type)
        # Each event has its own microsecond, so that events without a time keep their order of
        # arrival.
        now_us = self._clock.now_us()
        if not now_us <= self._next_us <= now_us + limits.FEEDBACK_ORDER_US_MAX:
            self._next_us = now_us  # the clock has passed it, or was set back
        snapshot = self._snapshots.snapshot
        validated = validate(decoded.events, snapshot, self._next_us, by_unit=by_unit)
        self._next_us += len(decoded.events)
        self._refuse_unless_known(validated.results)
        results = (
            [EventResult(code) for code in validated.results.tolist()] if validated.results.any() else []
        )
        rejections = _rejections(decoded, results)
        receipt = _receipt(decoded, validated, rejections, snapshot)
        written = self._commit.append(validated.entry) if validated.entry.n else None
        if validated.addressed:
            addressed = self._commit.addressed.append(validated.addressed)
            written = addressed if written is None else _both(written, addressed)
        return receipt, written

    def _refuse_unless_known(self, results: EventResults) -> None:
        """Refuse all events while this server may not know an existing experiment or signing key.

        Raises Unavailable. Sending all events again is safe.
        """
        if results.any() and not self._snapshots.snapshot.complete and np.isin(results, _UNKNOWN).any():
            raise Unavailable(
                "this server does not know all experiments yet; sending the events again is safe"
            )


def _both(*written: asyncio.Future[None]) -> asyncio.Future[None]:
    """Return a future that is done when all are, with the first error."""

    async def wait() -> None:
        for outcome in await asyncio.gather(*written, return_exceptions=True):
            if outcome is not None:
                raise outcome

    return asyncio.ensure_future(wait())


def receipt_status(receipt: Receipt) -> int:
    """Return 202, or 422 if no event was accepted."""
    return 202 if receipt.accepted else 422


def _receipt(
    decoded: Decoded, validated: Validated, rejections: tuple[Rejection, ...], snapshot: Snapshot
) -> Receipt:
    """Return the receipt of the accepted events, and count them in the metrics."""
    n, by_unit = validated.n, len(validated.entry.units) + len(validated.addressed)
    if validated.remarks is None:
        if n > by_unit:
            _COUNTED.inc(n - by_unit)
        if by_unit:
            FEEDBACK.labels("waiting").inc(by_unit)
        return Receipt(n, rejections, counted=n - by_unit, waiting=by_unit)
    receipt = remarked(decoded, validated, rejections, snapshot)
    for result in RESULTS:
        if count := getattr(receipt, result):
            FEEDBACK.labels(result).inc(count)
    return receipt


def _rejections(decoded: Decoded, results: list[EventResult]) -> tuple[Rejection, ...]:
    """Return the refused events in the order of the request, and count them in the metrics.

    If the request was one event, raise its error.
    """
    refused: dict[int, tuple[type[WaldError], str, str]] = {}
    for place, message in decoded.malformed.items():
        field_name = _FIELD.search(message)
        if field_name and field_name[1] == "source":
            reason = f"must be one of {', '.join(source.name.lower() for source in Source)}: {message}"
        else:
            reason = message
        refused[place] = (InvalidInput, field_name[1] if field_name else "event", reason)
    for place, result in zip(decoded.places, results, strict=False):
        if result is not EventResult.ACCEPTED:
            refused[place] = REASONS[result]
    for error, count in Counter(error for error, _, _ in refused.values()).items():
        FEEDBACK.labels(error.kind).inc(count)
    if decoded.single:
        for error, field, reason in refused.values():
            raise error(f"{field}: {reason}", errors=(FieldError(field, reason),))
    return tuple(
        Rejection(place, ItemError(error.kind, field, reason))
        for place, (error, field, reason) in sorted(refused.items())
    )
