"""Accepting feedback: decode, judge, make durable."""

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
from app.feedback.model import REASONS, ItemError, Receipt, Rejection, Source, Verdict
from app.feedback.remarks import remarked
from app.feedback.validate import Judged, Verdicts, judge

RESULTS: Final = ("counted", "waiting", "unknown_signal", "late", "early")
"""The fields of a receipt that accepted events are counted in, and labels of their metric."""

_COUNTED: Final = FEEDBACK.labels("counted")
_FIELD: Final = re.compile(r"(?:field `|\$\.)(\w+)")

_UNKNOWN: Final = (Verdict.UNKNOWN_EXPERIMENT, Verdict.UNKNOWN_SIGNING_KEY)


class Snapshots(Protocol):
    """Who holds the newest snapshot."""

    @property
    def snapshot(self) -> Snapshot:
        """The newest."""
        ...


class FeedbackService:
    """The use case of `/feedback`."""

    def __init__(self, snapshots: Snapshots, commit: SignalsCommit, clock: Clock) -> None:
        self._snapshots = snapshots
        self._commit = commit
        self._clock = clock
        self._next_us = 0

    async def accept(self, body: bytes, media_type: MediaType, *, by_unit: bool) -> Receipt:
        """Take in the events of a request; returns when the accepted ones are durable.

        `by_unit`: the caller may name assignments by experiment and unit. A request that is one event and not
        a list raises what is wrong with it; in a list it is part of the receipt.
        Raises InvalidInput or TooLarge if the body as a whole cannot be taken, Unavailable without Valkey.
        """
        receipt, written = self.take(body, media_type, by_unit=by_unit)
        if written is not None:
            await written
        return receipt

    def take(
        self, body: bytes, media_type: MediaType, *, by_unit: bool
    ) -> tuple[Receipt, asyncio.Future[None] | None]:
        """The same without waiting: the receipt holds when the future is done; None: nothing was accepted."""
        decoded = decode(body, media_type)
        # No two events share a microsecond, so that those without a time have the order of their arrival.
        now_us = self._clock.now_us()
        if not now_us <= self._next_us <= now_us + limits.FEEDBACK_ORDER_US_MAX:
            self._next_us = now_us  # it has passed; or our clock was set back, and must be followed
        snapshot = self._snapshots.snapshot
        judged = judge(decoded.events, snapshot, self._next_us, by_unit=by_unit)
        self._next_us += len(decoded.events)
        self._refuse_unless_known(judged.verdicts)
        verdicts = [Verdict(code) for code in judged.verdicts.tolist()] if judged.verdicts.any() else []
        rejections = _rejections(decoded, verdicts)
        receipt = _receipt(decoded, judged, rejections, snapshot)
        written = self._commit.append(judged.entry) if judged.entry.n else None
        return receipt, written

    def _refuse_unless_known(self, verdicts: Verdicts) -> None:
        """Take nothing while this server may not know the experiment or the signing key of an event.

        Raises Unavailable: what exists must never be called unknown. Sending everything again is safe.
        """
        if verdicts.any() and not self._snapshots.snapshot.complete and np.isin(verdicts, _UNKNOWN).any():
            raise Unavailable(
                "this server does not know all experiments yet; sending the events again is safe"
            )


def receipt_status(receipt: Receipt) -> int:
    """202, or 422 when there was nothing to accept."""
    return 202 if receipt.accepted else 422


def _receipt(
    decoded: Decoded, judged: Judged, rejections: tuple[Rejection, ...], snapshot: Snapshot
) -> Receipt:
    """What became of the accepted events, as far as is known here, and counted."""
    n, by_unit = judged.entry.n, len(judged.entry.units)
    if judged.remarks is None:
        if n > by_unit:
            _COUNTED.inc(n - by_unit)
        if by_unit:
            FEEDBACK.labels("waiting").inc(by_unit)
        return Receipt(n, rejections, counted=n - by_unit, waiting=by_unit)
    receipt = remarked(decoded, judged, rejections, snapshot)
    for result in RESULTS:
        if count := getattr(receipt, result):
            FEEDBACK.labels(result).inc(count)
    return receipt


def _rejections(decoded: Decoded, verdicts: list[Verdict]) -> tuple[Rejection, ...]:
    """What was refused, in the order of the request, and counted. Raises it if the request was one event."""
    refused: dict[int, tuple[type[WaldError], str, str]] = {}
    for place, message in decoded.malformed.items():
        named = _FIELD.search(message)
        if named and named[1] == "source":
            reason = f"must be one of {', '.join(source.name.lower() for source in Source)}: {message}"
        else:
            reason = message
        refused[place] = (InvalidInput, named[1] if named else "event", reason)
    for place, verdict in zip(decoded.places, verdicts, strict=False):
        if verdict is not Verdict.ACCEPTED:
            refused[place] = REASONS[verdict]
    for error, count in Counter(error for error, _, _ in refused.values()).items():
        FEEDBACK.labels(error.kind).inc(count)
    if decoded.single:
        for error, field, reason in refused.values():
            raise error(f"{field}: {reason}", errors=(FieldError(field, reason),))
    return tuple(
        Rejection(place, ItemError(error.kind, field, reason))
        for place, (error, field, reason) in sorted(refused.items())
    )
