"""Measurements of units, read from CSV into the totals that an analysis reads. No network."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, assert_never

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.analysis.observed import Cell, DrawnUnits, Observed
from app.cli.files import records
from app.cli.files.records import UnreadableLog
from app.experiments.metrics import Mean, Metric, Proportion, QuantileOf, Ratio
from app.ledger.units.metric_totals import MetricTotals
from stats.concurrent import strata_of_shares
from stats.quantiles import QuantileSketch
from stats.srm import ArmCounts
from stats.totals import FloatArray, JointTotals, MeanTotals, ProportionTotals

SKETCH_ACCURACY: Final = 0.001
STRETCHES_MAX: Final = 200
_SHARES_OFF: Final = 1e-9
_SPEC: Final = re.compile(r"(?P<names>.+?)(:(?P<kind>mean|proportion|ratio|p\d{1,2}(\.\d+)?))?")


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Which columns hold what. `shares` are the logged probabilities of variants, if they never moved."""

    unit: str
    variant: str
    metrics: tuple[Metric, ...]
    control: str | None = None
    covariates: tuple[str, ...] = ()
    segment: str | None = None
    epoch: str | None = None
    propensity: str | None = None
    shares: Mapping[str, float] | None = None
    where: tuple[tuple[str, str], ...] = ()
    days: float | None = None
    decimal: records.Decimal = "auto"


class Measurements(msgspec.Struct, frozen=True):
    """What was read: metrics of known kind, and the totals."""

    metrics: tuple[Metric, ...]
    observed: Observed


def columns_of(metric: Metric) -> tuple[str, ...]:
    """The columns that a metric reads."""
    match metric.measure:
        case Ratio(numerator, denominator):
            return numerator, denominator
        case Proportion(signal) | Mean(signal) | QuantileOf(signal):
            return (signal,)


def measure_of(spec: str) -> Mean | Proportion | Ratio | QuantileOf:
    """The measure that `NAME[:kind]` means: mean, proportion, ratio (`A/B`), p95.

    Raises ValueError in words.
    """
    match = _SPEC.fullmatch(spec)
    assert match is not None
    names, kind = match["names"], match["kind"]
    if kind == "ratio" or (kind is None and "/" in names):
        numerator, slash, denominator = names.partition("/")
        if not (numerator and slash and denominator):
            raise ValueError(f"a ratio is NUMERATOR/DENOMINATOR:ratio, got {spec!r}")
        return Ratio(numerator, denominator)
    if kind is not None and kind.startswith("p") and kind != "proportion":
        q = float(kind[1:]) / 100
        if not 0 < q < 1:
            raise ValueError(f"a quantile is between p1 and p99.9, got {kind}")
        return QuantileOf(names, q)
    return Proportion(names) if kind == "proportion" else Mean(names)


class _Rows(msgspec.Struct):
    """Columns as read; numbers are NaN where a cell was empty."""

    lines: Sequence[int]
    units: Sequence[str]
    variants: Sequence[str]
    epochs: Sequence[str]
    segments: Sequence[str]
    numbers: Mapping[str, FloatArray]


def read(path: Path, table: Table) -> Measurements:
    """Read `path` (see `records.read`). A missing value is left out of its metric and counted.

    Several rows of one unit in one variant are one unit: means are averaged, a proportion is whether any row
    has 1, ratios are summed; quantiles need one row per unit. A unit with rows in several variants is a
    crossover: it is left out of all of them, and counted. Covariate, segment and epoch are those of a unit's
    first row; a missing covariate is the mean of the others.

    With `shares`, a variant that has no row is a variant without units: a finding, not an error.

    Raises UnreadableLog for what `records.read` cannot read, a proportion other than 0 and 1, no metric with
    a value, fewer than two variants; OSError when there is no file.
    """
    optional = [name for name in (table.epoch, table.segment) if name is not None]
    found = records.read(
        path,
        records.Wanted(
            texts=(table.unit, table.variant, *optional),
            numbers=tuple(_numeric(table)),
            where=table.where,
            filled=(table.unit, table.variant),
            decimal=table.decimal,
        ),
    )
    nothing = ("",) * len(found.lines)
    segments = [text or "(none)" for text in found.texts[table.segment]] if table.segment else nothing
    rows = _Rows(
        found.lines,
        found.texts[table.unit],
        found.texts[table.variant],
        found.texts[table.epoch] if table.epoch else nothing,
        segments,
        found.numbers,
    )
    return _measurements(rows, table)


