"""Staging of stream entries: the batch that one ledger transaction logs. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.assignment import exposure
from app.assignment.assignment_id import BODY
from app.assignment.exposure import Exposure
from app.core.limits import KEY_PATTERN, SIGNAL_VALUE_MAX
from app.feedback import entry as signals_entry
from app.feedback.entry import SignalsEntry, UnitSignal
from app.feedback.limits import CLOCK_TOLERANCE_US, EVENT_ID_LENGTH_MAX
from app.feedback.model import COUNTED, EARLY, LATE, WAITING, Source
from app.ledger import rows
from app.ledger.rewards.model import ASSIGNMENT, GIVEN, NONE, Assignments, Given, Integers
from app.ledger.rows import Rows

Flags = NDArray[np.bool_]

_is_key: Final = re.compile(KEY_PATTERN).fullmatch
_SOURCES: Final = frozenset(source.value for source in Source)
_INTEGER_MAX: Final = 2**31 - 1  # PostgreSQL's integer
_TIME_US_MAX: Final = 253_402_300_799_000_000  # the end of the year 9999


class StreamEntry(NamedTuple):
    """One entry of a stream: its id, kind, number of events and body.

    `fault`: why its fields cannot be read; empty if they can.
    """

    id: str
    kind: str
    n: int
    body: bytes
    fault: str = ""


class UndecodableEntry(Exception):
    """Raised for an entry that this version cannot read."""


class StagedSignals(NamedTuple):
    """Signals by assignment id to log, each key once and in key order, as rows and as columns.

    `name` is a position in `names`, and `state` a position in `SIGNAL_STATES`.
    """

    rows: Rows
    names: Sequence[str]
    experiment_id: Integers
    name: Integers
    value: NDArray[np.float64]
    received_us: Integers
    state: Integers


class UnitSignals(NamedTuple):
    """Signals by unit to log, each key once, with their times of arrival."""

    signals: Sequence[UnitSignal]
    received_us: Sequence[int]

    @property
    def n(self) -> int:
        """Number of signals."""
        return len(self.signals)

    def rows(self) -> Rows:
        """Return the numbered rows to stage."""
        return rows.rows(
            self.n,
            [rows.text(signal.signal) for signal in self.signals],
            [rows.text(_unit_key(signal)) for signal in self.signals],
            number=(">i4", np.arange(self.n)),
            experiment_id=(">i4", [signal.experiment_id for signal in self.signals]),
            unit_hash=(">i8", [signal.unit_hash for signal in self.signals]),
            source=(">i2", [signal.source for signal in self.signals]),
            value=(">f8", [signal.value for signal in self.signals]),
            at=rows.timestamps(np.array([signal.at_us for signal in self.signals], np.int64)),
            received_at=rows.timestamps(np.array(self.received_us, np.int64)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Events of one transaction: each assignment once, in key order, and the signals about them.

    `bodies` has elements of BODY. `exposures` has None where only feedback has arrived. `given` holds
    the signals by assignment id, `ids` their clients' ids and `received_us` their times of arrival.
    """

    bodies: NDArray[np.void]
    exposures: Sequence[Exposure | None]
    given: Given
    ids: Sequence[str | None]
    received_us: Integers
    unit_signals: UnitSignals

    @property
    def unit_experiment_ids(self) -> frozenset[int]:
        """Experiments of the signals by unit."""
        return frozenset(signal.experiment_id for signal in self.unit_signals.signals)

    @property
    def experiment_ids(self) -> frozenset[int]:
        """Experiments of all events."""
        return frozenset(np.unique(self.bodies["experiment_id"]).tolist()) | self.unit_experiment_ids

    @property
    def n_events(self) -> int:
        """Number of different exposures and signals."""
        return int(self.exposed.sum()) + len(self.given.signals) + self.unit_signals.n

    @property
    def exposed(self) -> Flags:
        """Mask of the assignments whose exposure is in this batch."""
        return np.array([exposure is not None for exposure in self.exposures], np.bool_)

    def only(self, experiment_ids: Iterable[int]) -> "Batch":
        """Return the batch without the events of other experiments."""
        known = frozenset(experiment_ids)
        if not self.unit_experiment_ids <= known:
            pairs = zip(self.unit_signals.signals, self.unit_signals.received_us, strict=True)
            chosen_units = [pair for pair in pairs if pair[0].experiment_id in known]
            signals, received_us = zip(*chosen_units, strict=True) if chosen_units else ((), ())
            return replace(self, unit_signals=UnitSignals(signals, received_us)).only(known)
        kept = np.isin(self.bodies["experiment_id"], list(known))
        if kept.all():
            return self
        chosen = np.flatnonzero(kept[self.given.signals["owner"]]).tolist()
        return Batch(
            self.bodies[kept],
            [exposure for exposure, keep in zip(self.exposures, kept.tolist(), strict=True) if keep],
            self.given.about(np.flatnonzero(kept)),
            [self.ids[index] for index in chosen],
            self.received_us[chosen],
            self.unit_signals,
        )

    def assignments(self, horizon_us: Integers) -> Assignments:
        """Return the assignments as new ones are stored, with the `horizon_us` of each.

        Their places in the table are not known yet.
        """
        made = np.zeros(len(self.bodies), ASSIGNMENT)
        for name in ("experiment_id", "unit_hash", "epoch", "variant", "propensity"):
            made[name] = self.bodies[name]
        made["id"] = np.ascontiguousarray(self.bodies["id"]).view("S16")
        made["assigned_us"] = _assigned_us(self.bodies)
        made["deadline_us"] = made["assigned_us"] + horizon_us
        made["exposed"] = self.exposed
        made["reward"] = NONE
        return made

    def keys(self, numbers: Integers) -> Rows:
        """Return the key rows of the assignments with these numbers."""
        chosen = self.bodies[numbers]
        return rows.rows(
            len(chosen),
            number=(">i4", numbers),
            experiment_id=(">i4", chosen["experiment_id"]),
            unit_hash=(">i8", chosen["unit_hash"]),
            id=("V16", chosen["id"]),
        )

    def assignment_rows(self, chosen: Flags, deadline_us: Integers) -> Rows:
        """Return the rows of the `chosen` assignments for the log."""
        picked = [self.exposures[number] for number in np.flatnonzero(chosen).tolist()]
        bodies = self.bodies[chosen]
        return rows.rows(
            len(bodies),
            [rows.NULL if exposure is None else rows.text(exposure.unit) for exposure in picked],
            [
                rows.NULL if exposure is None or not exposure.context else rows.json(exposure.context)
                for exposure in picked
            ],
            experiment_id=(">i4", bodies["experiment_id"]),
            unit_hash=(">i8", bodies["unit_hash"]),
            id=("V16", bodies["id"]),
            assigned_at=rows.timestamps(_assigned_us(bodies)),
            deadline=rows.timestamps(deadline_us[chosen]),
            epoch=(">i4", bodies["epoch"]),
            policy_version=(">i4", bodies["policy_version"]),
            variant=(">i2", bodies["variant"]),
            propensity=(">f8", bodies["propensity"]),
            exposed=("u1", [exposure is not None for exposure in picked]),
        )

    def staged_signals(self, assignments: Assignments) -> StagedSignals:
        """Return the signals by assignment id about the locked `assignments`, one per key.

        A signal after the deadline, or too long before the assignment, gets a different key, so that it
        does not replace a signal that counts. Of one key the first signal stays if the client gave an id,
        else the newest.
        """
        signals, names = self.given
        at_us, owner = signals["at_us"], signals["owner"]
        timely = (at_us > assignments["deadline_us"][owner]) * _LATE
        timely += (at_us < assignments["assigned_us"][owner] - CLOCK_TOLERANCE_US) * _EARLY
        kinds = (signals["name"] * 256 + signals["source"]) * len(_PREFIXES) + timely
        distinct, kind_of = np.unique(kinds, return_inverse=True)
        natural = [_natural_key(kind, names) for kind in distinct.tolist()]
        owners = self.bodies["id"][owner]
        has_id = np.array([event_id is not None for event_id in self.ids], np.bool_)
        key_of = np.where(has_id, len(natural) + np.arange(len(signals)), kind_of)
        halves = owners.view(">u8").reshape(-1, 2)
        order = np.lexsort((signals["value"], at_us, key_of, halves[:, 1], halves[:, 0]))
        owner, key = owner[order], key_of[order]
        newest = np.ones(len(order), np.bool_)
        newest[:-1] = (owner[1:] != owner[:-1]) | (key[1:] != key[:-1])
        order = order[newest]
        chosen = signals[order]
        texts = [rows.text(name) for name in names]
        keys = [rows.text(key) for key in natural]
        bodies = self.bodies[chosen["owner"]]
        picked = zip(kind_of[order].tolist(), map(self.ids.__getitem__, order.tolist()), strict=True)
        staged = rows.rows(
            len(chosen),
            [texts[name] for name in chosen["name"].tolist()],
            [keys[kind] if event_id is None else rows.text(f"={event_id}") for kind, event_id in picked],
            number=(">i4", np.arange(len(chosen))),
            assignment_id=("V16", bodies["id"]),
            experiment_id=(">i4", bodies["experiment_id"]),
            unit_hash=(">i8", bodies["unit_hash"]),
            source=(">i2", chosen["source"]),
            value=(">f8", chosen["value"]),
            at=rows.timestamps(chosen["at_us"]),
            received_at=rows.timestamps(self.received_us[order]),
        )
        in_time = np.where(assignments["exposed"][chosen["owner"]], COUNTED, WAITING)
        return StagedSignals(
            staged,
            names,
            bodies["experiment_id"].astype(np.int64),
            chosen["name"],
            chosen["value"],
            self.received_us[order],
            np.select([timely[order] == _LATE, timely[order] == _EARLY], [LATE, EARLY], in_time),
        )


