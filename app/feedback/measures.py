"""What an experiment's metrics say of its units: from signals to sums per unit, and to totals per cell. Pure.

An assignment contributes a pair (N, D) to each metric, a unit has the sums of its assignments, and a cell
the moments of what these come to. All are whole numbers (values in nanos), functions of the set of
assignments and signals, and move by differences: totals do not depend on the order of events.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from operator import mul
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.core import limits
from app.experiments.metrics import REWARD, Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.model import Stickiness
from app.experiments.plan import AnalysisPlan
from app.experiments.segments import segment_of
from app.feedback.rewards import NANO, NONE, Given
from stats.quantiles import bucket_numbers

REWARD_METRIC: Final = Metric(key=REWARD, measure=Mean(REWARD, (0.0, 1.0)), role="primary")
ASSIGNMENTS: Final = "assignments"
"""The denominator that counts a unit's assignments."""
ACCURACY: Final = 0.01
"""Of the sketches that quantiles are read from, relatively."""

MEASURED: Final = np.dtype(
    [
        ("number", "i8"),  # of its unit
        ("id", "S16"),
        ("assigned_us", "i8"),
        ("deadline_us", "i8"),
        ("variant", "i2"),
        ("reward", "i8"),
    ]
)
"""An exposed assignment of a unit, in the order of units and time."""

_NARROW: Final = range(-(2**63), 2**63)
_WIDE_BYTES: Final = 24
"""A square of 10^18 nanos, of 10^12 units, has 160 bits."""
_MINUTE_US: Final = 60_000_000
_encode: Final = msgspec.msgpack.encode


class Measures(NamedTuple):
    """What is measured of the units of an experiment: the reward first, then its metrics."""

    metrics: tuple[Metric, ...]
    plan: AnalysisPlan
    each_assignment: bool
    """Whether each assignment, drawn for by itself, is a unit of its own."""

    @classmethod
    def of(
        cls, metrics: Iterable[Metric], plan: AnalysisPlan, *, each_assignment: bool = False
    ) -> "Measures":
        """With the reward, which is primary unless another metric is."""
        metrics = tuple(metrics)
        role = "secondary" if any(metric.role == "primary" for metric in metrics) else "primary"
        return cls((msgspec.structs.replace(REWARD_METRIC, role=role), *metrics), plan, each_assignment)

    @property
    def reads_silence(self) -> bool:
        """Whether a horizon that passes without a signal tells something."""
        return any(metric.reads_silence for metric in self.metrics)

    @property
    def reads_contexts(self) -> bool:
        """Whether segments or covariates are taken from contexts."""
        return self.plan.segments is not None or bool(self.plan.covariates)


def measures_of(metrics: Sequence[Metric], plan: AnalysisPlan, stickiness: Stickiness) -> Measures | None:
    """What the ledger keeps per unit, by a definition; None: nothing but totals of rewards.

    Units are kept where metrics, segments or covariates are declared, and where units come back to what they
    were given, so that their assignments are no sample of their own.
    """
    if metrics or plan.segments or plan.covariates or stickiness != "none":
        return Measures.of(metrics, plan, each_assignment=stickiness == "none")
    return None


UnitKey = tuple[int, int, int, bytes]
"""Experiment, epoch, unit hash, and the id of the assignment where each is a unit of its own."""


UnitRow = tuple[int, str, bool, int | None, bytes]
"""Variant, segment, whether it crossed over, its minute, and its body, as stored."""


class Unit(msgspec.Struct, frozen=True):
    """A unit in an epoch: its first variant, and the sums of its assignments to that one.

    The first `UNIT_ASSIGNMENTS_MAX` assignments of the epoch make it, by time: so a unit with any number of
    them, as of a robot, does not hold up the ledger, and which ones count depends on the set alone.
    `crossed`: it was assigned to another variant as well. `minute` is that of its first assignment, since
    1970; null if it was stored before there were series. `covariates` in nanos, null where one is missing;
    `sums` are N and D of each metric in turn.
    """

    variant: int
    segment: str
    crossed: bool
    minute: int | None
    covariates: tuple[int | None, ...]
    sums: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """Covariates and sums; the others have columns of their own."""
        return _packed(self.covariates + self.sums)

    @classmethod
    def from_row(cls, row: UnitRow, measures: Measures) -> "Unit":
        """The inverse, of variant, segment, crossed, minute and these bytes.

        Raises ValueError or msgspec.MsgspecError if they do not fit.
        """
        variant, segment, crossed, minute, body = row
        numbers, n_covariates = _decode_unit(body), len(measures.plan.covariates)
        if len(numbers) != n_covariates + 2 * len(measures.metrics):
            raise ValueError(f"{len(body)} bytes are no sums of these metrics")
        covariates = (None if one is None else _whole(one) for one in numbers[:n_covariates])
        sums = (_whole(one or 0) for one in numbers[n_covariates:])
        return cls(variant, segment, crossed, minute, tuple(covariates), tuple(sums))


