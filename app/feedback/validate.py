"""Which events of a request are accepted: all are judged together, column by column. Pure."""

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
from app.feedback.entry import TIMES, VALUES, SignalsEntry, UnitSignal
from app.feedback.limits import CLOCK_TOLERANCE_US
from app.feedback.model import Event, Remark, Source, Verdict

_is_key: Final = re.compile(KEY_PATTERN).fullmatch
_source: Final = {source.name.lower(): source.value for source in Source}.__getitem__
_OF_TOKEN: Final = np.zeros(256, np.uint8)
_OF_TOKEN[TokenVerdict.MALFORMED] = Verdict.MALFORMED_ID
_OF_TOKEN[TokenVerdict.UNKNOWN_KEY] = Verdict.UNKNOWN_SIGNING_KEY
_OF_TOKEN[TokenVerdict.FORGED] = Verdict.FORGED_ID

Verdicts = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Remarks = NDArray[np.uint8]


class Judged(NamedTuple):
    """A verdict on each event, in order, and the entry of those that are accepted.

    `remarks` are flags of `Remark` for each event; null: there are none.
    """

    verdicts: Verdicts
    entry: SignalsEntry
    remarks: Remarks | None = None


_ANY: Final = SignalUse()
"""Of a signal that may have any value."""


class _Rule(NamedTuple):
    """What holds for a signal of an experiment: its value when none is sent, its bounds, the life of ids.

    `use`: what the experiment expects of it; null: it does not read it. `known`: there is the experiment.
    """

    default: float
    low: float
    high: float
    life_ms: float
    known: bool
    horizon_us: float = 0.0
    use: SignalUse | None = _ANY
    draft: bool = False


class _Facts(NamedTuple):
    """What was worked out of a group of events; means something where the verdict is ACCEPTED."""

    verdicts: Verdicts
    signals: list[str]
    values: Floats
    at_us: Integers
    sources: bytes
    remarks: Remarks | None


def judge(events: Sequence[Event], snapshot: Snapshot, from_us: int, *, by_unit: bool) -> Judged:
    """Judge the events of one request. `by_unit`: the caller may name assignments by their unit.

    Events without a time happened from `from_us` (microseconds since the epoch) on, each a microsecond after
    the one before: their order counts.
    Raises Unavailable while no signing key is known.
    """
    now_us = from_us + np.arange(len(events))
    tokens = [event.assignment_id or "" for event in events]
    names = [event.experiment or event.unit for event in events]
    if names.count(None) == len(names) and "" not in tokens:
        return _judge_direct(events, tokens, now_us, snapshot)
    direct = [
        event.assignment_id is not None and event.experiment is None and event.unit is None
        for event in events
    ]
    named = [
        event.assignment_id is None and event.experiment is not None and event.unit is not None
        for event in events
    ]
    verdicts = np.full(len(events), Verdict.ADDRESS, np.uint8)
    remarks = np.zeros(len(events), np.uint8)
    picked = _picked(events, direct)
    tokens = [event.assignment_id or "" for event in picked]
    verdicts[direct], entry, said = _judge_direct(picked, tokens, now_us[direct], snapshot)
    if said is not None:
        remarks[direct] = said
    if by_unit:
        verdicts[named], units, said = _judge_named(_picked(events, named), now_us[named], snapshot)
        entry.units.extend(units)
        if said is not None:
            remarks[named] = said
    else:
        verdicts[named] = Verdict.UNIT_BY_CLIENT_KEY
    return Judged(verdicts, entry, remarks if remarks.any() else None)


def _judge_direct(
    events: Sequence[Event], tokens: Sequence[str], now_us: Integers, snapshot: Snapshot
) -> Judged:
    """Events by assignment id: their `tokens`."""
    if snapshot.signer is None:
        raise Unavailable("no key to verify assignment ids with has been loaded yet")
    bodies, token_verdicts = snapshot.signer.verify_batch(tokens)
    words = bodies.view(">u8").reshape(-1, BODY_BYTES // 8)
    assigned_ms = (words[:, 2] >> 16).astype(np.int64)  # the first 48 bits of the UUIDv7
    experiment_ids = bodies["experiment_id"].astype(np.int64)
    verdicts = _OF_TOKEN[token_verdicts]
    facts = _check(
        events,
        now_us,
        verdicts,
        experiment_ids=experiment_ids,
        assigned_ms=assigned_ms,
        find=snapshot.by_id.get,
        flags=bodies["flags"],
    )
    ids = [event.id for event in events]
    _refuse_reused(facts.verdicts, events, tokens, ids)
    entry = SignalsEntry(
        received_at_ms=int(now_us[0]) // 1_000 if events else 0,
        bodies=bodies.tobytes(),
        signals=facts.signals,
        sources=facts.sources,
        values=facts.values.astype(VALUES, copy=False).tobytes(),
        at_us=facts.at_us.astype(TIMES, copy=False).tobytes(),
        ids=ids,
    )
    refused = facts.verdicts != Verdict.ACCEPTED
    return Judged(facts.verdicts, entry.without(refused) if refused.any() else entry, facts.remarks)


def _judge_named(
    events: Sequence[Event], now_us: Integers, snapshot: Snapshot
) -> tuple[Verdicts, list[UnitSignal], Remarks | None]:
    """Events by experiment and unit."""
    units = [event.unit or "" for event in events]
    experiments = [snapshot.by_key.get(event.experiment or "") for event in events]
    verdicts = np.array([0 if _is_text(unit, UNIT_LENGTH_MAX) else Verdict.UNIT for unit in units], np.uint8)
    experiment_ids = np.array([-1 if one is None else one.published.id for one in experiments], np.int64)
    facts = _check(
        events,
        now_us,
        verdicts,
        experiment_ids=experiment_ids,
        assigned_ms=now_us // 1_000,
        find=snapshot.by_id.get,
    )
    owners = [(event.experiment, event.unit) for event in events]
    _refuse_reused(facts.verdicts, events, owners, [event.id for event in events])
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
        if facts.verdicts[index] == Verdict.ACCEPTED and experiment is not None
    ]
    return facts.verdicts, accepted, facts.remarks