_PREFIXES: Final = "#+-"
_LATE: Final = 1
_EARLY: Final = 2


def _natural_key(kind: int, names: Sequence[str]) -> str:
    """Return the key of a signal without a client's id."""
    named, timely = divmod(kind, len(_PREFIXES))
    return f"{_PREFIXES[timely]}{names[named // 256]}/{named % 256}"


def _unit_key(signal: UnitSignal) -> str:
    """Return the key of a signal by unit.

    Without a client's id the time is part of the key, so that the log keeps a signal for each time: a
    unit may have several assignments, each with its own value of one signal. Which assignment a signal
    belongs to is known only when all exposures have arrived.
    """
    if signal.id is not None:
        return f"={signal.id}"
    return f"#{signal.signal}/{signal.source}@{signal.at_us}"


def stage(entries: Sequence[StreamEntry]) -> Batch:
    """Decode the events of all `entries` into one batch.

    Raises UndecodableEntry if an entry cannot be read.
    """
    exposed: list[Exposure] = []
    columns: list[SignalsEntry] = []
    for item in entries:
        if item.fault:
            raise UndecodableEntry(item.fault)
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
    _check_exposures(exposed)
    for column in columns:
        _check_signals(column)
    tokens = b"".join([*(item.body for item in exposed), *(column.bodies for column in columns)])
    if len(tokens) % BODY.itemsize:
        raise UndecodableEntry(f"assignment bodies must have {BODY.itemsize} bytes")
    bodies = np.frombuffer(tokens, BODY)
    _check_bodies(bodies)
    chosen, number_of = _distinct(bodies)
    given, ids, received_us = _signals(number_of[len(exposed) :], columns)
    units = [signal for column in columns for signal in column.units]
    unit_received = [column.received_at_ms * 1_000 for column in columns for _ in column.units]
    return Batch(
        bodies=bodies[chosen],
        exposures=[exposed[index] if index < len(exposed) else None for index in chosen.tolist()],
        given=given,
        ids=ids,
        received_us=received_us,
        unit_signals=_unit_signals(units, unit_received),
    )