def _numeric(table: Table) -> list[str]:
    """The columns that hold numbers, each once."""
    measured = [name for metric in table.metrics for name in columns_of(metric)]
    return list(
        dict.fromkeys([*measured, *table.covariates, *([table.propensity] if table.propensity else [])])
    )


def _measurements(rows: _Rows, table: Table) -> Measurements:
    variants = _variants(rows, table)
    control = _control(variants, table)
    unit_code = {unit: code for code, unit in enumerate(dict.fromkeys(rows.units))}
    unit = np.array([unit_code[name] for name in rows.units])
    variant_code = {name: code for code, name in enumerate(variants)}
    arm = np.array([variant_code[name] for name in rows.variants])
    first = np.unique(unit, return_index=True)[1]
    crossed = np.zeros(len(first), dtype=bool)
    crossed[unit[arm != arm[first][unit]]] = True
    if crossed.all():
        raise UnreadableLog(
            f"column {table.unit!r}: every unit has rows in several variants, instead of one each"
        )
    metrics = tuple(_with_kind(metric, rows) for metric in table.metrics)
    values = {metric.key: _per_unit(metric, rows, unit) for metric in metrics}
    covariates = {
        name: column
        for name in table.covariates
        if np.ptp(column := _first_values(rows.numbers[name], first, name)) > 0
    }
    keys = [(rows.epochs[i], rows.variants[i], rows.segments[i]) for i in first.tolist()]
    epochs = {name: number for number, name in enumerate(sorted({key[0] for key in keys}), start=1)}
    members: dict[tuple[str, str, str], list[int]] = {}
    for code, key in enumerate(keys):
        if not crossed[code]:
            members.setdefault(key, []).append(code)
    cells = []
    for (epoch, variant, segment), codes in members.items():
        chosen = np.array(codes)
        before = [column[chosen] for column in covariates.values()]
        totals = {metric.key: _totals(metric, values[metric.key][chosen], before) for metric in metrics}
        known = JointTotals.from_observations(np.stack(before, axis=1)) if before else None
        cells.append(Cell(epochs[epoch], variant, len(codes), totals, segment, known))
    _check_values(metrics, cells, table)
    propensities = _propensities(rows, table, first, ~crossed)
    observed = Observed(
        variants=variants,
        control=control,
        cells=cells,
        adaptive=propensities is not None and _moved(propensities, keys),
        drawn=()
        if propensities is None
        else _drawn(
            metrics, values, arm[first], propensities, kept=np.flatnonzero(~crossed), variants=variants
        ),
        assignments=_assignments(table, variants, arm[first], propensities, ~crossed),
        crossovers=int(crossed.sum()),
        days=table.days,
        covariates=tuple(covariates),
        constant_covariates=tuple(name for name in table.covariates if name not in covariates),
    )
    return Measurements(metrics, observed)


def _variants(rows: _Rows, table: Table) -> tuple[str, ...]:
    """Those that have rows or a declared share."""
    seen = set(rows.variants)
    variants = tuple(sorted(seen | set(table.shares or ())))
    if len(variants) < 2:
        raise UnreadableLog(
            f"column {table.variant!r}: needs two or more variants, found {', '.join(variants)}; if others "
            "got no units, declare them with --shares"
        )
    unknown = sorted(seen - set(table.shares or seen))
    if table.shares is not None and unknown and abs(sum(table.shares.values()) - 1) > _SHARES_OFF:
        hint = records.suggestion(unknown[0], table.shares)
        raise UnreadableLog(
            f"column {table.variant!r}: no share was given for {', '.join(unknown)}, and the others do not "
            f"sum to 1{hint}"
        )
    return variants


def _control(variants: Sequence[str], table: Table) -> str:
    if table.control is None:
        return "control" if "control" in variants else variants[0]
    if table.control not in variants:
        raise UnreadableLog(
            f"column {table.variant!r}: the control {table.control!r} is not among {', '.join(variants)}"
            f"{records.suggestion(table.control, variants)}"
        )
    return table.control


