"""Sends the labels of the sample as the signal `review`, with the source `human`.

The ledger keeps one value per assignment, signal and source, the newest by time. So a repeated
signal is harmless, and a correction replaces the earlier value. The disagreements queue sends
nothing: its responses are not a sample, so their labels would bias every metric that reads the
signal.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from app.core.clock import Clock
from app.feedback.commit import SignalsCommit
from app.feedback.entry import TIMES, VALUES, SignalsEntry
from app.feedback.model import Source
from app.reviews.model import SIGNAL
from app.reviews.signal_store import DueSignal, SignalStore

_MICROSECONDS: Final = 1_000_000


class SignalSender:
    """Sender of due signals. Any number may run: what two of them send is equal."""

    def __init__(self, store: SignalStore, commit: SignalsCommit, clock: Clock) -> None:
        self._store = store
        self._commit = commit
        self._clock = clock

    async def send_due(self) -> int:
        """Send the signals that are due, and return their number. Raises Unavailable."""
        due = await self._store.due()
        sendable = [signal for signal in due if signal.body is not None and signal.score is not None]
        if sendable:
            await self._commit.append(entry_of(sendable, self._clock.now_ms()))
        if due:
            await self._store.mark_sent(due)
        return len(sendable)


def entry_of(signals: Sequence[DueSignal], now_ms: int) -> SignalsEntry:
    """Return the stream entry of signals that have a body and a score."""
    n = len(signals)
    at_us = [round(signal.at.timestamp() * _MICROSECONDS) for signal in signals]
    return SignalsEntry(
        now_ms,
        b"".join(signal.body or b"" for signal in signals),
        [SIGNAL] * n,
        bytes([Source.HUMAN]) * n,
        np.array([signal.score for signal in signals], VALUES).tobytes(),
        np.array(at_us, TIMES).tobytes(),
        [None] * n,
    )
