"""A/A on an experiment's own data: random halves of its control, analyzed by its own plan. Pure.

Nothing differs between the halves, so every decision of the rule is false. Only the split is drawn
again. Units keep the order of their arrival and their values, so drift and heavy tails are those of
the data.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from app.analysis import limits
from app.analysis.observed import Cell, Observed
from app.analysis.readout.analyze import metric_readouts
from app.analysis.readout.record import MetricReadout
from app.core.errors import UnprocessableInput
from app.experiments.metrics import Metric, Proportion, QuantileOf
from app.experiments.plan import AlwaysValid, AnalysisPlan, FixedHorizon
from app.ledger.units.measures import ACCURACY, Measures
from app.ledger.units.metric_totals import MetricTotals, moments_of
from app.ledger.units.model import Units, vectors
from stats.aa import MeasuredRate, NoiseFloor, noise_floor
from stats.errors import InsufficientData
from stats.multiplicity import Role
from stats.quantiles import QuantileSketch, bucket_numbers
from stats.totals import FloatArray, JointTotals, MeanTotals, ProportionTotals

LOOKS: Final = 10
"""Number of equally spaced looks of a plan that may be looked at all the time."""
_HALVES: Final = ("one half", "the other")
_SEED: Final = 20260101

Halves = tuple[MetricTotals | None, MetricTotals | None]


class AaQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for `replays` from number `first` on; one answer may contain fewer.

    Each numbered replay has its own split, so answers about different numbers add up.
    """

    replays: Annotated[int, msgspec.Meta(ge=1, le=limits.AA_REPLAYS_MAX)] = limits.AA_REPLAYS
    first: Annotated[int, msgspec.Meta(ge=0, le=limits.AA_REPLAYS_MAX)] = 0


class AaRate(msgspec.Struct, frozen=True, kw_only=True):
    """The number of replays with a decision, and the exact 95 % interval of their rate.

    `allowed` is the rate that the plan permits.
    """

    decisions: int
    rate: float
    interval: tuple[float, float]
    allowed: float

    @classmethod
    def of(cls, decisions: int, replays: int, allowed: float) -> "AaRate":
        """Return the rate of this many replays."""
        measured = MeasuredRate.of(decisions, replays)
        bounds = measured.interval.lower, measured.interval.upper
        return cls(decisions=decisions, rate=measured.rate, interval=bounds, allowed=allowed)


class MetricAa(msgspec.Struct, frozen=True, kw_only=True):
    """One metric, of the `units` with a value. A decision is better or harm; of a guardrail, harm.

    `noise_floor` is the difference between the halves that chance exceeds at one look at the rate
    `allowed`, `relative_noise_floor` its share of the mean. Both are null for quantiles and without
    any spread.
    """

    metric: str
    role: Role
    units: int
    noise_floor: float | None
    relative_noise_floor: float | None
    false_positives: AaRate


class Aa(msgspec.Struct, frozen=True, kw_only=True):
    """The decisions of the rule where nothing differs. `looks` are numbers of units.

    `false_positives` are replays with a decision on any primary metric.
    """

    key: str
    units: int
    sampled: bool
    looks: tuple[int, ...]
    first: int
    replays: int
    false_positives: AaRate
    metrics: tuple[MetricAa, ...]
    sentence: str


def together(parts: Sequence[Aa]) -> Aa:
    """Merge answers about different replays. Later ones may contain more units."""
    last, replays = parts[-1], sum(part.replays for part in parts)

    def summed(rates: Sequence[AaRate]) -> AaRate:
        return AaRate.of(sum(rate.decisions for rate in rates), replays, rates[0].allowed)

    total = summed([part.false_positives for part in parts])
    metrics = zip(*(part.metrics for part in parts), strict=True)
    return replace(
        last,
        first=parts[0].first,
        replays=replays,
        false_positives=total,
        metrics=tuple(
            replace(answers[-1], false_positives=summed([answer.false_positives for answer in answers]))
            for answers in metrics
        ),
        sentence=sentence(total, replays, last.units),
    )


class Arrived(NamedTuple):
    """Units of the control in the order of their arrival; `sampled`: they are a part of all."""

    units: Units
    sampled: bool