def _check(
    events: Sequence[Event],
    now_us: Integers,
    verdicts: Verdicts,
    *,
    experiment_ids: Integers,
    assigned_ms: Integers,
    find: Callable[[int], PreparedExperiment | None],
    flags: Verdicts | None = None,
) -> _Facts:
    """What both kinds of events have in common. The first thing that is wrong is the verdict.

    `flags` are those of assignment ids; null: the events name units.
    """

    def refuse(verdict: Verdict, wrong: Flags) -> None:
        verdicts[wrong & (verdicts == Verdict.ACCEPTED)] = verdict

    signals = [event.signal for event in events]
    names = sorted(set(signals))
    position = {name: number for number, name in enumerate(names)}
    numbers = np.fromiter(map(position.__getitem__, signals), np.int64, len(signals))
    pairs, pair_of = _distinct(experiment_ids, numbers, len(names))
    rules = [_rule(find(pair // len(names)), names[pair % len(names)]) for pair in pairs.tolist()]
    # Most requests have nothing wrong: look at the extremes first, and at each event only if they say so.
    if not all(rule.known for rule in rules):
        refuse(Verdict.UNKNOWN_EXPERIMENT, ~np.array([rule.known for rule in rules])[pair_of])
    earliest_ms = latest_ms = 0
    if len(events):
        now_ms = int(now_us[0]) // 1_000
        earliest_ms, latest_ms = int(assigned_ms.min()), int(assigned_ms.max())
        bound_ms = now_ms + limits.ASSIGNMENT_ID_AHEAD_S_MAX * 1_000
        if latest_ms > bound_ms:
            refuse(Verdict.ID_FROM_THE_FUTURE, assigned_ms > bound_ms)
        if earliest_ms < now_ms - min(rule.life_ms for rule in rules):
            lives_ms = np.array([rule.life_ms for rule in rules])[pair_of]
            refuse(Verdict.EXPIRED_ID, assigned_ms < now_ms - lives_ms)
    if wrong := [number for number, name in enumerate(names) if not _is_key(name)]:
        refuse(Verdict.SIGNAL, np.isin(numbers, wrong))
    values = np.array([rule.default for rule in rules])[pair_of]
    given = [event.value for event in events]
    if given.count(None) < len(given):
        values = _filled(given, values)
        low, high = np.array([(rule.low, rule.high) for rule in rules]).T[:, pair_of]
        refuse(Verdict.VALUE, ~((values >= low) & (values <= high)))
    at_us, untimely = _times([event.at for event in events], now_us)
    if untimely is not None:
        refuse(Verdict.TIME, untimely)
    told = _Told(given, values, at_us, untimely is not None, flags, assigned_ms, earliest_ms, latest_ms)
    remarks = _remarks(rules, pair_of, told, verdicts)
    return _Facts(verdicts, signals, values, at_us, _sources([event.source for event in events]), remarks)


class _Told(NamedTuple):
    """What a group of events says. `flags` are those of assignment ids; null: the events name units.

    `assigned_ms` are the times of the ids, and their extremes.
    """

    given: Sequence[float | None]
    values: Floats
    at_us: Integers
    timed: bool
    """Whether a time was given."""
    flags: Verdicts | None
    assigned_ms: Integers
    earliest_ms: int
    latest_ms: int


def _remarks(rules: Sequence[_Rule], pair_of: Integers, told: _Told, verdicts: Verdicts) -> Remarks | None:
    """What the accepted events should be told; null: nothing, as for most requests.

    As with refusals, extremes are looked at first: a request without remarks costs next to nothing.
    """
    found: list[tuple[Remark, Flags]] = []
    if any(rule.use is None for rule in rules):
        found.append((Remark.UNKNOWN_SIGNAL, np.array([rule.use is None for rule in rules])[pair_of]))
    if any(rule.draft for rule in rules):
        found.append((Remark.NOT_STARTED, np.array([rule.draft for rule in rules])[pair_of]))
    if told.flags is not None and len(told.given):
        found += _of_times(rules, pair_of, told, told.flags)
    uses = [rule.use or _ANY for rule in rules]
    if any(use is not _ANY for use in uses):
        found += _of_values(uses, pair_of, told)
    if not found:
        return None
    remarks = np.zeros(len(verdicts), np.uint8)
    for what, where in found:
        remarks[where] |= np.uint8(what)
    remarks[verdicts != Verdict.ACCEPTED] = 0
    return remarks if remarks.any() else None


def _of_times(
    rules: Sequence[_Rule], pair_of: Integers, told: _Told, flags: Verdicts
) -> Iterator[tuple[Remark, Flags]]:
    at_us, assigned_us = told.at_us, told.assigned_ms * 1_000
    if np.count_nonzero(flags):
        yield Remark.UNRECORDED, (flags & Flag.UNRECORDED) != 0
    last_us = at_us.max() if told.timed else at_us[-1]
    if last_us > told.earliest_ms * 1_000 + min(rule.horizon_us for rule in rules):
        yield Remark.LATE, at_us > assigned_us + np.array([rule.horizon_us for rule in rules])[pair_of]
    first_us = at_us.min() if told.timed else at_us[0]
    if first_us < told.latest_ms * 1_000 - CLOCK_TOLERANCE_US:
        yield Remark.EARLY, at_us < assigned_us - CLOCK_TOLERANCE_US


def _of_values(uses: Sequence[SignalUse], pair_of: Integers, told: _Told) -> Iterator[tuple[Remark, Flags]]:
    given, values = told.given, told.values
    if any(use.needs_value for use in uses) and None in given:
        missing = np.array([value is None for value in given])
        yield Remark.VALUE_MISSING, missing & np.array([use.needs_value for use in uses])[pair_of]
    if given.count(None) < len(given):
        low = np.array([-np.inf if use.low is None else use.low for use in uses])[pair_of]
        high = np.array([np.inf if use.high is None else use.high for use in uses])[pair_of]
        yield Remark.OUT_OF_RANGE, (values < low) | (values > high)


def _distinct(experiment_ids: Integers, numbers: Integers, n_names: int) -> tuple[Integers, Integers]:
    """The distinct pairs of experiment and name, as one number each, and which of them each event has."""
    if len(numbers) and (experiment_ids == experiment_ids[0]).all():  # nearly always; saves a sort
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
    # Where values are not summed, those outside of the range are refused.
    use = experiment.signals[signal] if summed or (metrics and signal in metrics) else _ANY
    low, high = (-bound, bound) if summed else reward.range
    return _Rule(reward.signals[signal], low, high, life_ms, True, horizon_us, use, draft)  # noqa: FBT003


def _filled(given: Sequence[float | None], default: Floats) -> Floats:
    """The values, with those of the catalogue where there is none."""
    values = np.array(given, np.float64)
    absent = np.array([value is None for value in given])
    return np.where(absent, default, values)


def _times(given: Sequence[datetime | float | None], now_us: Integers) -> tuple[Integers, Flags | None]:
    """When each happened, in microseconds; which times are out of bounds, if any was given."""
    if given.count(None) == len(given):
        return now_us, None
    absent = np.array([one is None for one in given])
    seconds = np.array([one.timestamp() if isinstance(one, datetime) else one for one in given], np.float64)
    ahead_s = seconds - now_us / 1e6
    fits = (ahead_s <= limits.CLOCK_SKEW_S_MAX) & (ahead_s >= -limits.FEEDBACK_AGE_S_MAX)
    stated = np.rint(np.where(fits, seconds, 0.0) * 1e6).astype(np.int64)
    return np.where(absent, now_us, np.minimum(stated, now_us)), ~(absent | fits)


def _sources(given: Sequence[str]) -> bytes:
    """One byte each."""
    if given and given.count(given[0]) == len(given):
        return bytes([_source(given[0])]) * len(given)
    return bytes(map(_source, given))


def _refuse_reused(
    verdicts: Verdicts, events: Sequence[Event], owners: Sequence[Any], ids: Sequence[str | None]
) -> None:
    """Refuse ids that are no text, and those that an earlier, different event of the assignment has."""
    if ids.count(None) == len(ids):
        return
    first: dict[tuple[Any, str], tuple[str, str, float | None]] = {}
    for index, (event, owner) in enumerate(zip(events, owners, strict=True)):
        if event.id is None or verdicts[index] != Verdict.ACCEPTED:
            continue
        content = (event.signal, event.source, event.value)
        if not _is_text(event.id, limits.EVENT_ID_LENGTH_MAX):
            verdicts[index] = Verdict.EVENT_ID
        elif first.setdefault((owner, event.id), content) != content:
            verdicts[index] = Verdict.ID_REUSED


def _is_text(text: str, length_max: int) -> bool:
    return 0 < len(text) <= length_max and "\0" not in text


def _picked(events: Sequence[Event], flags: Sequence[bool]) -> list[Event]:
    return [event for event, flag in zip(events, flags, strict=True) if flag]
