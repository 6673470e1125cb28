"""From stream entries to rows: what one ledger transaction stages, as PostgreSQL's binary COPY format. Pure.

Rows are laid out by numpy: a column of fixed width is written for all rows at once, and only texts are
visited one by one.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from struct import Struct
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.assignment import exposure
from app.assignment.assignment_id import BODY
from app.feedback import entry as signals_entry
from app.feedback.entry import SignalsEntry, UnitSignal

_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_POSTGRES_EPOCH_MS: Final = 946_684_800_000
_length: Final = Struct(">i").pack


class StreamEntry(NamedTuple):
    """One entry as read from a stream: its id, kind, number of events and body."""

    id: str
    kind: str
    n: int
    body: bytes


class UndecodableEntry(Exception):
    """An entry that says something this version cannot read."""


class Rows(NamedTuple):
    """`n` rows in binary COPY format, header and trailer included."""

    n: int
    data: bytes


class Batch(NamedTuple):
    """What one transaction stages. `experiment_ids` of all events, `unit_experiment_ids` of those by unit."""

    assignments: Rows
    signals: Rows
    unit_signals: Rows
    experiment_ids: frozenset[int]
    unit_experiment_ids: frozenset[int]


def stage(entries: Sequence[StreamEntry]) -> Batch:
    """The rows of all events in `entries`.

    Raises UndecodableEntry if one of them cannot be read.
    """
    exposed: list[exposure.Exposure] = []
    columns: list[SignalsEntry] = []
    for item in entries:
        try:
            match item.kind:
                case exposure.KIND:
                    exposed += exposure.decode(item.body)
                case signals_entry.KIND:
                    columns.append(signals_entry.decode(item.body))
                case _:
                    raise UndecodableEntry(f"unknown kind {item.kind!r}")
        except (msgspec.MsgspecError, ValueError, UnicodeError, RecursionError) as error:
            raise UndecodableEntry(str(error)) from error
    tokens = b"".join([*(one.body for one in exposed), *(column.bodies for column in columns)])
    if len(tokens) % BODY.itemsize:
        raise UndecodableEntry(f"assignment bodies must have {BODY.itemsize} bytes")
    bodies = np.frombuffer(tokens, BODY)
    units = [signal for column in columns for signal in column.units]
    unit_received = [column.received_at_ms for column in columns for _ in column.units]
    unit_experiments = frozenset(signal.experiment_id for signal in units)
    return Batch(
        assignments=_assignments(bodies, exposed),
        signals=_signals(bodies[len(exposed) :], columns),
        unit_signals=_unit_signals(units, unit_received),
        experiment_ids=frozenset(np.unique(bodies["experiment_id"]).tolist()) | unit_experiments,
        unit_experiment_ids=unit_experiments,
    )


def _assignments(bodies: NDArray[np.void], exposed: Sequence[exposure.Exposure]) -> Rows:
    """One row per assignment, in key order; its exposure where there is one."""
    n_exposed = len(exposed)
    ids = bodies["id"].copy().view(">u8").reshape(-1, 2)
    unexposed = np.arange(len(bodies)) >= n_exposed
    order = np.lexsort((unexposed, ids[:, 1], ids[:, 0], bodies["unit_hash"], bodies["experiment_id"]))
    if len(order):
        ordered = ids[order]
        first = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]
        order = order[first]
    chosen = bodies[order]
    fixed = _fixed(
        len(order),
        n_varying=2,
        experiment_id=(">i4", chosen["experiment_id"]),
        unit_hash=(">i8", chosen["unit_hash"]),
        id=("V16", chosen["id"]),
        assigned_at=(">i8", _assigned_at(chosen)),
        epoch=(">i4", chosen["epoch"]),
        policy_version=(">i4", chosen["policy_version"]),
        variant=(">i2", chosen["variant"]),
        propensity=(">f8", chosen["propensity"]),
        exposed=("u1", order < n_exposed),
    )
    picked = [exposed[index] if index < n_exposed else None for index in order.tolist()]
    return _rows(
        fixed,
        [_NULL if one is None else _text(one.unit) for one in picked],
        [_NULL if one is None or not one.context else _json(one.context) for one in picked],
    )


def _signals(bodies: NDArray[np.void], columns: Sequence[SignalsEntry]) -> Rows:
    """One row per signal; of those with a client's id, the first."""
    signals = list(chain.from_iterable(column.signals for column in columns))
    sources = np.frombuffer(b"".join(column.sources for column in columns), np.uint8)
    values = np.frombuffer(b"".join(column.values for column in columns), signals_entry.VALUES)
    times = np.frombuffer(b"".join(column.at_us for column in columns), signals_entry.TIMES)
    if not np.isfinite(values).all():
        raise UndecodableEntry("a value is not finite")
    received = np.repeat(
        np.array([column.received_at_ms for column in columns], np.int64),
        [len(column.signals) for column in columns],
    )
    natural = {
        (signal, source): f"#{signal}/{source}"
        for signal, source in set(zip(signals, sources.tolist(), strict=True))
    }
    keys = [
        f"={given}" if given is not None else natural[pair]
        for given, pair in zip(
            chain.from_iterable(column.ids for column in columns),
            zip(signals, sources.tolist(), strict=True),
            strict=True,
        )
    ]
    raw = bodies["id"].tobytes()
    owners = [raw[start : start + 16] for start in range(0, len(raw), 16)]
    kept = _first(zip(owners, keys, strict=True))
    order = np.array(kept, np.int64)
    fixed = _fixed(
        len(order),
        n_varying=2,
        experiment_id=(">i4", bodies["experiment_id"][order]),
        unit_hash=(">i8", bodies["unit_hash"][order]),
        assignment_id=("V16", bodies["id"][order]),
        assigned_at=(">i8", _assigned_at(bodies)[order]),
        source=(">i2", sources[order]),
        value=(">f8", values[order]),
        at=(">i8", times[order] - _POSTGRES_EPOCH_MS * 1_000),
        received_at=(">i8", (received[order] - _POSTGRES_EPOCH_MS) * 1_000),
    )
    texts = {signal: _text(signal) for signal in set(signals)}
    return _rows(fixed, [texts[signals[index]] for index in kept], [_text(keys[index]) for index in kept])


