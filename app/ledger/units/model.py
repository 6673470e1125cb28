"""Units of an experiment in columns: signals become sums per unit, and totals per cell. Pure.

Numbers are whole: of 64 bits where all sums are sure to fit, else Python integers (numpy's
objects).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.core.limits import SIGNAL_VALUE_MAX
from app.experiments.metrics import ASSIGNMENTS, REWARD, Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.segments import segment_of
from app.ledger.rewards.composite import NANO
from app.ledger.rewards.model import FITTING, NONE, Assignments, Given, Integers, newest, whole
from app.ledger.units.measures import (
    ACCURACY,
    CellTotals,
    Measures,
    MinuteKey,
    Sums,
    nanos,
    packed,
    unpacked_number,
)
from stats.quantiles import bucket_numbers

HEAD: Final = np.dtype(
    [
        ("epoch", "i4"),
        ("variant", "i2"),
        ("crossed", "?"),
        ("minute", "i4"),
        ("stratum", "i2"),
        ("weight", "i8"),
        ("layout", "i2"),
    ]
)
"""Columns of whole numbers of a stored unit. NONE is a null minute or stratum, 0 a null weight."""
MISSING: Final = -(2**63)
"""Value for a covariate that is null."""

_MINUTE_US: Final = 60_000_000
_HALF_BITS: Final = 21
_LOW: Final = 2**_HALF_BITS - 1
_LARGE: Final = 2 ** (2 * _HALF_BITS)
_decode: Final = msgspec.msgpack.Decoder(list[int | bytes | None]).decode

Numbers = NDArray[Any]
"""Whole numbers, int64 or objects."""


class Units(NamedTuple):
    """Units, each in one epoch: its first variant, and the sums of its assignments to that variant.

    Only the first `UNIT_ASSIGNMENTS_MAX` assignments of the epoch count, by time. So a robot's unit
    with many assignments does not hold up the ledger, and the choice depends on the set alone.

    `segments` are positions in `Measures.segments`. `crossed`: the unit has other variants as well.
    `minutes` are the minutes of first assignments since 1970; NONE if stored before series existed.
    `strata` are those of the shares of first assignments, and `weights` their 1 / propensity in
    nanos; NONE and 0 where shares do not follow outcomes (`units.strata`). `covariates`, shape
    (units, covariates), are in nanos, with MISSING where a covariate is missing. `sums`, shape
    (units, 2 x metrics), has N and D of each metric in turn.
    """

    epochs: Numbers
    variants: Numbers
    segments: Numbers
    crossed: NDArray[np.bool_]
    minutes: Numbers
    strata: Numbers
    weights: Numbers
    covariates: Numbers
    sums: Numbers

    def of(self, chosen: Any) -> "Units":
        """Select units by a mask, positions or a slice."""
        return Units(*(column[chosen] for column in self))

    def spread(self, places: Any, n: int) -> "Units":
        """Scatter the units into columns of length `n`; all other rows are zero."""
        spread = [np.zeros((n, *column.shape[1:]), column.dtype) for column in self]
        for column, values in zip(spread, self, strict=True):
            column[places] = values
        return Units(*spread)

    def __or__(self, other: "Units") -> "Units":
        """Append the units of `other`."""
        return Units(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def differ(self, other: "Units") -> NDArray[np.bool_]:
        """Return the mask of the units that differ from the unit of `other` at the same position."""
        pairs = zip(self, other, strict=True)
        differ: NDArray[np.bool_] = np.logical_or.reduce(
            [np.any(a != b, axis=tuple(range(1, a.ndim))) for a, b in pairs]
        )
        return differ

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Mask of the units for which any metric has a value."""
        measured: NDArray[np.bool_] = np.any(self.sums != 0, axis=1)
        return measured

    def without_signals(self, measures: Measures) -> NDArray[np.bool_]:
        """Return the mask of the units that have no stored signal in time which any metric reads."""
        return ~self.crossed & ~self.measured & (not measures.waits_for_halves)

    def bodies(self) -> list[bytes]:
        """Encode the covariates and sums of each unit as MessagePack; the rest has its own columns."""
        n_covariates = self.covariates.shape[1]
        numbers = np.ascontiguousarray(np.concatenate([self.covariates, self.sums], axis=1))
        if numbers.dtype == object:
            return [_body(row, n_covariates) for row in numbers.tolist()]
        # Most units equal many others, so equal bytes are encoded once.
        raw = numbers.view(f"V{numbers.shape[1] * numbers.itemsize}").ravel().tolist()
        places = dict(zip(raw, range(len(raw)), strict=True))
        bodies = {row: _body(numbers[place].tolist(), n_covariates) for row, place in places.items()}
        return [bodies[row] for row in raw]

    @classmethod
    def rewarded(cls, variants: Sequence[int], minutes: Sequence[int], rewards: Sequence[int]) -> "Units":
        """Return units of one assignment each, for which only the reward is measured, in nanos."""
        n = len(rewards)
        sums = np.stack([np.array(rewards, np.int64), np.ones(n, np.int64)], axis=1)
        nothing = np.zeros(n, np.int64)
        return cls(
            epochs=nothing,
            variants=np.array(variants),
            segments=nothing,
            crossed=nothing != 0,
            minutes=np.array(minutes),
            strata=nothing + NONE,
            weights=nothing,
            covariates=np.empty((n, 0), np.int64),
            sums=sums,
        )

    @classmethod
    def read(
        cls, heads: NDArray[np.void], segments: Sequence[str], bodies: Sequence[bytes], measures: Measures
    ) -> tuple["Units", NDArray[np.bool_]]:
        """Decode stored units. Return them and the mask of readable rows; other rows are zero.

        `heads` has the fields of HEAD. Units of an earlier layout have the sums of the metrics that
        are carried from it; other sums are zero.
        """
        n_covariates = len(measures.plan.covariates)
        segment_places = {name: place for place, name in enumerate(measures.segments)}
        segment = np.array([segment_places.get(name, NONE) for name in segments], np.int64)
        numbers, readable = _read_numbers(heads["layout"], bodies, measures)
        readable &= segment != NONE
        units = cls(
            epochs=heads["epoch"],
            variants=heads["variant"],
            segments=segment,
            crossed=heads["crossed"],
            minutes=heads["minute"],
            strata=heads["stratum"],
            weights=heads["weight"],
            covariates=numbers[:, :n_covariates],
            sums=numbers[:, n_covariates:],
        )
        return units, readable


