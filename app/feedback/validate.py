"""Validation of the events of a request: all events together, column by column. Pure."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.assignment.assignment_id import BODY_BYTES, Flag
from app.assignment.assignment_id import Verdict as TokenVerdict
from app.assignment.bucketing import unit_hash
from app.assignment.snapshot import PreparedExperiment, Snapshot
from app.core.errors import Unavailable
from app.core.limits import KEY_PATTERN, SIGNAL_VALUE_MAX, UNIT_LENGTH_MAX
from app.experiments.signals import SignalUse
from app.feedback import limits
from app.feedback.addressed import AddressedSignal
from app.feedback.entry import TIMES, VALUES, SignalsEntry, UnitSignal
from app.feedback.limits import CLOCK_TOLERANCE_US
from app.feedback.model import DERIVED_ID, RESERVED_PREFIX, Event, EventResult, Remark, Source

_is_key: Final = re.compile(KEY_PATTERN).fullmatch
_source: Final = {source.name.lower(): source.value for source in Source}.__getitem__
_OF_TOKEN: Final = np.zeros(256, np.uint8)
_OF_TOKEN[TokenVerdict.MALFORMED] = EventResult.MALFORMED_ID
_OF_TOKEN[TokenVerdict.UNKNOWN_KEY] = EventResult.UNKNOWN_SIGNING_KEY
_OF_TOKEN[TokenVerdict.FORGED] = EventResult.FORGED_ID

EventResults = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Remarks = NDArray[np.uint8]


class Validated(NamedTuple):
    """The result of each event, in order, and the entry of the accepted events.

    `addressed` are the accepted events by `response_id`. `remarks` has flags of `Remark` for each
    event; None if there are none.
    """

    results: EventResults
    entry: SignalsEntry
    remarks: Remarks | None = None
    addressed: Sequence[AddressedSignal] = ()

    @property
    def n(self) -> int:
        """Number of accepted events."""
        return self.entry.n + len(self.addressed)


_ANY: Final = SignalUse()
"""The use of a signal that may have any value."""


class _Rule(NamedTuple):
    """Rules for a signal of an experiment: its default value, its bounds, and how long ids are valid.

    `default` is NaN for a signal that needs a value. `use`: what the experiment expects of the
    signal; None: it does not read it. `known`: whether the experiment exists.
    """

    default: float
    low: float
    high: float
    life_ms: float
    known: bool
    horizon_us: float = 0.0
    use: SignalUse | None = _ANY
    draft: bool = False


UNSTATED: Final = -2
"""Experiment of an event by `response_id` that names none."""

_UNSTATED: Final = _Rule(1.0, -SIGNAL_VALUE_MAX, SIGNAL_VALUE_MAX, 0.0, known=True)


class _Facts(NamedTuple):
    """Columns of a group of events; valid where the result is ACCEPTED."""

    results: EventResults
    signals: list[str]
    values: Floats
    at_us: Integers
    sources: bytes
    remarks: Remarks | None


def validate(events: Sequence[Event], snapshot: Snapshot, from_us: int, *, by_unit: bool) -> Validated:
    """Validate the events of one request. `by_unit`: the caller may name assignments by their unit.

    Events without a time get consecutive microseconds from `from_us` (microseconds since the epoch) on,
    so that their order counts. Raises Unavailable while no signing key is known.
    """
    now_us = from_us + np.arange(len(events))
    tokens = [event.assignment_id or "" for event in events]
    names = [event.experiment or event.unit or event.response_id for event in events]
    if names.count(None) == len(names) and "" not in tokens:
        return _validate_direct(events, tokens, now_us, snapshot)
    direct = [
        event.assignment_id is not None
        and event.experiment is None
        and event.unit is None
        and event.response_id is None
        for event in events
    ]
    named = [
        event.assignment_id is None
        and event.experiment is not None
        and event.unit is not None
        and event.response_id is None
        for event in events
    ]
    by_response = [
        event.assignment_id is None and event.unit is None and event.response_id is not None
        for event in events
    ]
    results = np.full(len(events), EventResult.ADDRESS, np.uint8)
    remarks = np.zeros(len(events), np.uint8)
    picked = _picked(events, direct)
    tokens = [event.assignment_id or "" for event in picked]
    of_direct = _validate_direct(picked, tokens, now_us[direct], snapshot)
    entry = of_direct.entry
    results[direct] = of_direct.results
    if of_direct.remarks is not None:
        remarks[direct] = of_direct.remarks
    if by_unit:
        results[named], units, named_remarks = _validate_named(
            _picked(events, named), now_us[named], snapshot
        )
        entry.units.extend(units)
        if named_remarks is not None:
            remarks[named] = named_remarks
        results[by_response], addressed, response_remarks = _validate_addressed(
            _picked(events, by_response), now_us[by_response], snapshot
        )
        if response_remarks is not None:
            remarks[by_response] = response_remarks
    else:
        addressed = []
        results[named] = results[by_response] = EventResult.UNIT_BY_CLIENT_KEY
    return Validated(results, entry, remarks if remarks.any() else None, addressed)


def _validate_direct(
    events: Sequence[Event], tokens: Sequence[str], now_us: Integers, snapshot: Snapshot
) -> Validated:
    """Validate events by assignment id; `tokens` are these ids."""
    if snapshot.signer is None:
        raise Unavailable("no key to verify assignment ids with has been loaded yet")
    bodies, token_verdicts = snapshot.signer.verify_batch(tokens)
    return _validate_bodies(events, bodies, _OF_TOKEN[token_verdicts], now_us, snapshot.by_id.get)


def _validate_bodies(
    events: Sequence[Event],
    bodies: NDArray[np.void],
    results: EventResults,
    now_us: Integers,
    find: Callable[[int], PreparedExperiment | None],
) -> Validated:
    words = bodies.view(">u8").reshape(-1, BODY_BYTES // 8)
    assigned_ms = (words[:, 2] >> 16).astype(np.int64)  # the first 48 bits of the UUIDv7
    experiment_ids = bodies["experiment_id"].astype(np.int64)
    facts = _check(
        events,
        now_us,
        results,
        experiment_ids=experiment_ids,
        assigned_ms=assigned_ms,
        find=find,
        flags=bodies["flags"],
    )
    ids = [event.id for event in events]
    if ids.count(None) < len(ids):
        _refuse_reused(facts.results, events, bodies["id"].tolist(), ids)
    entry = SignalsEntry(
        received_at_ms=int(now_us[0]) // 1_000 if events else 0,
        bodies=bodies.tobytes(),
        signals=facts.signals,
        sources=facts.sources,
        values=facts.values.astype(VALUES, copy=False).tobytes(),
        at_us=facts.at_us.astype(TIMES, copy=False).tobytes(),
        ids=ids,
    )
    refused = facts.results != EventResult.ACCEPTED
    return Validated(facts.results, entry.without(refused) if refused.any() else entry, facts.remarks)


def _validate_named(
    events: Sequence[Event], now_us: Integers, snapshot: Snapshot
) -> tuple[EventResults, list[UnitSignal], Remarks | None]:
    """Validate events by experiment and unit."""
    units = [event.unit or "" for event in events]
    experiments = [snapshot.by_key.get(event.experiment or "") for event in events]
    results = np.array(
        [0 if _is_text(unit, UNIT_LENGTH_MAX) else EventResult.UNIT for unit in units], np.uint8
    )
    experiment_ids = np.array(
        [-1 if experiment is None else experiment.published.id for experiment in experiments], np.int64
    )
    facts = _check(
        events,
        now_us,
        results,
        experiment_ids=experiment_ids,
        assigned_ms=now_us // 1_000,
        find=snapshot.by_id.get,
    )
    owners = [(event.experiment, event.unit) for event in events]
    _refuse_reused(facts.results, events, owners, [event.id for event in events])
    accepted = [
        UnitSignal(
            experiment.published.id,
            unit_hash(experiment.published.salt, unit),
            event.signal,
            facts.sources[index],
            float(facts.values[index]),
            int(facts.at_us[index]),
            event.id,
        )
        for index, (event, experiment, unit) in enumerate(zip(events, experiments, units, strict=True))
        if facts.results[index] == EventResult.ACCEPTED and experiment is not None
    ]
    return facts.results, accepted, facts.remarks


def _validate_addressed(
    events: Sequence[Event], now_us: Integers, snapshot: Snapshot
) -> tuple[EventResults, list[AddressedSignal], Remarks | None]:
    """Validate events by `response_id` as far as possible before its assignment is known."""
    results = np.array(
        [
            0 if _is_text(event.response_id or "", limits.RESPONSE_ID_LENGTH_MAX) else EventResult.RESPONSE_ID
            for event in events
        ],
        np.uint8,
    )
    experiments = [snapshot.by_key.get(event.experiment or "") for event in events]
    experiment_ids = np.array(
        [
            UNSTATED if event.experiment is None else -1 if experiment is None else experiment.published.id
            for event, experiment in zip(events, experiments, strict=True)
        ],
        np.int64,
    )
    facts = _check(
        events,
        now_us,
        results,
        experiment_ids=experiment_ids,
        assigned_ms=now_us // 1_000,
        find=snapshot.by_id.get,
    )
    owners = [(event.experiment, event.response_id) for event in events]
    _refuse_reused(facts.results, events, owners, [event.id for event in events])
    accepted = [
        AddressedSignal(
            event.response_id or "",
            0 if event.experiment is None else int(experiment_ids[index]),
            event.signal,
            facts.sources[index],
            event.value,
            int(facts.at_us[index]),
            int(now_us[index]),
            event.id,
        )
        for index, event in enumerate(events)
        if facts.results[index] == EventResult.ACCEPTED
    ]
    return facts.results, accepted, facts.remarks


def validate_resolved(
    events: Sequence[Event],
    bodies: NDArray[np.void],
    received_us: Integers,
    find: Callable[[int], PreparedExperiment | None],
) -> Validated:
    """Validate events whose assignments were found by `response_id`.

    `bodies` are the assignments, elements of BODY, and `received_us` the times of arrival.
    """
    return _validate_bodies(events, bodies, np.zeros(len(events), np.uint8), received_us, find)


def _check(
    events: Sequence[Event],
    now_us: Integers,
    results: EventResults,
    *,
    experiment_ids: Integers,
    assigned_ms: Integers,
    find: Callable[[int], PreparedExperiment | None],
    flags: EventResults | None = None,
) -> _Facts:
    """Check what both kinds of events have in common. The first failing check is the result.

    `flags` are the flags of assignment ids; None: the events name units.
    """

    def refuse(result: EventResult, wrong: Flags) -> None:
        results[wrong & (results == EventResult.ACCEPTED)] = result

    signals = [event.signal for event in events]
    names = sorted(set(signals))
    position = {name: number for number, name in enumerate(names)}
    numbers = np.fromiter(map(position.__getitem__, signals), np.int64, len(signals))
    pairs, pair_of = _distinct(experiment_ids, numbers, len(names))
    rules = [
        _UNSTATED
        if pair // len(names) == UNSTATED
        else _rule(find(pair // len(names)), names[pair % len(names)])
        for pair in pairs.tolist()
    ]
    # Most requests are right: check the extremes first, and each event only if an extreme fails.
    if not all(rule.known for rule in rules):
        refuse(EventResult.UNKNOWN_EXPERIMENT, ~np.array([rule.known for rule in rules])[pair_of])
    earliest_ms = latest_ms = 0
    if len(events):
        now_ms = int(now_us[0]) // 1_000
        earliest_ms, latest_ms = int(assigned_ms.min()), int(assigned_ms.max())
        bound_ms = now_ms + limits.ASSIGNMENT_ID_AHEAD_S_MAX * 1_000
        if latest_ms > bound_ms:
            refuse(EventResult.ID_FROM_THE_FUTURE, assigned_ms > bound_ms)
        if earliest_ms < now_ms - min(rule.life_ms for rule in rules):
            lives_ms = np.array([rule.life_ms for rule in rules])[pair_of]
            refuse(EventResult.EXPIRED_ID, assigned_ms < now_ms - lives_ms)
    if wrong := [number for number, name in enumerate(names) if not _is_key(name)]:
        refuse(EventResult.SIGNAL, np.isin(numbers, wrong))
    if reserved := [number for number, name in enumerate(names) if name.startswith(RESERVED_PREFIX)]:
        refuse(EventResult.RESERVED_SIGNAL, np.isin(numbers, reserved))
    values = np.array([rule.default for rule in rules])[pair_of]
    given = [event.value for event in events]
    if given.count(None) < len(given) or np.isnan(values).any():
        values = _filled(given, values)
        low, high = np.array([(rule.low, rule.high) for rule in rules]).T[:, pair_of]
        refuse(EventResult.VALUE, ~((values >= low) & (values <= high)))
    at_us, untimely = _times([event.at for event in events], now_us)
    if untimely is not None:
        refuse(EventResult.TIME, untimely)
    columns = _Columns(given, values, at_us, untimely is not None, flags, assigned_ms, earliest_ms, latest_ms)
    remarks = _remarks(rules, pair_of, columns, results)
    return _Facts(results, signals, values, at_us, _sources([event.source for event in events]), remarks)


class _Columns(NamedTuple):
    """Columns that remarks read. `flags` as in `_check`; the extremes are those of `assigned_ms`."""

    given: Sequence[float | None]
    values: Floats
    at_us: Integers
    timed: bool
    """Whether any event has a time."""
    flags: EventResults | None
    assigned_ms: Integers
    earliest_ms: int
    latest_ms: int


def _remarks(
    rules: Sequence[_Rule], pair_of: Integers, columns: _Columns, results: EventResults
) -> Remarks | None:
    """Return the remarks on accepted events; None, as for most requests, if there are none.

    Extremes are checked first, so that a request without remarks costs next to nothing.
    """
    remarked: list[tuple[Remark, Flags]] = []
    if any(rule.use is None for rule in rules):
        remarked.append((Remark.UNKNOWN_SIGNAL, np.array([rule.use is None for rule in rules])[pair_of]))
    if any(rule.draft for rule in rules):
        remarked.append((Remark.NOT_STARTED, np.array([rule.draft for rule in rules])[pair_of]))
    if columns.flags is not None and len(columns.given):
        remarked += _remarks_on_times(rules, pair_of, columns, columns.flags)
    uses = [rule.use or _ANY for rule in rules]
    if any(use is not _ANY for use in uses):
        remarked += _remarks_on_values(uses, pair_of, columns)
    if not remarked:
        return None
    remarks = np.zeros(len(results), np.uint8)
    for remark, applies in remarked:
        remarks[applies] |= np.uint8(remark)
    remarks[results != EventResult.ACCEPTED] = 0
    return remarks if remarks.any() else None


def _remarks_on_times(
    rules: Sequence[_Rule], pair_of: Integers, columns: _Columns, flags: EventResults
) -> Iterator[tuple[Remark, Flags]]:
    at_us, assigned_us = columns.at_us, columns.assigned_ms * 1_000
    if np.count_nonzero(flags):
        yield Remark.UNRECORDED, (flags & Flag.UNRECORDED) != 0
    last_us = at_us.max() if columns.timed else at_us[-1]
    if last_us > columns.earliest_ms * 1_000 + min(rule.horizon_us for rule in rules):
        yield Remark.LATE, at_us > assigned_us + np.array([rule.horizon_us for rule in rules])[pair_of]
    first_us = at_us.min() if columns.timed else at_us[0]
    if first_us < columns.latest_ms * 1_000 - CLOCK_TOLERANCE_US:
        yield Remark.EARLY, at_us < assigned_us - CLOCK_TOLERANCE_US


def _remarks_on_values(
    uses: Sequence[SignalUse], pair_of: Integers, columns: _Columns
) -> Iterator[tuple[Remark, Flags]]:
    given, values = columns.given, columns.values
    if any(use.needs_value for use in uses) and None in given:
        missing = np.array([value is None for value in given])
        yield Remark.VALUE_MISSING, missing & np.array([use.needs_value for use in uses])[pair_of]
    if given.count(None) < len(given):
        low = np.array([-np.inf if use.low is None else use.low for use in uses])[pair_of]
        high = np.array([np.inf if use.high is None else use.high for use in uses])[pair_of]
        yield Remark.OUT_OF_RANGE, (values < low) | (values > high)


def _distinct(experiment_ids: Integers, numbers: Integers, n_names: int) -> tuple[Integers, Integers]:
    """Return the distinct pairs of experiment and name, one number each, and the pair of each event."""
    if len(numbers) and (experiment_ids == experiment_ids[0]).all():  # nearly always true, and saves a sort
        return experiment_ids[0] * n_names + np.arange(n_names), numbers
    return np.unique(experiment_ids * n_names + numbers, return_inverse=True)


def _rule(experiment: PreparedExperiment | None, signal: str) -> _Rule:
    bound = SIGNAL_VALUE_MAX
    if experiment is None:
        return _Rule(1.0, -bound, bound, 0.0, known=False)
    published = experiment.published
    reward = published.reward
    life_ms = (reward.horizon_s + limits.ASSIGNMENT_ID_GRACE_S) * 1_000
    horizon_us, draft = reward.horizon_s * 1e6, published.state == "draft"
    metrics = published.metric_signals
    if signal not in reward.signals:
        use = _ANY if metrics is None else metrics.get(signal)
        return _Rule(1.0, -bound, bound, life_ms, True, horizon_us, use, draft)  # noqa: FBT003 - fields
    summed = reward.combine == "sum"
    low, high = reward.bounds(signal)
    # Where values are not summed, values outside the range are refused.
    read = summed or low is None or (metrics and signal in metrics)
    use = experiment.signals[signal] if read else _ANY
    low, high = -bound if low is None else low, bound if high is None else high
    default = reward.default(signal)
    worth = np.nan if default is None else default
    return _Rule(worth, low, high, life_ms, True, horizon_us, use, draft)  # noqa: FBT003


def _filled(given: Sequence[float | None], default: Floats) -> Floats:
    """Return the values, with the signal's default where an event has none."""
    values = np.array(given, np.float64)
    absent = np.array([value is None for value in given])
    return np.where(absent, default, values)