def _with_kind(metric: Metric, rows: _Rows) -> Metric:
    """A mean without a cap whose values are all 0 or 1 is a proportion."""
    if isinstance(metric.measure, Mean) and metric.measure.cap == (None, None):
        values = rows.numbers[metric.measure.signal]
        if np.isin(values[~np.isnan(values)], (0, 1)).all():
            return msgspec.structs.replace(metric, measure=Proportion(metric.measure.signal))
    return metric


def _per_unit(metric: Metric, rows: _Rows, unit: NDArray[np.int64]) -> FloatArray:
    """The values of each unit, shape (units, 1 or 2); NaN where missing."""
    columns = [rows.numbers[name] for name in columns_of(metric)]
    known = ~np.any([np.isnan(column) for column in columns], axis=0)
    count = np.bincount(unit, weights=known)
    sums: FloatArray = np.stack(
        [np.bincount(unit, weights=np.where(known, column, 0.0)) for column in columns], axis=1
    )
    match metric.measure:
        case Proportion(signal):
            wrong = np.flatnonzero(known & ~np.isin(columns[0], (0, 1)))
            if wrong.size:
                at = int(wrong[0])
                raise UnreadableLog(
                    f"line {rows.lines[at]}, column {signal!r}: {columns[0][at]:g} is neither 0 nor 1"
                )
            values = np.minimum(sums, 1.0)
        case Mean(cap=(lower, upper)):
            mean = sums / np.maximum(count, 1)[:, None]
            values = np.clip(mean, -np.inf if lower is None else lower, np.inf if upper is None else upper)
        case Ratio(cap=cap):
            values = _capped(sums, cap)
        case QuantileOf(signal):
            if (count > 1).any():
                code = int(np.flatnonzero(count > 1)[0])
                at = int(np.flatnonzero((unit == code) & known)[1])
                raise UnreadableLog(
                    f"line {rows.lines[at]}, column {signal!r}: a quantile needs one row per unit, "
                    f"{rows.units[at]!r} has several"
                )
            values = sums
        case _:
            assert_never(metric.measure)
    values[count == 0] = np.nan
    return values


def _capped(pairs: FloatArray, cap: tuple[float | None, float | None]) -> FloatArray:
    """(Numerator, denominator) of each unit, with the numerator set so that their ratio is within the cap."""
    ends = [pairs[:, 1] * bound for bound in cap if bound is not None]
    if not ends:
        return pairs
    lower, upper = (None if bound is None else pairs[:, 1] * bound for bound in cap)
    # With a negative denominator the bounds change places.
    negative = pairs[:, 1] < 0
    least = np.full(len(pairs), -np.inf) if lower is None else lower
    most = np.full(len(pairs), np.inf) if upper is None else upper
    least, most = (
        np.where(negative, -np.inf if upper is None else most, least),
        np.where(negative, np.inf if lower is None else least, most),
    )
    return np.stack([np.clip(pairs[:, 0], least, most), pairs[:, 1]], axis=1)


def _first_values(values: FloatArray, first: NDArray[np.int64], column: str) -> FloatArray:
    chosen = values[first]
    missing = np.isnan(chosen)
    if missing.all():
        raise UnreadableLog(f"column {column!r}: has no value")
    return np.where(missing, chosen[~missing].mean(), chosen)


def _totals(metric: Metric, values: FloatArray, covariates: Sequence[FloatArray]) -> MetricTotals:
    known = ~np.isnan(values[:, 0])
    present = values[known]
    match metric.measure:
        case Ratio():
            columns = [present, *(covariate[known, None] for covariate in covariates)]
            return JointTotals.from_observations(np.concatenate(columns, axis=1))
        case QuantileOf():
            return QuantileSketch.from_observations(present[:, 0], accuracy=SKETCH_ACCURACY)
        case Mean() | Proportion() if covariates:
            columns = [present[:, 0], *(covariate[known] for covariate in covariates)]
            return JointTotals.from_observations(np.stack(columns, axis=1))
        case Proportion():
            return ProportionTotals(len(present), int(present.sum()))
        case Mean():
            return MeanTotals.from_observations(present[:, 0])