def apart(item: StreamEntry) -> tuple[list[tuple[int, StreamEntry]], dict[int, str]]:
    """Split an entry into entries of one event, by number, and the errors of unreadable events.

    An entry that cannot be split counts as one unreadable event, the first.
    """
    if item.fault:
        return [], {0: item.fault}
    try:
        match item.kind:
            case exposure.KIND:
                return [
                    (number, item._replace(n=1, body=body))
                    for number, body in enumerate(exposure.apart(item.body))
                ], {}
            case signals_entry.KIND:
                good, errors = signals_entry.apart(item.body)
                return [(number, item._replace(n=1, body=body)) for number, body in good.items()], errors
            case _:
                return [], {0: f"unknown kind {item.kind!r}"}
    except (msgspec.MsgspecError, ValueError, UnicodeError, RecursionError) as error:
        return [], {0: str(error)}


def _check_exposures(exposed: Sequence[Exposure]) -> None:
    """Raise UndecodableEntry for units that the log cannot hold."""
    lengths = {len(item.body) for item in exposed}
    if lengths - {BODY.itemsize}:
        raise UndecodableEntry(f"assignment bodies must have {BODY.itemsize} bytes; got {sorted(lengths)}")
    if "\0" in "".join([item.unit for item in exposed]):
        raise UndecodableEntry("a unit contains a zero byte (0x00)")