def _read_numbers(
    layouts: Numbers, bodies: Sequence[bytes], measures: Measures
) -> tuple[Numbers, NDArray[np.bool_]]:
    """Return covariates and sums of stored units, shape (units, columns), and the readable ones."""
    n_covariates, width = len(measures.plan.covariates), len(measures.plan.covariates)
    width += 2 * len(measures.metrics)
    readable = np.zeros(len(bodies), np.bool_)
    parts: list[tuple[NDArray[np.intp], Numbers]] = []
    for layout in np.unique(layouts).tolist():
        rows = np.flatnonzero(layouts == layout)
        source = measures.at(layout)
        if source is None:
            continue
        of_layout = [bodies[row] for row in rows.tolist()]
        places = {body: place for place, body in enumerate(dict.fromkeys(of_layout))}
        size = n_covariates + 2 * len(source.metrics)
        decoded = [_numbers(body, size) for body in places]
        place = np.array([places[body] for body in of_layout], np.intp)
        readable[rows] = np.array([row is not None for row in decoded], np.bool_)[place]
        matrix = _matrix([row or [0] * size for row in decoded], size)
        if layout != measures.layout:
            matrix = _carried_columns(matrix, measures, layout)
        parts.append((rows, matrix[place]))
    wide = any(matrix.dtype == object for _, matrix in parts)
    numbers = np.zeros((len(bodies), width), object if wide else np.int64)
    for rows, matrix in parts:
        numbers[rows] = matrix
    return numbers, readable


def _carried_columns(numbers: Numbers, measures: Measures, layout: int) -> Numbers:
    """Return columns of an earlier layout as present ones; 0 where a metric is not carried."""
    n_covariates = len(measures.plan.covariates)
    columns = np.zeros((len(numbers), n_covariates + 2 * len(measures.metrics)), numbers.dtype)
    columns[:, :n_covariates] = numbers[:, :n_covariates]
    for number, place in enumerate(measures.carried(layout)):
        if place is not None:
            to, source = n_covariates + 2 * number, n_covariates + 2 * place
            columns[:, to : to + 2] = numbers[:, source : source + 2]
    return columns


def _body(numbers: Sequence[int], n_covariates: int) -> bytes:
    covariates = [None if number == MISSING else number for number in numbers[:n_covariates]]
    return packed([*covariates, *numbers[n_covariates:]])