def _check_values(metrics: Sequence[Metric], cells: Sequence[Cell], table: Table) -> None:
    """Some metric must have a value in every variant that has units; the others say what they lack."""
    variants = sorted({cell.variant for cell in cells})
    lacking = []
    for metric in metrics:
        without = [
            variant
            for variant in variants
            if not any(cell.metrics[metric.key].n for cell in cells if cell.variant == variant)
        ]
        if not without:
            return
        columns = " and ".join(map(repr, columns_of(metric)))
        lacking.append(f"column {columns}: no value in any row of {without[0]!r} (column {table.variant!r})")
    raise UnreadableLog(lacking[0])


# Logged probabilities


def _propensities(
    rows: _Rows, table: Table, first: NDArray[np.int64], kept: NDArray[np.bool_]
) -> FloatArray | None:
    """Of each unit's own draw; None if they were not logged."""
    if table.propensity is None:
        return None
    values = rows.numbers[table.propensity][first]
    wrong = np.flatnonzero(~((values > 0) & (values <= 1)) & kept)
    if wrong.size:
        line = rows.lines[int(first[wrong[0]])]
        raise UnreadableLog(f"line {line}, column {table.propensity!r}: must be in (0, 1]")
    return values


def _moved(propensities: FloatArray, keys: Sequence[tuple[str, str, str]]) -> bool:
    """Whether a variant's probability changed within an epoch: then it may have followed the outcomes."""
    seen: dict[tuple[str, str], float] = {}
    return any(
        abs(seen.setdefault((epoch, variant), value) - value) > 1e-9
        for (epoch, variant, _), value in zip(keys, propensities.tolist(), strict=True)
    )


def _drawn(
    metrics: Sequence[Metric],
    values: Mapping[str, FloatArray],
    arm: NDArray[np.int64],
    propensities: FloatArray,
    *,
    kept: NDArray[np.intp],
    variants: Sequence[str],
) -> list[DrawnUnits]:
    """The kept units by the shares that they were drawn with, with 1 / propensity beside their values.

    Of two variants the propensity gives both shares. Of more, strata are stretches of the file, which is
    taken to be in order of time.
    """
    if len(variants) == 2:
        strata = strata_of_shares(np.where(arm == 1, propensities, 1 - propensities))
    else:
        stretches = min(STRETCHES_MAX, max(len(kept) // 50, 1))
        strata = np.zeros(len(arm), np.int64)
        strata[kept] = np.arange(len(kept)) * stretches // max(len(kept), 1)
    found = []
    for stratum in np.unique(strata[kept]).tolist():
        for code, variant in enumerate(variants):
            units = kept[(strata[kept] == stratum) & (arm[kept] == code)]
            joint = {
                metric.key: _joint(values[metric.key][units], 1 / propensities[units])
                for metric in metrics
                if not isinstance(metric.measure, QuantileOf)
            }
            found.append(DrawnUnits(1, stratum, variant, {key: one for key, one in joint.items() if one.n}))
    return found


def _joint(values: FloatArray, weights: FloatArray) -> JointTotals:
    """Joint totals of (values ..., weight) of the units that have values."""
    known = ~np.isnan(values).any(axis=1)
    return JointTotals.from_observations(np.column_stack([values[known], weights[known]]))


def _assignments(
    table: Table,
    variants: Sequence[str],
    arm: NDArray[np.int64],
    propensities: FloatArray | None,
    kept: NDArray[np.bool_],
) -> tuple[ArmCounts, ...]:
    """Counts beside their probabilities: declared shares, or (of two variants) the logged ones."""
    if table.shares is not None:
        counts = np.bincount(arm[kept], minlength=len(variants))
        # A variant without a declared share was never to be drawn: its units are leaks.
        return (ArmCounts(tuple(counts.tolist()), tuple(table.shares.get(one, 0.0) for one in variants)),)
    if propensities is None or len(variants) != 2:
        return ()
    of_second = np.where(arm == 1, propensities, 1 - propensities)[kept].round(12)
    periods = []
    for share in np.unique(of_second):
        counts = np.bincount(arm[kept][of_second == share], minlength=2)
        periods.append(ArmCounts(tuple(counts.tolist()), (float(1 - share), float(share))))
    return tuple(periods)
