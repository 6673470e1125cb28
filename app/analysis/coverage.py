"""Coverage of the signals of an experiment, and what they say about labels. Pure.

A label is a signal that says whether a response was good, usually from a person. Intervals hold at
one look, and take all assignments of a unit together, because they are not independent.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.analysis.labels import Comparison, Fit, Labelled, compared, fitted
from app.experiments.catalogue import CATALOGUE, SignalKind
from app.experiments.metrics import Mean, QuantileOf
from app.experiments.model import Definition
from app.experiments.reward import Reward, RewardSignal
from app.experiments.signals import signals_of
from app.feedback.model import Source
from app.ledger.rewards.model import Assignments, Given, newest
from stats.interval import Interval
from stats.proportions import exact_interval
from stats.totals import ProportionTotals

LABELS_MIN: Final = 20
"""Fewest labelled assignments from which anything is said about labels."""
_WEIGHT_MIN: Final = 0.01
_LEVEL: Final = 0.05
_QUANTILES: Final = (0.5, 0.9, 0.99)

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Delay(msgspec.Struct, frozen=True):
    """Quantiles of the time from an assignment to the signal, in seconds."""

    median_s: float
    p90_s: float
    p99_s: float


class SignalCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """Coverage of one signal in the sample.

    `assignments` have the signal; `share` is their part, with an interval. `comparison` and
    `calibration` are about the labels; null without enough of them, as `reason` says.
    """

    signal: str
    assignments: int
    share: float | None
    share_interval: Interval | None
    delay: Delay | None
    comparison: Comparison | None = None
    calibration: Fit | None = None
    reason: str = ""


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """The signals of a sample of assignments: all assignments of a random part of the units.

    `label` is the signal that serves as label, and `labelled` the number of assignments with it.
    `reward` is a reward with weights from the labels; null without enough labels.
    """

    sampled: int
    label: str | None
    labelled: int
    signals: list[SignalCoverage]
    reward: Reward | None = None


class _Sample(NamedTuple):
    """Assignments, the newest signals about them, and their labels."""

    definition: Definition
    assignments: Assignments
    current: Given
    label: str | None
    labels: Labelled | None


class _Values(NamedTuple):
    """The newest values of one signal: positions of assignments, values, and delays in seconds."""

    owners: NDArray[np.int64]
    values: Floats
    delays_s: Floats


def coverage_of(
    definition: Definition, assignments: Assignments, given: Given, label: str | None = None
) -> Coverage:
    """Return the coverage of a sample. Without a `label`, the most frequent human signal is it."""
    current = Given(newest(assignments, given.signals), given.names)
    label = label or _most_frequent_label(current)
    labels = None if label is None else _labels(definition, assignments, current, label)
    read = signals_of(definition.reward, definition.metrics)
    names = [*read, *(name for name in sorted(current.names) if name not in read)]
    sample = _Sample(definition, assignments, current, label, labels)
    covered = [_covered(sample, name) for name in names]
    shown = [signal for signal in covered if signal.signal in read or signal.assignments]
    return Coverage(
        sampled=len(assignments),
        label=label,
        labelled=0 if labels is None else int(labels.known.sum()),
        signals=shown,
        reward=_proposed(definition, shown),
    )


def joined(parts: Sequence[tuple[Assignments, Given]]) -> tuple[Assignments, Given]:
    """Return the assignments of several parts together, and the signals about them."""
    names = list(dict.fromkeys(name for _, given in parts for name in given.names))
    position = {name: number for number, name in enumerate(names)}
    signals, n_before = [], 0
    for assignments, given in parts:
        moved = given.signals.copy()
        moved["owner"] += n_before
        moved["name"] = np.array([position[name] for name in given.names], np.int64)[moved["name"]]
        signals.append(moved)
        n_before += len(assignments)
    return np.concatenate([assignments for assignments, _ in parts]), Given(np.concatenate(signals), names)


def _most_frequent_label(current: Given) -> str | None:
    human = current.signals["name"][current.signals["source"] == Source.HUMAN]
    if not len(human):
        return None
    counts = np.bincount(human, minlength=len(current.names)).tolist()
    return min(zip((-count for count in counts), current.names, strict=True))[1]


def _labels(definition: Definition, assignments: Assignments, current: Given, label: str) -> Labelled:
    """Return the label of each assignment as a score in [0, 1]."""
    values = _values(assignments, current, label, human=_has_human(current, label))
    scores = np.full(len(assignments), np.nan)
    low, high = _scale(definition, label, values.values)
    scores[values.owners] = np.clip((values.values - low) / (high - low), 0.0, 1.0)
    return Labelled(scores, assignments["unit_hash"].astype(np.int64))


def _scale(definition: Definition, name: str, values: Floats) -> tuple[float, float]:
    """Return the range of a label: declared, of the catalogue, or as seen."""
    kind = _kind(definition, name)
    if kind is not None and kind.scale is not None:
        return kind.scale
    for metric in definition.metrics:
        measure = metric.measure
        if isinstance(measure, Mean | QuantileOf) and measure.signal == name and measure.range is not None:
            return measure.range
    low, high = min(0.0, float(values.min(initial=0.0))), max(1.0, float(values.max(initial=1.0)))
    return low, high


def _kind(definition: Definition, name: str) -> SignalKind | None:
    return definition.signals.get(name) or CATALOGUE.get(name)


def _has_human(current: Given, name: str) -> bool:
    if name not in current.names:
        return False
    of_name = current.signals["name"] == current.names.index(name)
    return bool((current.signals["source"][of_name] == Source.HUMAN).any())


def _values(assignments: Assignments, current: Given, name: str, *, human: bool | None = None) -> _Values:
    """Return the newest value about each assignment.

    `human`: only values of people, or only those of others.
    """
    signals = current.signals
    chosen = np.zeros(len(signals), np.bool_)
    if name in current.names:
        chosen = signals["name"] == current.names.index(name)
    if human is not None:
        chosen &= (signals["source"] == Source.HUMAN) == human
    rows = signals[chosen]
    rows = rows[np.lexsort((rows["value"], rows["at_us"], rows["owner"]))]
    last = np.ones(len(rows), np.bool_)
    last[:-1] = rows["owner"][1:] != rows["owner"][:-1]
    rows = rows[last]
    delays_s = np.maximum(rows["at_us"] - assignments["assigned_us"][rows["owner"]], 0) / 1e6
    return _Values(rows["owner"].astype(np.int64), rows["value"].astype(np.float64), delays_s)


def _covered(sample: _Sample, name: str) -> SignalCoverage:
    definition, assignments, current, label, labels = sample
    is_label = name == label
    human = False if is_label and _has_human(current, name) else None
    values = _values(assignments, current, name, human=human)
    shown = _values(assignments, current, name) if is_label else values
    n = len(assignments)
    share = len(shown.owners) / n if n else None
    around = exact_interval(ProportionTotals(n, len(shown.owners)), alpha=_LEVEL) if n else None
    median, p90, p99 = np.quantile(shown.delays_s, _QUANTILES).tolist() if len(shown.owners) else (0, 0, 0)
    coverage = SignalCoverage(
        signal=name,
        assignments=len(shown.owners),
        share=share,
        share_interval=around,
        delay=Delay(median, p90, p99) if len(shown.owners) else None,
    )
    if labels is None:
        return msgspec.structs.replace(coverage, reason="no label: no signal has the source human")
    if is_label and (human is None or not len(values.owners)):
        return msgspec.structs.replace(coverage, reason="this is the label")
    return _with_labels(coverage, definition, values, labels)


def _with_labels(
    coverage: SignalCoverage, definition: Definition, values: _Values, labels: Labelled
) -> SignalCoverage:
    """Add what a signal says about the labels."""
    present = np.full(len(labels.scores), np.nan)
    present[values.owners] = values.values
    n_both = int((labels.known & ~np.isnan(present)).sum())
    if n_both < LABELS_MIN:
        reason = f"{n_both} labelled assignments have the signal; {LABELS_MIN} are needed"
        return msgspec.structs.replace(coverage, reason=reason)
    kind = _kind(definition, coverage.signal)
    is_event = len(np.unique(values.values)) == 1 if kind is None else kind.value is not None
    lower = kind is not None and kind.direction == "lower"
    return msgspec.structs.replace(
        coverage,
        comparison=compared(labels, present, is_event=is_event, lower_is_better=lower),
        calibration=fitted(labels, present, is_event=is_event),
    )


def _proposed(definition: Definition, signals: Sequence[SignalCoverage]) -> Reward | None:
    """Return a reward that averages the signals, each calibrated to the labels."""
    parts: dict[str, float | RewardSignal] = dict(_parts(signals))
    if not parts:
        return None
    reward = definition.reward
    return Reward(signals=parts, combine="mean", horizon_s=reward.horizon_s, silence=reward.silence)


def _parts(signals: Sequence[SignalCoverage]) -> Iterator[tuple[str, RewardSignal]]:
    for signal in signals:
        fit = signal.calibration
        if fit is not None and len(fit.points) > 1:
            points = tuple((point.value, round(point.score, 4)) for point in fit.points)
            weight = max(round(fit.weight, 2), _WEIGHT_MIN)
            value = 1.0 if fit.is_event else None
            yield signal.signal, RewardSignal(weight=weight, value=value, calibration=points)