def _numbers(body: bytes, size: int) -> list[int] | None:
    """Decode a unit's body; None if it cannot be decoded."""
    try:
        numbers = _decode(body)
    except msgspec.MsgspecError:
        return None
    if len(numbers) != size:
        return None
    return [MISSING if number is None else unpacked_number(number) for number in numbers]


def _matrix(rows: Sequence[Sequence[int]], width: int) -> Numbers:
    try:
        return np.fromiter(chain.from_iterable(rows), np.int64, len(rows) * width).reshape(-1, width)
    except OverflowError:
        return np.array(rows, object).reshape(-1, width)


class Heads(NamedTuple):
    """Columns of `Units` from the contexts of the first assignments."""

    segments: Numbers
    covariates: Numbers

    @classmethod
    def of(cls, contexts: Iterable[Mapping[str, Any] | None], measures: Measures) -> "Heads":
        """Return the segment and the covariates of each context."""
        known = [context or {} for context in contexts]
        covariates = np.empty((len(known), len(measures.plan.covariates)), np.int64)
        for number, name in enumerate(measures.plan.covariates):
            covariates[:, number] = [_covariate(context.get(name)) for context in known]
        segments = np.zeros(len(known), np.int64)
        if measures.plan.segments is not None:
            places = {name: place for place, name in enumerate(measures.declared_segments)}
            segments[:] = [places[segment_of(measures.plan.segments, context)] for context in known]
        return cls(segments, covariates)


def _covariate(value: object) -> int:
    """Convert a covariate to nanos; MISSING if it is missing, not a number, or too large."""
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return MISSING
    return nanos(number) if abs(number) <= SIGNAL_VALUE_MAX else MISSING


def measure(
    assignments: Assignments,
    number: Integers,
    given: Given,
    heads: Heads,
    measures: Measures,
    *,
    silent_until_us: float,
) -> Units:
    """Measure units from their first exposed assignments, which are in the order of units and time.

    `number` is the number of each assignment's unit, from 0. `given` signals refer to assignments
    by index; only those in time count. If a deadline is not after `silent_until_us`, silence has
    its declared value.
    """
    firsts = starts_of(number)
    variants = assignments["variant"][firsts]
    in_variant = assignments["variant"] == variants[number]
    given = Given(newest(assignments, given.signals), given.names)
    silent = assignments["deadline_us"] <= silent_until_us
    known = silent | (assignments["reward"] != NONE)
    known[given.signals["owner"]] = True
    chosen = np.flatnonzero(known & in_variant)
    parts = fitting(contributions(assignments[chosen], given.about(chosen), measures, silent[chosen]))
    sums = np.zeros((len(firsts), 2 * len(measures.metrics)), parts.dtype)
    if len(chosen):
        starts = starts_of(number[chosen])
        sums[number[chosen[starts]]] = np.add.reduceat(parts, starts)
    return Units(
        epochs=assignments["epoch"][firsts],
        variants=variants,
        segments=heads.segments,
        crossed=np.logical_or.reduceat(~in_variant, firsts) if len(firsts) else np.empty(0, np.bool_),
        minutes=assignments["assigned_us"][firsts] // _MINUTE_US,
        strata=np.full(len(firsts), NONE, np.int64),
        weights=np.zeros(len(firsts), np.int64),
        covariates=heads.covariates,
        sums=sums,
    )


def starts_of(numbers: Integers) -> NDArray[np.intp]:
    """Return the position of each number's first occurrence in an ascending array."""
    begins = np.ones(len(numbers), np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=begins[1:])
    return np.flatnonzero(begins)


class _Signal(NamedTuple):
    """Values of one signal by assignment: the number of sources, the sum and the maximum."""

    sources: Numbers
    total: Numbers
    greatest: Numbers


