"""Sends the scores of promoted judges as signals `judge.NAME`, with the source `automated`.

Each score has a deterministic event id, so that the ledger drops repeats: a worker that dies
between sending and noting it sends the same signal again. The signal has the time of the response,
so that a slow judge does not miss the horizon.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import numpy as np

from app.core.clock import Clock
from app.core.telemetry import JUDGE_SIGNALS
from app.feedback.commit import SignalsCommit
from app.feedback.entry import TIMES, VALUES, SignalsEntry
from app.feedback.model import Source
from app.judging.judgement_store import DueSignal, JudgementStore
from app.judging.model import signal_of

_MICROSECONDS: Final = 1_000_000


class JudgeSignalSender:
    """Sender of due signals. Several may run; each signal is sent by one at a time."""

    def __init__(self, store: JudgementStore, commit: SignalsCommit, clock: Clock) -> None:
        self._store = store
        self._commit = commit
        self._clock = clock

    async def send(self) -> None:
        """Send all signals that are due. Raises Unavailable without Valkey."""
        while await self._send_some():
            pass

    async def _send_some(self) -> bool:
        async with self._store.change() as connection:
            due = await self._store.due_signals(connection)
            sendable = [signal for signal in due if signal.body is not None]
            if sendable:
                await self._commit.append(entry_of(sendable, self._clock.now_ms()))
            unsendable = [signal.id for signal in due if signal.body is None]
            await self._store.sent(connection, [signal.id for signal in sendable], unsendable)
        for signal in sendable:
            JUDGE_SIGNALS.labels(signal.judge).inc()
        return bool(due)


def entry_of(signals: Sequence[DueSignal], now_ms: int) -> SignalsEntry:
    """Return the stream entry of signals that have a body."""
    n = len(signals)
    at_us = [
        min(round(signal.responded_at.timestamp() * _MICROSECONDS), now_ms * 1_000) for signal in signals
    ]
    return SignalsEntry(
        now_ms,
        b"".join(signal.body or b"" for signal in signals),
        [signal_of(signal.judge) for signal in signals],
        bytes([Source.AUTOMATED]) * n,
        np.array([signal.score for signal in signals], VALUES).tobytes(),
        np.array(at_us, TIMES).tobytes(),
        [event_id(signal.judge, signal.response_key) for signal in signals],
    )


def event_id(judge: str, response_key: UUID) -> str:
    """Return the id of the event: one score of a judge counts for each response, the first one."""
    return f"{signal_of(judge)}:{response_key}"