def _times(given: Sequence[datetime | float | None], now_us: Integers) -> tuple[Integers, Flags | None]:
    """Return the times of events in microseconds, and the mask of times out of bounds.

    The mask is None if no event has a time.
    """
    if given.count(None) == len(given):
        return now_us, None
    absent = np.array([time is None for time in given])
    seconds = np.array(
        [time.timestamp() if isinstance(time, datetime) else time for time in given], np.float64
    )
    ahead_s = seconds - now_us / 1e6
    fits = (ahead_s <= limits.CLOCK_SKEW_S_MAX) & (ahead_s >= -limits.FEEDBACK_AGE_S_MAX)
    stated = np.rint(np.where(fits, seconds, 0.0) * 1e6).astype(np.int64)
    return np.where(absent, now_us, np.minimum(stated, now_us)), ~(absent | fits)


def _sources(given: Sequence[str]) -> bytes:
    """Return the number of each source, as one byte each."""
    if given and given.count(given[0]) == len(given):
        return bytes([_source(given[0])]) * len(given)
    return bytes(map(_source, given))


def _refuse_reused(
    results: EventResults, events: Sequence[Event], owners: Sequence[Any], ids: Sequence[str | None]
) -> None:
    """Refuse ids that are not valid text, and ids that an earlier, different event of the owner has."""
    if ids.count(None) == len(ids):
        return
    first: dict[tuple[Any, str], tuple[str, str, float | None]] = {}
    for index, (event, owner) in enumerate(zip(events, owners, strict=True)):
        if event.id is None or results[index] != EventResult.ACCEPTED:
            continue
        content = (event.signal, event.source, event.value)
        if not _is_text(event.id, limits.EVENT_ID_LENGTH_MAX) or event.id.startswith(DERIVED_ID):
            results[index] = EventResult.EVENT_ID
        elif first.setdefault((owner, event.id), content) != content:
            results[index] = EventResult.ID_REUSED


def _is_text(text: str, length_max: int) -> bool:
    return 0 < len(text) <= length_max and "\0" not in text


def _picked(events: Sequence[Event], flags: Sequence[bool]) -> list[Event]:
    return [event for event, flag in zip(events, flags, strict=True) if flag]