def contributions(
    assignments: Assignments, given: Given, measures: Measures, silent: NDArray[np.bool_]
) -> Numbers:
    """Return N and D of every metric and assignment, side by side; both 0 while the metric is unknown."""
    amounts = whole(np.rint(given.signals["value"] * NANO))
    zeros = np.zeros(len(assignments), np.int64)

    @cache
    def signal(name: str) -> _Signal:
        if name not in given.names:
            return _Signal(zeros, zeros, zeros)
        of_name = given.signals["name"] == given.names.index(name)
        owners, values = given.signals["owner"][of_name], amounts[of_name]
        columns = _Signal(zeros.copy(), zeros.astype(values.dtype), zeros.astype(values.dtype))
        if len(owners):
            starts = starts_of(owners)
            owners, ends = owners[starts], np.append(starts[1:], len(owners))
            columns.sources[owners] = ends - starts
            columns.total[owners] = np.add.reduceat(values, starts)
            columns.greatest[owners] = np.maximum.reduceat(values, starts)
        return columns

    columns: list[Numbers] = []
    for metric in measures.metrics:
        if metric.key == REWARD:
            known = assignments["reward"] != NONE
            columns += [np.where(known, assignments["reward"], 0), known * 1]
        elif isinstance(metric.measure, Ratio):
            columns += _pair(metric.measure, signal, silent)
        else:
            columns += _outcome(metric.measure, signal(metric.measure.signal), silent)
    return np.stack(columns, axis=1)


def _pair(
    measure: Ratio, signal: Callable[[str], _Signal], silent: NDArray[np.bool_]
) -> tuple[Numbers, Numbers]:
    """Return N and D of a ratio: known once both signals are known, or the horizon has passed."""
    above = signal(measure.numerator)
    if measure.denominator == ASSIGNMENTS:
        known = (above.sources > 0) | silent
        return np.where(known, above.total, 0), known * NANO
    below = signal(measure.denominator)
    known = (above.sources > 0) & (below.sources > 0) | silent
    return np.where(known, above.total, 0), np.where(known, below.total, 0)


def _outcome(
    measure: Proportion | Mean | QuantileOf, signal: _Signal, silent: NDArray[np.bool_]
) -> tuple[Numbers, Numbers]:
    """Return N and D of a metric of one signal.

    N is the sum of the values or, for a proportion, whether any is above 0. D is their number.
    """
    n, d = signal.total, signal.sources
    silence: float | None = None
    known = signal.sources > 0
    match measure:
        case Proportion():
            n, d, silence = (signal.greatest > 0) * 1, known * 1, measure.silence
        case Mean():
            d = known * 1 if measure.per_unit == "sum" else d
            silence = None if measure.silence is None else nanos(measure.silence)
    if silence is None:
        return n, d
    assumed = silent & ~known
    return np.where(assumed, silence, n), np.where(assumed, 1, d)


def fitting(numbers: Numbers) -> Numbers:
    """Return the numbers, as Python integers if their sums may not fit 64 bits."""
    if numbers.dtype == object or np.abs(numbers).astype(np.float64).sum(axis=0).max(initial=0) < FITTING:
        return numbers
    return numbers.astype(object)


# Totals


def totals_by_minute(
    experiment_id: int, units: Units, measures: Measures, signs: Numbers | None = None
) -> dict[MinuteKey, CellTotals]:
    """Add units by cell and minute, each times its sign, 1 or -1; None: all signs are 1."""
    names = units.epochs, units.variants, units.segments, units.crossed, units.minutes
    groups, totals = _grouped_totals(names, units, measures, signs)
    keys = [
        (
            experiment_id,
            epoch,
            variant,
            measures.segments[segment],
            bool(crossed),
            None if minute == NONE else minute,
        )
        for epoch, variant, segment, crossed, minute in groups
    ]
    return dict(zip(keys, totals, strict=True))


def totals_by_stratum(
    experiment_id: int, units: Units, measures: Measures, signs: Numbers | None = None
) -> dict[tuple[int, int, int, int], CellTotals]:
    """Add units by stratum, with 1 / propensity in place of covariates and without quantiles.

    Keys are experiment, epoch, stratum and variant.
    """
    chosen = units.strata != NONE
    units, signs = units.of(chosen), None if signs is None else signs[chosen]
    names = units.epochs, units.strata, units.variants
    groups, totals = _grouped_totals(names, units, measures, signs, beside=units.weights[:, None])
    return {(experiment_id, *group): one for group, one in zip(groups, totals, strict=True)}  # type: ignore[misc]


def _grouped_totals(
    names: Sequence[Numbers],
    units: Units,
    measures: Measures,
    signs: Numbers | None,
    beside: Numbers | None = None,
) -> tuple[list[list[int]], list[CellTotals]]:
    """Return the distinct rows of `names`, and the totals of the units of each."""
    signs = np.ones(len(units.sums), np.int64) if signs is None else signs
    groups, group_of = _distinct(names)
    counts = np.bincount(group_of, signs, minlength=len(groups))
    measured = np.flatnonzero(units.measured)
    measured = measured[np.argsort(group_of[measured], kind="stable")]
    grouped = _Grouped(group_of[measured], len(groups))
    columns = None if beside is None else beside[measured]
    found = zip(*_sums(measures, units.of(measured), signs[measured], grouped, columns), strict=True)
    totals = [
        CellTotals(int(count), sums, measures.layout)
        for count, sums in zip(counts.tolist(), found, strict=True)
    ]
    return groups.tolist(), totals