def _unit_signals(signals: Sequence[UnitSignal], received_ms: Sequence[int]) -> Rows:
    """One row per signal; of those with a client's id, the first. Without one, the time is part of the key.

    A unit may have several assignments, each with its own value of the same signal, and which of them a
    signal belongs to is known only when all exposures have arrived: so every time is kept.
    """
    keys = [
        f"={one.id}" if one.id is not None else f"#{one.signal}/{one.source}@{one.at_us}" for one in signals
    ]
    kept = _first(((one.experiment_id, one.unit_hash), key) for one, key in zip(signals, keys, strict=True))
    chosen = [signals[index] for index in kept]
    at = np.array([one.at_us for one in chosen], np.int64)
    received = np.array([received_ms[index] for index in kept], np.int64)
    fixed = _fixed(
        len(kept),
        n_varying=2,
        experiment_id=(">i4", [one.experiment_id for one in chosen]),
        unit_hash=(">i8", [one.unit_hash for one in chosen]),
        source=(">i2", [one.source for one in chosen]),
        value=(">f8", [one.value for one in chosen]),
        at=(">i8", at - _POSTGRES_EPOCH_MS * 1_000),
        received_at=(">i8", (received - _POSTGRES_EPOCH_MS) * 1_000),
    )
    return _rows(fixed, [_text(one.signal) for one in chosen], [_text(keys[index]) for index in kept])


def _assigned_at(bodies: NDArray[np.void]) -> NDArray[np.int64]:
    """The time in each UUIDv7, its first 48 bits, as PostgreSQL counts it."""
    ms = (bodies["id"].copy().view(">u8")[::2] >> 16).astype(np.int64)
    return (ms - _POSTGRES_EPOCH_MS) * 1_000


def _first(keys: Iterable[tuple[Any, str]]) -> list[int]:
    """Which events stay: of those with a client's id (`=`), the first of each; all others."""
    seen: set[tuple[Any, str]] = set()
    kept = []
    for index, key in enumerate(keys):
        if key[1][0] == "=":
            if key in seen:
                continue
            seen.add(key)
        kept.append(index)
    return kept


def _fixed(n: int, *, n_varying: int, **columns: tuple[str, Any]) -> NDArray[np.void]:
    """The columns of fixed width, each behind its length, as PostgreSQL reads a tuple."""
    layout: list[tuple[str, str]] = [("n_columns", ">i2")]
    for name, (kind, _) in columns.items():
        layout += [(f"{name}_length", ">i4"), (name, kind)]
    rows = np.empty(n, np.dtype(layout))
    rows["n_columns"] = len(columns) + n_varying
    for name, (_, values) in columns.items():
        rows[f"{name}_length"] = rows.dtype[name].itemsize
        rows[name] = values
    return rows


def _rows(fixed: NDArray[np.void], *texts: Sequence[bytes]) -> Rows:
    """Each fixed part followed by its texts."""
    raw, size = fixed.tobytes(), fixed.dtype.itemsize
    parts = (raw[start : start + size] for start in range(0, len(raw), size))
    body = chain.from_iterable(zip(parts, *texts, strict=True))
    return Rows(len(fixed), b"".join([_HEADER, *body, _TRAILER]))


def _text(value: str) -> bytes:
    raw = value.encode()
    return _length(len(raw)) + raw


def _json(value: Any) -> bytes:
    raw = b"\x01" + msgspec.json.encode(value)  # the version of jsonb's binary form
    return _length(len(raw)) + raw