def replay(
    key: str,
    question: AaQuestion,
    measures: Measures,
    arrived: Arrived,
    *,
    n_variants: int,
    adaptive: bool,
) -> Aa:
    """Replay A/A on these units by the plan of the experiment.

    Raises UnprocessableInput below `AA_UNITS_MIN` units.
    """
    n, metrics = len(arrived.units.sums), measures.metrics
    if n < limits.AA_UNITS_MIN:
        reason = f"needs at least {limits.AA_UNITS_MIN:,} units of the control, has {n:,}; ask again later"
        raise UnprocessableInput(reason)
    plan, ends = _planned(measures.plan, n, n_variants)
    replays = min(question.replays, max(limits.AA_COMPARISONS_MAX // (len(ends) * len(metrics)), 1))
    columns = [_column(metric, measures, arrived.units, ends) for metric in metrics]
    decided = np.zeros((replays, len(metrics)), np.bool_)
    for number in range(replays):
        chosen = np.random.default_rng((_SEED, question.first + number)).random(n) < 0.5
        halves = [column.halves(chosen) for column in columns]
        counts = np.cumsum(np.add.reduceat(chosen, _starts(ends)))
        for look, end in enumerate(ends):
            units = end - int(counts[look]), int(counts[look])
            at_look = {metric.key: totals[look] for metric, totals in zip(metrics, halves, strict=True)}
            readouts = metric_readouts(plan, metrics, _observed(units, at_look, adaptive=adaptive))
            decided[number] |= [_decided(readout) for readout in readouts]
    primary = [metric.role == "primary" for metric in metrics]
    rate = AaRate.of(int(decided[:, primary].any(axis=1).sum()), replays, plan.alpha)
    return Aa(
        key=key,
        units=n,
        sampled=arrived.sampled,
        looks=ends,
        first=question.first,
        replays=replays,
        false_positives=rate,
        metrics=tuple(
            _metric(
                metric,
                column.whole,
                decisions,
                plan.alpha / (sum(primary) if metric.role == "primary" else 1),
            )
            for metric, column, decisions in zip(metrics, columns, decided.T, strict=True)
        ),
        sentence=sentence(rate, replays, n),
    )


def _planned(plan: AnalysisPlan, n: int, n_variants: int) -> tuple[AnalysisPlan, tuple[int, ...]]:
    """Return the plan for the two halves, and the numbers of units at its looks.

    A plan with a horizon reaches it with the last unit. An always-valid plan keeps its tuning.
    """
    expected = n
    fractions: tuple[float, ...] = (1.0,)
    match plan.estimator:
        case AlwaysValid():
            expected = max(round(plan.expected_units * 2 / n_variants), 1)
            fractions = tuple((look + 1) / LOOKS for look in range(LOOKS))
        case FixedHorizon():
            pass
        case sequential:
            fractions = sequential.looks
    ends = tuple(math.ceil(fraction * n) for fraction in fractions)
    return replace(plan, expected_units=expected, segments=None, aa=False), ends


def _observed(units: tuple[int, int], at_look: dict[str, Halves], *, adaptive: bool) -> Observed:
    cells = [
        Cell(1, name, units[half], {key: one[half] for key, one in at_look.items() if one[half] is not None})  # type: ignore[misc] # None is left out
        for half, name in enumerate(_HALVES)
    ]
    return Observed(variants=_HALVES, control=_HALVES[0], cells=cells, adaptive=adaptive, fixed_epochs=(1,))


def _decided(metric: MetricReadout) -> bool:
    verdicts = ("harm",) if metric.role == "guardrail" else ("harm", "better")
    return metric.variants[1].verdict in verdicts


class _Column(NamedTuple):
    """One metric: its totals, and a function from the second half to the totals at each look."""

    whole: MetricTotals | None
    halves: Callable[[NDArray[np.bool_]], list[Halves]]


def _column(metric: Metric, measures: Measures, units: Units, ends: Sequence[int]) -> _Column:
    known, rows = vectors(metric, measures, units)
    if isinstance(metric.measure, QuantileOf):
        return _quantile_column(known, rows[:, 0], ends)
    return _moments_column(metric, known, rows, ends)


def _moments_column(
    metric: Metric, known: NDArray[np.intp], rows: FloatArray, ends: Sequence[int]
) -> _Column:
    """Return totals by sums of values and products, around the mean so that no digits are lost."""
    n, dimension = ends[-1], rows.shape[1]
    centre = rows.mean(axis=0) if len(rows) else np.zeros(dimension)
    lower = np.tril_indices(dimension)
    terms = np.zeros((n, 1 + dimension + len(lower[0])))
    deviations = rows - centre
    terms[known, 0] = 1
    terms[known, 1 : 1 + dimension] = deviations
    terms[known, 1 + dimension :] = deviations[:, lower[0]] * deviations[:, lower[1]]
    starts = _starts(ends)
    everything = np.cumsum(np.add.reduceat(terms, starts), axis=0)

    def totals(sums: FloatArray) -> MetricTotals | None:
        count = round(sums[0])
        if not count:
            return None
        first, products = sums[1 : 1 + dimension], sums[1 + dimension :]
        mean = centre + first / count
        if dimension == 1 and isinstance(metric.measure, Proportion):
            return ProportionTotals(count, round(mean[0] * count))
        comoments = products - first[lower[0]] * first[lower[1]] / count
        comoments[lower[0] == lower[1]] = np.maximum(comoments[lower[0] == lower[1]], 0.0)
        if dimension == 1:
            return MeanTotals(count, float(mean[0]), float(comoments[0]))
        return JointTotals(count, tuple(mean.tolist()), tuple(comoments.tolist()))

    def halves(chosen: NDArray[np.bool_]) -> list[Halves]:
        ours = np.cumsum(np.add.reduceat(terms * chosen[:, None], starts), axis=0)
        return [(totals(whole - part), totals(part)) for whole, part in zip(everything, ours, strict=True)]

    return _Column(totals(everything[-1]), halves)


def _quantile_column(known: NDArray[np.intp], values: FloatArray, ends: Sequence[int]) -> _Column:
    """Return totals by counts of buckets."""
    numbers, bucket = np.unique(bucket_numbers(values, accuracy=ACCURACY), return_inverse=True)
    look = np.searchsorted(ends, known, side="right")
    place, size = look * len(numbers) + bucket, len(ends) * len(numbers)

    def counts(chosen: NDArray[np.intp]) -> NDArray[np.intp]:
        by_look = np.bincount(chosen, minlength=size).reshape(len(ends), len(numbers))
        return np.cumsum(by_look, axis=0)

    everything = counts(place)

    def totals(bucket_counts: NDArray[np.intp]) -> MetricTotals | None:
        if not bucket_counts.any():
            return None
        pairs = zip(numbers.tolist(), bucket_counts.tolist(), strict=True)
        return QuantileSketch.from_counts(pairs, accuracy=ACCURACY)

    def halves(chosen: NDArray[np.bool_]) -> list[Halves]:
        ours = counts(place[chosen[known]])
        return [(totals(whole - part), totals(part)) for whole, part in zip(everything, ours, strict=True)]

    return _Column(totals(everything[-1]), halves)


def _starts(ends: Sequence[int]) -> list[int]:
    """Return the position of the first unit of each look."""
    return [0, *ends[:-1]]


def _metric(
    metric: Metric, whole: MetricTotals | None, decided: NDArray[np.bool_], allowed: float
) -> MetricAa:
    floor = _floor(metric, whole, allowed)
    return MetricAa(
        metric=metric.key,
        role=metric.role,
        units=0 if whole is None else whole.n,
        noise_floor=None if floor is None else floor.absolute,
        relative_noise_floor=None if floor is None else floor.relative,
        false_positives=AaRate.of(int(decided.sum()), len(decided), allowed),
    )


def _floor(metric: Metric, whole: MetricTotals | None, alpha: float) -> NoiseFloor | None:
    if whole is None or isinstance(whole, QuantileSketch):
        return None
    try:
        return noise_floor(moments_of(metric, whole), alpha=alpha)
    except InsufficientData:
        return None


def sentence(rate: AaRate, replays: int, units: int) -> str:
    """Return the result in words; it is too often only if chance does not explain it."""
    low, high = rate.interval
    result = (
        f"On {units:,} units of the control the plan decided in {rate.decisions} of {replays:,} replays, "
        f"although nothing differs ({low:.1%} to {high:.1%}; {rate.allowed:.1%} are allowed)"
    )
    if low > rate.allowed:
        return f"{result}: too often. Do not trust its decisions on these data."
    if replays < 1 / rate.allowed * 5:
        return f"{result}. Run more replays for a clearer result."
    return f"{result}. The plan keeps its error rate."