def _check_bodies(bodies: NDArray[np.void]) -> None:
    """Raise UndecodableEntry for assignments that no server makes: they would corrupt totals."""
    for name in ("experiment_id", "epoch", "policy_version"):
        if (bodies[name] > _INTEGER_MAX).any():
            raise UndecodableEntry(f"{name} must be at most {_INTEGER_MAX}; got {bodies[name].max()}")
    propensity = bodies["propensity"]
    wrong = ~((propensity > 0) & (propensity <= 1))
    if wrong.any():
        raise UndecodableEntry(f"propensity must be between 0 and 1; got {propensity[wrong][0]}")
    if len(bodies) and (latest := int(_assigned_us(bodies).max())) > _TIME_US_MAX:
        raise UndecodableEntry(f"the time of an assignment must be before the year 10000; got {latest} us")


def _check_signals(column: SignalsEntry) -> None:
    """Raise UndecodableEntry for signals that no server accepts."""
    _check_times([column.received_at_ms * 1_000])
    _check_times(np.frombuffer(column.at_us, signals_entry.TIMES))
    _check_values(np.frombuffer(column.values, signals_entry.VALUES))
    _check_words(column.signals, column.sources, column.ids)
    if column.units:
        ids, hashes, signals, sources, values, at_us, given = zip(
            *map(msgspec.structs.astuple, column.units), strict=True
        )
        _check_times(at_us)
        _check_values(np.array(values))
        _check_words(signals, sources, given)
        if not 0 < min(ids) <= max(ids) <= _INTEGER_MAX:
            raise UndecodableEntry(f"experiment ids must be from 1 to {_INTEGER_MAX}; got {max(ids)}")
        if not -(2**63) <= min(hashes) <= max(hashes) < 2**63:
            raise UndecodableEntry("hashes of units must fit 64 bits")


def _check_times(times_us: Sequence[int] | Integers) -> None:
    times = np.asarray(times_us)
    if len(times) and not 0 <= times.min() <= times.max() <= _TIME_US_MAX:
        raise UndecodableEntry(f"times must be between the years 1970 and 9999; got {times.max()} us")


def _check_values(values: NDArray[np.float64]) -> None:
    if not (np.abs(values) <= SIGNAL_VALUE_MAX).all():
        raise UndecodableEntry(f"absolute values must be at most {SIGNAL_VALUE_MAX:g}")