def measure(
    assignments: NDArray[np.void],
    given: Given,
    contexts: Mapping[int, Mapping[str, Any] | None],
    measures: Sequence[Measures],
    *,
    silent_until_us: float,
) -> list[Unit]:
    """Every unit, from its first exposed assignments, elements of MEASURED.

    `measures` are those of each unit. Signals are `given` by the index of their assignment, in time only.
    `contexts` are those of units' first assignments where they are read. Where a deadline is not after
    `silent_until_us` silence has its declared value.
    """
    values = _current_values(given)
    edges = np.flatnonzero(np.diff(assignments["number"])) + 1
    ends = [0, *edges.tolist(), len(assignments)]
    variants, rewards = assignments["variant"].tolist(), assignments["reward"].tolist()
    minutes = (assignments["assigned_us"] // _MINUTE_US).tolist()
    silent = (assignments["deadline_us"] <= silent_until_us).tolist()
    found = []
    for number, (start, end) in enumerate(pairwise(ends)):
        measured = measures[number]
        first = variants[start]
        sums = [0] * (2 * len(measured.metrics))
        for index in range(start, end):
            told = index in values or silent[index] or rewards[index] != NONE
            if told and variants[index] == first:
                _add(sums, measured.metrics, values.get(index, {}), rewards[index], silent=silent[index])
        context = contexts.get(number) or {}
        found.append(
            Unit(
                variant=first,
                segment="" if measured.plan.segments is None else segment_of(measured.plan.segments, context),
                crossed=any(variant != first for variant in variants[start:end]),
                minute=minutes[start],
                covariates=tuple(_covariate(context.get(name)) for name in measured.plan.covariates),
                sums=tuple(sums),
            )
        )
    return found


def _current_values(given: Given) -> dict[int, dict[str, list[int]]]:
    """The newest value of each (assignment, name, source), in nanos, by assignment and name."""
    newest: dict[tuple[int, int, int], tuple[int, float]] = {}
    for owner, name, source, at_us, value in given.signals.tolist():
        key, told = (owner, name, source), (at_us, value)
        if key not in newest or newest[key] < told:
            newest[key] = told
    found: defaultdict[int, dict[str, list[int]]] = defaultdict(dict)
    for (owner, name, _), (_, value) in newest.items():
        found[owner].setdefault(given.names[name], []).append(nanos(value))
    return found


def _add(
    sums: list[int], metrics: Sequence[Metric], values: Mapping[str, list[int]], reward: int, *, silent: bool
) -> None:
    """One assignment's N and D of every metric."""
    for number, metric in enumerate(metrics):
        if metric.key == REWARD:
            n, d = (0, 0) if reward == NONE else (reward, 1)
        else:
            n, d = _contribution(metric, values, silent=silent)
        sums[2 * number] += n
        sums[2 * number + 1] += d


def _contribution(metric: Metric, values: Mapping[str, list[int]], *, silent: bool) -> tuple[int, int]:
    """N and D of one assignment; both 0 while nothing is known."""
    measure = metric.measure
    if isinstance(measure, Ratio):
        above = values.get(measure.numerator)
        below = [NANO] if measure.denominator == ASSIGNMENTS else values.get(measure.denominator)
        known = (above or below) if silent else (above and below)
        return (sum(above or ()), sum(below or ())) if known else (0, 0)
    if told := values.get(measure.signal):
        if isinstance(measure, Proportion):
            return int(max(told) > 0), 1
        whole = isinstance(measure, Mean) and measure.per_unit == "sum"
        return sum(told), 1 if whole else len(told)
    if silent and not isinstance(measure, QuantileOf) and measure.silence is not None:
        return measure.silence if isinstance(measure, Proportion) else nanos(measure.silence), 1
    return 0, 0


def nanos(value: float) -> int:
    """A value in whole billionths."""
    return round(value * NANO)


def _covariate(value: object) -> int | None:
    """In nanos; None if it is missing, no number, or too large to be one."""
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return nanos(number) if abs(number) <= limits.SIGNAL_VALUE_MAX else None


# Cells

CellKey = tuple[int, int, int, str, bool]
"""Experiment, epoch, variant, segment, and whether units crossed over."""

MinuteKey = tuple[int, int, int, str, bool, int | None]
"""A cell, and the minute of its units."""

Sums = tuple[int, ...] | dict[int, int]
"""Of one metric: its number of units, then sums and products of what is measured of each, by rows of the
lower triangle; of a quantile the number of units in each bucket. What is measured are (N, D) of a ratio, else
the outcome, the covariates (0 where one is missing), and of each whether it is missing."""


class CellTotals(msgspec.Struct, frozen=True):
    """The totals of the units of a cell: how many came, and the sums of each metric."""

    units: int
    metrics: tuple[Sums, ...]

    def __add__(self, other: "CellTotals") -> "CellTotals":
        metrics = zip(self.metrics, other.metrics, strict=True)
        return CellTotals(self.units + other.units, tuple(_plus(a, b, 1) for a, b in metrics))

    def __sub__(self, other: "CellTotals") -> "CellTotals":
        metrics = zip(self.metrics, other.metrics, strict=True)
        return CellTotals(self.units - other.units, tuple(_plus(a, b, -1) for a, b in metrics))

    @property
    def empty(self) -> bool:
        """Whether there are no units: what is left of some that have moved."""
        return not self.units and not any(any(one) for one in self.metrics)

    def outcomes(self, measures: Measures) -> "CellTotals":
        """The same without covariates."""
        size = 1 + 2 * len(measures.plan.covariates)
        pairs = zip(measures.metrics, self.metrics, strict=True)
        return CellTotals(
            self.units,
            tuple(
                sums
                if isinstance(sums, dict) or isinstance(metric.measure, Ratio)
                else (sums[0], sums[1], sums[1 + size])
                for metric, sums in pairs
            ),
        )

    @classmethod
    def none(cls, measures: Measures) -> "CellTotals":
        """Of no units."""
        return cls(0, tuple(_nothing(metric, measures.plan) for metric in measures.metrics))

    def to_bytes(self) -> bytes:
        """MessagePack: the number of units, then per metric its numbers, or pairs of buckets."""
        bodies = [sorted(one.items()) if isinstance(one, dict) else _packed(one) for one in self.metrics]
        return _encode([self.units, bodies])

    @classmethod
    def from_bytes(cls, body: bytes) -> "CellTotals":
        """The inverse. Raises ValueError or msgspec.MsgspecError if these are no totals."""
        units, bodies = _decode(body)
        metrics = (_unpacked(one) if isinstance(one, bytes) else dict(one) for one in bodies)
        return cls(units, tuple(metrics))


_decode: Final = msgspec.msgpack.Decoder(tuple[int, list[bytes | list[tuple[int, int]]]]).decode


def cells_by_minute(
    units: Iterable[tuple[UnitKey, Unit]], measures: Mapping[int, Measures]
) -> dict[MinuteKey, CellTotals]:
    """The totals of these units, by cell and minute."""
    of_cell: defaultdict[MinuteKey, list[Unit]] = defaultdict(list)
    for (experiment_id, epoch, *_), unit in units:
        key = experiment_id, epoch, unit.variant, unit.segment, unit.crossed, unit.minute
        of_cell[key].append(unit)
    return {key: _totals(found, measures[key[0]]) for key, found in of_cell.items()}


def cells(by_minute: Mapping[MinuteKey, CellTotals]) -> dict[CellKey, CellTotals]:
    """The same by cell alone."""
    found: dict[CellKey, CellTotals] = {}
    for names, totals in by_minute.items():
        key = names[:5]
        found[key] = found[key] + totals if key in found else totals
    return found


def _totals(units: Sequence[Unit], measures: Measures) -> CellTotals:
    found: list[Sums] = []
    # Most units that have just come are told nothing of.
    told = [(unit.sums, _regressors(unit.covariates)) for unit in units if any(unit.sums)]
    for number, metric in enumerate(measures.metrics):
        measured = [
            (sums[2 * number], sums[2 * number + 1], own)
            for sums, own in told
            if sums[2 * number] or sums[2 * number + 1]
        ]
        if isinstance(metric.measure, QuantileOf):
            found.append(_buckets([n / d / NANO for n, d, _ in measured]))
        else:
            size = len(_nothing(metric, measures.plan))
            found.append(_moments([_vector(metric, *one) for one in measured], size))
    return CellTotals(len(units), tuple(found))


def vectors(
    metric: Metric, measures: Measures, units: Sequence[Unit]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """What is measured of the units that have a value, in plain numbers, not nanos: their places, and rows.

    A row is what `Sums` sum up; of a quantile the value itself.
    """
    number = measures.metrics.index(metric)
    pairs = [unit.sums[2 * number : 2 * number + 2] for unit in units]
    known = [place for place, pair in enumerate(pairs) if any(pair)]
    rows: list[tuple[float, ...]]
    if isinstance(metric.measure, QuantileOf):
        width, rows = 1, [(pairs[place][0] / pairs[place][1],) for place in known]
    else:
        width = 2 if isinstance(metric.measure, Ratio) else 1 + 2 * len(measures.plan.covariates)
        rows = [
            _vector(metric, pairs[place][0], pairs[place][1], _regressors(units[place].covariates))
            for place in known
        ]
    return np.array(known, np.intp), np.array(rows, np.float64).reshape(len(known), width) / NANO


def _regressors(covariates: tuple[int | None, ...]) -> tuple[int, ...]:
    """The covariates, 0 where one is missing, and of each whether it is: 10^9 or 0.

    A regression on both is the same whatever number stands for what is missing.
    """
    return (*(one or 0 for one in covariates), *(NANO * (one is None) for one in covariates))


def _vector(metric: Metric, n: int, d: int, covariates: tuple[int, ...]) -> tuple[int, ...]:
    """What is measured of one unit."""
    match metric.measure:
        case Ratio():
            return n, d
        case Proportion():
            return (NANO if n else 0, *covariates)
        case Mean(cap=(lower, upper), per_unit=per_unit):
            x = n if per_unit == "sum" else _divided(n, d)
            if lower is not None:
                x = max(x, nanos(lower))
            if upper is not None:
                x = min(x, nanos(upper))
            return (x, *covariates)
        case QuantileOf():
            raise AssertionError("quantiles are counted in buckets")


def _divided(n: int, d: int) -> int:
    """The quotient as the nearest whole number, of two the even one."""
    whole, rest = divmod(n, d)
    return whole + (2 * rest > d or (2 * rest == d and whole % 2 == 1))


def _moments(vectors: Sequence[tuple[int, ...]], size: int) -> tuple[int, ...]:
    if not vectors:
        return (0,) * size
    columns = list(zip(*vectors, strict=True))
    products = [sum(map(mul, x, y)) for row, x in enumerate(columns) for y in columns[: row + 1]]
    return (len(vectors), *map(sum, columns), *products)


def _buckets(values: Sequence[float]) -> dict[int, int]:
    numbers, counts = np.unique(bucket_numbers(np.array(values), accuracy=ACCURACY), return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def _nothing(metric: Metric, plan: AnalysisPlan) -> Sums:
    if isinstance(metric.measure, QuantileOf):
        return {}
    dimension = 2 if isinstance(metric.measure, Ratio) else 1 + 2 * len(plan.covariates)
    return (0,) * (1 + dimension + dimension * (dimension + 1) // 2)


def _plus(first: Sums, second: Sums, sign: int) -> Sums:
    if isinstance(first, dict) and isinstance(second, dict):
        merged = first | {key: first.get(key, 0) + sign * count for key, count in second.items()}
        return {key: count for key, count in merged.items() if count}
    if isinstance(first, tuple) and isinstance(second, tuple):
        return tuple(a + sign * b for a, b in zip(first, second, strict=True))
    raise ValueError("totals of different metrics do not add")


def _packed(numbers: Iterable[int | None]) -> bytes:
    """MessagePack: whole numbers of 64 bits as such, wider ones as their bytes."""
    return _encode(
        [
            one if one is None or one in _NARROW else one.to_bytes(_WIDE_BYTES, "little", signed=True)
            for one in numbers
        ]
    )


def _unpacked(body: bytes) -> tuple[int, ...]:
    return tuple([one if isinstance(one, int) else _whole(one) for one in _decode_numbers(body)])


def _whole(one: int | bytes) -> int:
    return one if isinstance(one, int) else int.from_bytes(one, "little", signed=True)


_decode_numbers: Final = msgspec.msgpack.Decoder(list[int | bytes]).decode
_decode_unit: Final = msgspec.msgpack.Decoder(list[int | bytes | None]).decode