def _distinct(columns: Sequence[Numbers]) -> tuple[Numbers, Numbers]:
    """Return the distinct rows of some columns in ascending order, and the number of each row."""
    rows = np.stack(columns, axis=1)
    order = np.lexsort(rows.T[::-1])
    new = np.ones(len(rows), np.bool_)
    new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    place = np.empty(len(rows), np.intp)
    place[order] = np.cumsum(new) - 1
    return rows[order[new]], place


class _Grouped:
    """Adder of columns by groups; rows are in the order of their groups."""

    def __init__(self, group_of: Numbers, n_groups: int) -> None:
        self.group_of, self.n_groups = group_of, n_groups
        self._starts = starts_of(group_of)

    def sums(self, *numbers: Numbers) -> list[Numbers]:
        """Add the columns of each table by groups, as Python integers."""
        columns = np.concatenate(numbers, axis=1)
        by_group = np.zeros((self.n_groups, columns.shape[1]), object)
        if len(columns):
            by_group[self.group_of[self._starts]] = np.add.reduceat(fitting(columns), self._starts)
        return np.split(by_group, np.cumsum([table.shape[1] for table in numbers])[:-1], axis=1)

    def moments(self, firsts: Numbers, x: Numbers, y: Numbers, *, large: bool) -> list[list[int]]:
        """Return each group's sums of the columns of `firsts`, then of the products of `x` and `y`.

        Products have more than 64 bits. Unless the factors are `large`, products of their halves
        are added separately.
        """
        if large:
            sums, products = self.sums(firsts, x.astype(object) * y)
        else:
            (a, b), (c, d) = ((factor >> _HALF_BITS, factor & _LOW) for factor in (x, y))
            sums, upper, middle, lower = self.sums(firsts, a * c, a * d + b * c, b * d)
            products = (upper << 2 * _HALF_BITS) + (middle << _HALF_BITS) + lower
        moments: list[list[int]] = np.concatenate([sums, products], axis=1).tolist()
        return moments


class _Vectors(NamedTuple):
    """Values of units for the metric with a number, and the mask of the units that have one."""

    number: int
    known: NDArray[np.bool_]
    measured: Numbers

    @property
    def large(self) -> bool:
        """Whether products of halves may not fit 64 bits either."""
        return self.measured.dtype == object or bool(np.abs(self.measured).max(initial=0) >= _LARGE)


def _sums(
    measures: Measures, units: Units, signs: Numbers, grouped: _Grouped, beside: Numbers | None
) -> list[list[Sums]]:
    """Return the sums of each metric by groups. With columns `beside` the outcome there are no quantiles."""
    by_metric: list[list[Sums]] = [[] for _ in measures.metrics]
    vectors: dict[bool, list[_Vectors]] = {False: [], True: []}
    for number, metric in enumerate(measures.metrics):
        known, measured = _measured(metric, number, units, beside)
        if isinstance(metric.measure, QuantileOf) and beside is not None:
            by_metric[number] = [{} for _ in range(grouped.n_groups)]
        elif isinstance(metric.measure, QuantileOf):
            values = measured[known, 0]
            by_metric[number] = _buckets(grouped.group_of[known], values, signs[known], grouped.n_groups)
        else:
            vector = _Vectors(number, known, measured)
            vectors[vector.large].append(vector)
    for large, alike in vectors.items():
        for vector, sums in zip(alike, _moments(alike, signs, grouped, large=large), strict=True):
            by_metric[vector.number] = sums
    return by_metric