def _check_words(names: Iterable[str], sources: Iterable[int], ids: Sequence[str | None]) -> None:
    for name in set(names):
        if not _is_key(name):
            raise UndecodableEntry(f"the name of a signal must match {KEY_PATTERN}; got {name[:64]!r}")
    if unknown := set(sources) - _SOURCES:
        raise UndecodableEntry(f"unknown source {min(unknown)}")
    if ids.count(None) == len(ids):
        return
    for event_id in ids:
        if event_id is not None and ("\0" in event_id or not 0 < len(event_id) <= EVENT_ID_LENGTH_MAX):
            raise UndecodableEntry(
                f"the id of an event must have 1 to {EVENT_ID_LENGTH_MAX} characters without NUL;"
                f" got {event_id[:64]!r}"
            )


def _distinct(bodies: NDArray[np.void]) -> tuple[Integers, Integers]:
    """Return the index of each assignment's first body, in key order, and the assignment of each body."""
    ids = bodies["id"].copy().view(">u8").reshape(-1, 2)
    order = np.lexsort((ids[:, 1], ids[:, 0], bodies["unit_hash"], bodies["experiment_id"]))
    ordered = ids[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    number_of = np.empty(len(order), np.int64)
    number_of[order] = np.cumsum(first) - 1
    return order[first], number_of


def _signals(owners: Integers, columns: Sequence[SignalsEntry]) -> tuple[Given, list[str | None], Integers]:
    """Return all signals by assignment id; of one client's id only the first signal."""
    signal_names = list(chain.from_iterable(column.signals for column in columns))
    names = list(dict.fromkeys(signal_names))
    position = {name: number for number, name in enumerate(names)}
    signals = np.empty(len(signal_names), GIVEN)
    signals["owner"] = owners
    signals["name"] = [position[name] for name in signal_names]
    signals["source"] = np.frombuffer(b"".join(column.sources for column in columns), np.uint8)
    signals["value"] = np.frombuffer(b"".join(column.values for column in columns), signals_entry.VALUES)
    signals["at_us"] = np.frombuffer(b"".join(column.at_us for column in columns), signals_entry.TIMES)
    received_us = np.repeat(
        np.array([column.received_at_ms * 1_000 for column in columns], np.int64),
        [len(column.signals) for column in columns],
    )
    ids = list(chain.from_iterable(column.ids for column in columns))
    if ids.count(None) < len(ids):
        kept = _first(zip(owners.tolist(), ids, strict=True))
        return Given(signals[kept], names), [ids[index] for index in kept], received_us[kept]
    return Given(signals, names), ids, received_us


def _unit_signals(signals: Sequence[UnitSignal], received_us: Sequence[int]) -> UnitSignals:
    """Return one signal per key: the first with a client's id, else the one with the greatest value."""
    kept: dict[tuple[int, int, str], int] = {}
    for index, signal in enumerate(signals):
        key = signal.experiment_id, signal.unit_hash, _unit_key(signal)
        first = kept.setdefault(key, index)
        if signal.id is None and signal.value > signals[first].value:
            kept[key] = index
    chosen = list(kept.values())
    return UnitSignals([signals[index] for index in chosen], [received_us[index] for index in chosen])


def _assigned_us(bodies: NDArray[np.void]) -> Integers:
    """Return the time of each assignment: the first 48 bits of its UUIDv7."""
    return (bodies["id"].copy().view(">u8")[::2] >> 16).astype(np.int64) * 1_000


def _first(keys: Iterable[tuple[Any, str | None]]) -> list[int]:
    """Return the indices of events to keep: all without a client's id, and the first of each id."""
    seen: set[tuple[Any, str | None]] = set()
    kept = []
    for index, key in enumerate(keys):
        if key[1] is not None:
            if key in seen:
                continue
            seen.add(key)
        kept.append(index)
    return kept
