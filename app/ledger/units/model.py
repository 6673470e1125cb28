"""The units of an experiment, side by side: from signals to sums per unit, and to totals per cell. Pure.

Whole numbers: of 64 bits where all sums are sure to fit them, else without a bound (numpy's objects).
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
from app.ledger.rewards.model import FITTING, NANO, NONE, Assignments, Given, Integers, newest, whole
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
    ]
)
"""Columns of whole numbers of a stored unit. NONE is a null minute or stratum, 0 a null weight."""
MISSING: Final = -(2**63)
"""Stands for a covariate that is null."""

_MINUTE_US: Final = 60_000_000
_HALF_BITS: Final = 21
_LOW: Final = 2**_HALF_BITS - 1
_LARGE: Final = 2 ** (2 * _HALF_BITS)
_decode: Final = msgspec.msgpack.Decoder(list[int | bytes | None]).decode

Numbers = NDArray[Any]
"""Whole numbers, int64 or objects."""


class Units(NamedTuple):
    """Units in an epoch each: its first variant, and the sums of its assignments to that one.

    The first `UNIT_ASSIGNMENTS_MAX` assignments of the epoch make a unit, by time: so one with any number of
    them, as of a robot, does not hold up the ledger, and which ones count depends on the set alone.
    `segments` are places in `Measures.segments`. `crossed`: it was assigned to another variant as well.
    `minutes` are those of first assignments, since 1970; NONE if it was stored before there were series.
    `strata` are those of the shares of first assignments, and `weights` their 1 / propensity in nanos; NONE
    and 0 where shares do not follow outcomes (`units.strata`).
    `covariates` (units, covariates) in nanos, MISSING where one is; `sums` (units, 2 x metrics) are N and D
    of each metric in turn.
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
        """Some of them, by a mask, places or a slice."""
        return Units(*(column[chosen] for column in self))

    def spread(self, places: Any, n: int) -> "Units":
        """These at their places among so many, of which the others come to nothing."""
        spread = [np.zeros((n, *column.shape[1:]), column.dtype) for column in self]
        for column, own in zip(spread, self, strict=True):
            column[places] = own
        return Units(*spread)

    def __or__(self, other: "Units") -> "Units":
        """These, then others."""
        return Units(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def differ(self, other: "Units") -> NDArray[np.bool_]:
        """Which of them are not the same as those of `other`."""
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
        """Of each the covariates and sums as MessagePack; the others have columns of their own."""
        n_covariates = self.covariates.shape[1]
        numbers = np.ascontiguousarray(np.concatenate([self.covariates, self.sums], axis=1))
        if numbers.dtype == object:
            return [_body(row, n_covariates) for row in numbers.tolist()]
        # Most units are like many others: what is told apart by its bytes is encoded once.
        alike = numbers.view(f"V{numbers.shape[1] * numbers.itemsize}").ravel().tolist()
        places = dict(zip(alike, range(len(alike)), strict=True))
        bodies = {one: _body(numbers[place].tolist(), n_covariates) for one, place in places.items()}
        return [bodies[one] for one in alike]

    @classmethod
    def rewarded(cls, variants: Sequence[int], minutes: Sequence[int], rewards: Sequence[int]) -> "Units":
        """An assignment each, of which nothing is measured but its reward, in nanos."""
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
        """From their rows, and which of these can be read; the others come to nothing.

        `heads` have the fields of HEAD.
        """
        n_covariates, size = len(measures.plan.covariates), 2 * len(measures.metrics)
        segment_places = {name: place for place, name in enumerate(measures.segments)}
        body_places = {body: place for place, body in enumerate(dict.fromkeys(bodies))}
        found = [_numbers(body, n_covariates + size) for body in body_places]
        place = np.array([body_places[body] for body in bodies], np.intp)
        numbers = _matrix([one or [0] * (n_covariates + size) for one in found], n_covariates + size)[place]
        segment = np.array([segment_places.get(name, NONE) for name in segments], np.int64)
        readable = np.array([one is not None for one in found], np.bool_)[place] & (segment != NONE)
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


def _body(numbers: Sequence[int], n_covariates: int) -> bytes:
    told = [None if one == MISSING else one for one in numbers[:n_covariates]]
    return packed([*told, *numbers[n_covariates:]])


def _numbers(body: bytes, size: int) -> list[int] | None:
    """What a unit's body says; None if it can not be read."""
    try:
        numbers = _decode(body)
    except msgspec.MsgspecError:
        return None
    if len(numbers) != size:
        return None
    return [MISSING if one is None else unpacked_number(one) for one in numbers]


def _matrix(rows: Sequence[Sequence[int]], width: int) -> Numbers:
    try:
        return np.fromiter(chain.from_iterable(rows), np.int64, len(rows) * width).reshape(-1, width)
    except OverflowError:
        return np.array(rows, object).reshape(-1, width)


class Heads(NamedTuple):
    """What units have from the contexts of their first assignments; as columns of `Units`."""

    segments: Numbers
    covariates: Numbers

    @classmethod
    def of(cls, contexts: Iterable[Mapping[str, Any] | None], measures: Measures) -> "Heads":
        """Of a context each."""
        told = [context or {} for context in contexts]
        covariates = np.empty((len(told), len(measures.plan.covariates)), np.int64)
        for number, name in enumerate(measures.plan.covariates):
            covariates[:, number] = [_covariate(one.get(name)) for one in told]
        segments = np.zeros(len(told), np.int64)
        if measures.plan.segments is not None:
            places = {name: place for place, name in enumerate(measures.segments)}
            segments[:] = [places[segment_of(measures.plan.segments, one)] for one in told]
        return cls(segments, covariates)


def _covariate(value: object) -> int:
    """In nanos; MISSING if it is missing, no number, or too large to be one."""
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
    """Every unit, from its first exposed assignments, in the order of units and time.

    `number` says which unit each belongs to, from 0. Signals are `given` by the index of their assignment;
    those in time count. Where a deadline is not after `silent_until_us` silence has its declared value.
    """
    firsts = starts_of(number)
    variants = assignments["variant"][firsts]
    own = assignments["variant"] == variants[number]
    given = Given(newest(assignments, given.signals), given.names)
    silent = assignments["deadline_us"] <= silent_until_us
    told = silent | (assignments["reward"] != NONE)
    told[given.signals["owner"]] = True
    chosen = np.flatnonzero(told & own)
    contributions = fitting(
        _contributions(assignments[chosen], given.about(chosen), measures, silent[chosen])
    )
    sums = np.zeros((len(firsts), 2 * len(measures.metrics)), contributions.dtype)
    if len(chosen):
        starts = starts_of(number[chosen])
        sums[number[chosen[starts]]] = np.add.reduceat(contributions, starts)
    return Units(
        epochs=assignments["epoch"][firsts],
        variants=variants,
        segments=heads.segments,
        crossed=np.logical_or.reduceat(~own, firsts) if len(firsts) else np.empty(0, np.bool_),
        minutes=assignments["assigned_us"][firsts] // _MINUTE_US,
        strata=np.full(len(firsts), NONE, np.int64),
        weights=np.zeros(len(firsts), np.int64),
        covariates=heads.covariates,
        sums=sums,
    )


def starts_of(numbers: Integers) -> NDArray[np.intp]:
    """Where each of some ascending numbers begins."""
    begins = np.ones(len(numbers), np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=begins[1:])
    return np.flatnonzero(begins)


class _Heard(NamedTuple):
    """What assignments were told by one name: by how many sources, the sum of their values, the greatest."""

    sources: Numbers
    total: Numbers
    greatest: Numbers


def _contributions(
    assignments: Assignments, given: Given, measures: Measures, silent: NDArray[np.bool_]
) -> Numbers:
    """Every assignment's N and D of every metric, side by side; both 0 while nothing is known."""
    amounts = whole(np.rint(given.signals["value"] * NANO))
    nothing = np.zeros(len(assignments), np.int64)

    @cache
    def heard(name: str) -> _Heard:
        if name not in given.names:
            return _Heard(nothing, nothing, nothing)
        of_name = given.signals["name"] == given.names.index(name)
        owners, said = given.signals["owner"][of_name], amounts[of_name]
        found = _Heard(nothing.copy(), nothing.astype(said.dtype), nothing.astype(said.dtype))
        if len(owners):
            starts = starts_of(owners)
            owners, ends = owners[starts], np.append(starts[1:], len(owners))
            found.sources[owners] = ends - starts
            found.total[owners] = np.add.reduceat(said, starts)
            found.greatest[owners] = np.maximum.reduceat(said, starts)
        return found

    columns: list[Numbers] = []
    for metric in measures.metrics:
        if metric.key == REWARD:
            known = assignments["reward"] != NONE
            columns += [np.where(known, assignments["reward"], 0), known * 1]
        elif isinstance(metric.measure, Ratio):
            columns += _pair(metric.measure, heard, silent)
        else:
            columns += _outcome(metric.measure, heard(metric.measure.signal), silent)
    return np.stack(columns, axis=1)


def _pair(
    measure: Ratio, heard: Callable[[str], _Heard], silent: NDArray[np.bool_]
) -> tuple[Numbers, Numbers]:
    """N and D of a ratio: known once both are, or the horizon has passed."""
    above = heard(measure.numerator)
    if measure.denominator == ASSIGNMENTS:
        known = (above.sources > 0) | silent
        return np.where(known, above.total, 0), known * NANO
    below = heard(measure.denominator)
    known = (above.sources > 0) & (below.sources > 0) | silent
    return np.where(known, above.total, 0), np.where(known, below.total, 0)


def _outcome(
    measure: Proportion | Mean | QuantileOf, heard: _Heard, silent: NDArray[np.bool_]
) -> tuple[Numbers, Numbers]:
    """N and D of what has one signal: the sum of its values, or whether one is above 0; and their number."""
    n, d = heard.total, heard.sources
    silence: float | None = None
    known = heard.sources > 0
    match measure:
        case Proportion():
            n, d, silence = (heard.greatest > 0) * 1, known * 1, measure.silence
        case Mean():
            d = known * 1 if measure.per_unit == "sum" else d
            silence = None if measure.silence is None else nanos(measure.silence)
    if silence is None:
        return n, d
    assumed = silent & ~known
    return np.where(assumed, silence, n), np.where(assumed, 1, d)


def fitting(numbers: Numbers) -> Numbers:
    """The same, as objects if sums of them may not fit 64 bits."""
    if numbers.dtype == object or np.abs(numbers).astype(np.float64).sum(axis=0).max(initial=0) < FITTING:
        return numbers
    return numbers.astype(object)


# Totals


def totals_by_minute(
    experiment_id: int, units: Units, measures: Measures, signs: Numbers | None = None
) -> dict[MinuteKey, CellTotals]:
    """The totals of these units by cell and minute, each times its sign, 1 or -1; null: all are added."""
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
    """The totals of units in a stratum, with 1 / propensity in place of covariates and without quantiles.

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
    """The distinct rows of `names`, and the totals of the units of each; `beside` instead of covariates."""
    signs = np.ones(len(units.sums), np.int64) if signs is None else signs
    groups, group_of = _distinct(names)
    counts = np.bincount(group_of, signs, minlength=len(groups))
    measured = np.flatnonzero(units.measured)
    measured = measured[np.argsort(group_of[measured], kind="stable")]
    grouped = _Grouped(group_of[measured], len(groups))
    columns = None if beside is None else beside[measured]
    found = zip(*_sums(measures, units.of(measured), signs[measured], grouped, columns), strict=True)
    totals = [CellTotals(int(count), sums) for count, sums in zip(counts.tolist(), found, strict=True)]
    return groups.tolist(), totals


def _distinct(columns: Sequence[Numbers]) -> tuple[Numbers, Numbers]:
    """The distinct rows of some columns in ascending order, and which of them each row is."""
    rows = np.stack(columns, axis=1)
    order = np.lexsort(rows.T[::-1])
    new = np.ones(len(rows), np.bool_)
    new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    place = np.empty(len(rows), np.intp)
    place[order] = np.cumsum(new) - 1
    return rows[order[new]], place


class _Grouped:
    """Adds up what units have, by their groups, in which they are in order."""

    def __init__(self, group_of: Numbers, n_groups: int) -> None:
        self.group_of, self.n_groups = group_of, n_groups
        self._starts = starts_of(group_of)

    def sums(self, *numbers: Numbers) -> list[Numbers]:
        """Of the columns of each of several tables, by groups, as objects."""
        columns = np.concatenate(numbers, axis=1)
        found = np.zeros((self.n_groups, columns.shape[1]), object)
        if len(columns):
            found[self.group_of[self._starts]] = np.add.reduceat(fitting(columns), self._starts)
        return np.split(found, np.cumsum([one.shape[1] for one in numbers])[:-1], axis=1)

    def moments(self, firsts: Numbers, x: Numbers, y: Numbers, *, large: bool) -> list[list[int]]:
        """Of each group the sums of the columns of `firsts`, then of the products of those of `x` and `y`.

        These have more than 64 bits: products of their halves are added up apart, unless they are `large`.
        """
        if large:
            sums, products = self.sums(firsts, x.astype(object) * y)
        else:
            (a, b), (c, d) = ((one >> _HALF_BITS, one & _LOW) for one in (x, y))
            sums, upper, middle, lower = self.sums(firsts, a * c, a * d + b * c, b * d)
            products = (upper << 2 * _HALF_BITS) + (middle << _HALF_BITS) + lower
        found: list[list[int]] = np.concatenate([sums, products], axis=1).tolist()
        return found


class _Vectors(NamedTuple):
    """What a metric, by its number, measures of units: which of them have a value, and what."""

    number: int
    known: NDArray[np.bool_]
    measured: Numbers

    @property
    def large(self) -> bool:
        """Whether products may not fit 64 bits, in halves either."""
        return self.measured.dtype == object or bool(np.abs(self.measured).max(initial=0) >= _LARGE)


def _sums(
    measures: Measures, units: Units, signs: Numbers, grouped: _Grouped, beside: Numbers | None
) -> list[list[Sums]]:
    """Of each metric, by groups. Columns `beside` the outcome stand for covariates; then no quantiles."""
    found: list[list[Sums]] = [[] for _ in measures.metrics]
    vectors: dict[bool, list[_Vectors]] = {False: [], True: []}
    for number, metric in enumerate(measures.metrics):
        known, measured = _measured(metric, number, units, beside)
        if isinstance(metric.measure, QuantileOf) and beside is not None:
            found[number] = [{} for _ in range(grouped.n_groups)]
        elif isinstance(metric.measure, QuantileOf):
            values = measured[known, 0]
            found[number] = _buckets(grouped.group_of[known], values, signs[known], grouped.n_groups)
        else:
            one = _Vectors(number, known, measured)
            vectors[one.large].append(one)
    for large, some in vectors.items():
        for one, sums in zip(some, _moments(some, signs, grouped, large=large), strict=True):
            found[one.number] = sums
    return found


def _moments(
    vectors: Sequence[_Vectors], signs: Numbers, grouped: _Grouped, *, large: bool
) -> Iterator[list[Sums]]:
    """Of metrics, which are added up side by side, by groups."""
    if not vectors:
        return
    firsts, x, y = [], [], []
    for _, known, measured in vectors:
        signed, (rows, columns) = measured * signs[:, None], _lower_triangle(measured.shape[1])
        firsts += [known * signs, signed]
        x.append(signed[:, rows])
        y.append(measured[:, columns])
    moments = grouped.moments(np.column_stack(firsts), np.hstack(x), np.hstack(y), large=large)
    first, product = 0, sum(1 + one.measured.shape[1] for one in vectors)
    for one, products in zip(vectors, x, strict=True):
        own = slice(first, first + 1 + one.measured.shape[1])
        pairs = slice(product, product + products.shape[1])
        first, product = own.stop, pairs.stop
        yield [(*row[own], *row[pairs]) for row in moments]


@cache
def _lower_triangle(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.tril_indices(size)


def _buckets(groups: Numbers, values: NDArray[np.float64], signs: Numbers, n_groups: int) -> list[Sums]:
    distinct, place = _distinct([groups, bucket_numbers(values, accuracy=ACCURACY)])
    counts = np.bincount(place, signs, minlength=len(distinct)).tolist()
    found: list[Sums] = [{} for _ in range(n_groups)]
    for (group, bucket), count in zip(distinct.tolist(), counts, strict=True):
        if count:
            found[group][bucket] = int(count)
    return found


def vectors(metric: Metric, measures: Measures, units: Units) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """What is measured of the units that have a value, in plain numbers, not nanos: their places, and rows.

    A row is what `Sums` sum up; of a quantile the value itself.
    """
    known, measured = _measured(metric, measures.metrics.index(metric), units)
    scale = 1 if isinstance(metric.measure, QuantileOf) else NANO
    return np.flatnonzero(known), measured[known].astype(np.float64) / scale


def _measured(
    metric: Metric, number: int, units: Units, beside: Numbers | None = None
) -> tuple[NDArray[np.bool_], Numbers]:
    """Which units have a value, and what is measured of each, else 0; of a quantile in plain numbers."""
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
    # 0 where a covariate is missing, and of each whether it is: a regression on both is the same whatever
    # number stands for what is missing.
    missing = units.covariates == MISSING
    covariates = np.where(missing, 0, units.covariates)
    return known, np.column_stack([*outcomes, covariates, missing * NANO]) * known[:, None]


def _capped(x: Numbers, cap: tuple[float | None, float | None]) -> Numbers:
    lower, upper = cap
    x = x if lower is None else np.maximum(x, nanos(lower))
    return x if upper is None else np.minimum(x, nanos(upper))


def _capped_numerator(n: Numbers, d: Numbers, cap: tuple[float | None, float | None]) -> Numbers:
    """The numerators, set so that no ratio is beyond the cap; bounds are rounded down to whole nanos."""
    if cap == (None, None):
        return n
    wide = d.astype(object)
    lower, upper = (None if bound is None else nanos(bound) * wide // NANO for bound in cap)
    negative = d < 0  # as a sum of signals may be: then the bounds change places
    capped = n.astype(object)
    if lower is not None:
        capped = np.where(negative, np.minimum(capped, lower), np.maximum(capped, lower))
    if upper is not None:
        capped = np.where(negative, np.maximum(capped, upper), np.minimum(capped, upper))
    fits = n.dtype != object and np.abs(capped.astype(np.float64)).max(initial=0) < FITTING
    return capped.astype(np.int64) if fits else capped


def _divided(n: Numbers, d: Numbers) -> Numbers:
    """The quotients as the nearest whole numbers, of two the even one."""
    quotient: Numbers = n // d
    rest = n - quotient * d
    nearest: Numbers = quotient + ((2 * rest > d) | ((2 * rest == d) & (quotient % 2 == 1)))
    return nearest
