"""The step that finds the assignments of signals by `response_id`.

A signal waits in `response_feedback` until its response is stored and has an assignment. A signal
that names several responses, or that its experiment refuses, stays there with the reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import numpy as np
from psycopg import AsyncCursor

from app.assignment.assignment_id import BODY
from app.assignment.snapshot import PreparedExperiment
from app.feedback.addressed import AddressedSignal
from app.feedback.entry import SignalsEntry
from app.feedback.model import REASONS, EventResult
from app.feedback.validate import validate_resolved
from app.ledger.session import sql
from app.responses.batch import event_key, event_of
from app.responses.model import id_hash, key_of
from app.responses.plans_step import read_published

_READ_ADDRESSES: Final = sql(__package__, "read_addresses")
_STORE_FEEDBACK: Final = sql(__package__, "store_feedback")
_TAKE_FEEDBACK: Final = sql(__package__, "take_feedback")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Addressed(NamedTuple):
    """Signals about known assignments as an entry; how many wait, and how many do not count."""

    entry: SignalsEntry | None
    waiting: int
    refused: int


class _Kept(NamedTuple):
    """A signal that stays in the table, with its state and the reason."""

    signal: AddressedSignal
    state: str
    reason: str | None = None


async def take_waiting(cursor: AsyncCursor, id_hashes: Sequence[int]) -> list[AddressedSignal]:
    """Take the signals that wait for responses with these ids out of the table."""
    if not id_hashes:
        return []
    await cursor.execute(_TAKE_FEEDBACK, {"id_hashes": list(id_hashes)})
    return [
        AddressedSignal(
            response_id, experiment_id, signal, source, value, _us(at), _us(received_at), event_id
        )
        for response_id, experiment_id, signal, source, value, at, received_at, event_id in (
            await cursor.fetchall()
        )
    ]


async def resolve_addresses(cursor: AsyncCursor, signals: Sequence[AddressedSignal]) -> Addressed:
    """Find the assignments of the signals; store those that do not count yet, or not at all."""
    if not signals:
        return Addressed(None, 0, 0)
    hashes = [id_hash(signal.response_id) for signal in signals]
    await cursor.execute(_READ_ADDRESSES, {"id_hashes": sorted(set(hashes))})
    rows = await cursor.fetchall()
    by_key = {row[1]: row for row in rows}
    experiments: dict[int, list[int]] = {}
    for hashed, _, experiment_id, _ in rows:
        experiments.setdefault(hashed, []).append(experiment_id)
    kept: list[_Kept] = []
    resolved: list[tuple[AddressedSignal, bytes]] = []
    for signal, hashed in zip(signals, hashes, strict=True):
        candidates = [signal.experiment_id] if signal.experiment_id else experiments.get(hashed, [])
        keys = [key_of(experiment_id, signal.response_id) for experiment_id in candidates]
        matching = [by_key[key] for key in keys if key in by_key]
        if len(matching) > 1:
            named = ", ".join(str(row[2]) for row in sorted(matching, key=lambda row: row[2]))
            reason = f"the experiments with the ids {named} have this response_id: send `experiment` too"
            kept.append(_Kept(signal, "ambiguous", reason))
        elif not matching or matching[0][3] is None:
            kept.append(_Kept(signal, "waiting"))
        else:
            resolved.append((signal, matching[0][3]))
    entry, refused = await _checked(cursor, resolved)
    kept += refused
    await _store(cursor, kept)
    n_waiting = sum(item.state == "waiting" for item in kept)
    return Addressed(entry, n_waiting, len(kept) - n_waiting)


async def _checked(
    cursor: AsyncCursor, resolved: Sequence[tuple[AddressedSignal, bytes]]
) -> tuple[SignalsEntry | None, list[_Kept]]:
    """Validate signals with what their experiments say, as `/feedback` does for assignment ids."""
    if not resolved:
        return None, []
    bodies = np.frombuffer(b"".join(body for _, body in resolved), BODY)
    experiments: Mapping[int, PreparedExperiment] = await read_published(
        cursor, np.unique(bodies["experiment_id"]).tolist()
    )
    validated = validate_resolved(
        [event_of(signal) for signal, _ in resolved],
        bodies,
        np.array([signal.received_us for signal, _ in resolved], np.int64),
        experiments.get,
    )
    refused = [
        _Kept(signal, "refused", f"{REASONS[EventResult(code)].field}: {REASONS[EventResult(code)].reason}")
        for (signal, _), code in zip(resolved, validated.results.tolist(), strict=True)
        if code != EventResult.ACCEPTED
    ]
    return (validated.entry if validated.entry.n else None), refused


async def _store(cursor: AsyncCursor, kept: Iterable[_Kept]) -> None:
    newest: dict[tuple[str, int, str], _Kept] = {}
    for item in kept:
        signal = item.signal
        key = signal.response_id, signal.experiment_id, event_key(signal)
        earlier = newest.get(key)
        if earlier is None or (signal.id is None and signal.at_us >= earlier.signal.at_us):
            newest[key] = item
    if not newest:
        return
    items = list(newest.values())
    signals = [item.signal for item in items]
    await cursor.execute(
        _STORE_FEEDBACK,
        {
            "id_hashes": [id_hash(signal.response_id) for signal in signals],
            "experiment_ids": [signal.experiment_id for signal in signals],
            "event_keys": [event_key(signal) for signal in signals],
            "response_ids": [signal.response_id for signal in signals],
            "signals": [signal.signal for signal in signals],
            "sources": [signal.source for signal in signals],
            "values": [signal.value for signal in signals],
            "times": [_time(signal.at_us) for signal in signals],
            "received": [_time(signal.received_us) for signal in signals],
            "event_ids": [signal.id for signal in signals],
            "states": [item.state for item in items],
            "reasons": [item.reason for item in items],
        },
    )


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _time(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)