def _moments(
    vectors: Sequence[_Vectors], signs: Numbers, grouped: _Grouped, *, large: bool
) -> Iterator[list[Sums]]:
    """Yield the moments of each metric by groups; all metrics are added in one pass."""
    if not vectors:
        return
    firsts, x, y = [], [], []
    for _, known, measured in vectors:
        signed, (rows, columns) = measured * signs[:, None], _lower_triangle(measured.shape[1])
        firsts += [known * signs, signed]
        x.append(signed[:, rows])
        y.append(measured[:, columns])
    moments = grouped.moments(np.column_stack(firsts), np.hstack(x), np.hstack(y), large=large)
    first, product = 0, sum(1 + vector.measured.shape[1] for vector in vectors)
    for vector, products in zip(vectors, x, strict=True):
        singles = slice(first, first + 1 + vector.measured.shape[1])
        pairs = slice(product, product + products.shape[1])
        first, product = singles.stop, pairs.stop
        yield [(*row[singles], *row[pairs]) for row in moments]


@cache
def _lower_triangle(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.tril_indices(size)


def _buckets(groups: Numbers, values: NDArray[np.float64], signs: Numbers, n_groups: int) -> list[Sums]:
    distinct, place = _distinct([groups, bucket_numbers(values, accuracy=ACCURACY)])
    counts = np.bincount(place, signs, minlength=len(distinct)).tolist()
    by_group: list[Sums] = [{} for _ in range(n_groups)]
    for (group, bucket), count in zip(distinct.tolist(), counts, strict=True):
        if count:
            by_group[group][bucket] = int(count)
    return by_group


def vectors(metric: Metric, measures: Measures, units: Units) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the positions of the units that have a value, and a row of plain numbers for each.

    A row has the numbers that `Sums` add up, not in nanos; for a quantile, the value.
    """
    known, measured = _measured(metric, measures.metrics.index(metric), units)
    scale = 1 if isinstance(metric.measure, QuantileOf) else NANO
    return np.flatnonzero(known), measured[known].astype(np.float64) / scale


def _measured(
    metric: Metric, number: int, units: Units, beside: Numbers | None = None
) -> tuple[NDArray[np.bool_], Numbers]:
    """Return the mask of units with a value, and the measured values, else 0.

    Values are in nanos; for a quantile they are plain numbers. Columns `beside` the outcome stand
    for covariates.
    """
    n, d = units.sums[:, 2 * number], units.sums[:, 2 * number + 1]
    known = (n != 0) | (d != 0)
    measure, divisor = metric.measure, np.where(known, d, 1)
    if isinstance(measure, QuantileOf):
        return known, (n.astype(object) / divisor).astype(np.float64)[:, None] / NANO
    outcomes: list[Numbers]
    if isinstance(measure, Ratio):
        outcomes = [_capped_numerator(n, d, measure.cap), d]
    elif isinstance(measure, Proportion):
        outcomes = [np.where(n != 0, NANO, 0)]
    else:
        outcomes = [_capped(n if measure.per_unit == "sum" else _divided(n, divisor), measure.cap)]
    if beside is not None:
        return known, np.column_stack([*outcomes, beside]) * known[:, None]
    # 0 where a covariate is missing, and an indicator of that: a regression on both does not depend on the 0.
    missing = units.covariates == MISSING
    covariates = np.where(missing, 0, units.covariates)
    return known, np.column_stack([*outcomes, covariates, missing * NANO]) * known[:, None]


def _capped(x: Numbers, cap: tuple[float | None, float | None]) -> Numbers:
    lower, upper = cap
    x = x if lower is None else np.maximum(x, nanos(lower))
    return x if upper is None else np.minimum(x, nanos(upper))


def _capped_numerator(n: Numbers, d: Numbers, cap: tuple[float | None, float | None]) -> Numbers:
    """Limit the numerators so that no ratio exceeds the cap; bounds are rounded down to whole nanos."""
    if cap == (None, None):
        return n
    wide = d.astype(object)
    lower, upper = (None if bound is None else nanos(bound) * wide // NANO for bound in cap)
    negative = d < 0  # a sum of signals may be negative: then the bounds change places
    capped = n.astype(object)
    if lower is not None:
        capped = np.where(negative, np.minimum(capped, lower), np.maximum(capped, lower))
    if upper is not None:
        capped = np.where(negative, np.maximum(capped, upper), np.minimum(capped, upper))
    fits = n.dtype != object and np.abs(capped.astype(np.float64)).max(initial=0) < FITTING
    return capped.astype(np.int64) if fits else capped


def _divided(n: Numbers, d: Numbers) -> Numbers:
    """Divide and round to the nearest whole number, half to even."""
    quotient: Numbers = n // d
    remainder = n - quotient * d
    nearest: Numbers = quotient + ((2 * remainder > d) | ((2 * remainder == d) & (quotient % 2 == 1)))
    return nearest
