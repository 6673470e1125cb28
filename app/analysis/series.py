"""A metric over time in equal steps, from the ledger's sums by minute, hour and day. Pure.

A unit counts at its first assignment in the epoch, with its values as known now. A step is
descriptive: its units are the new ones of that time, of all epochs together. Comparisons belong to
the readout.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from app.analysis import limits
from app.analysis.descriptive import described
from app.core.errors import InvalidInput
from app.experiments.metrics import Metric
from app.experiments.model import Experiment
from app.ledger.units.measures import CellTotals, Measures
from app.ledger.units.metric_totals import totals_of
from app.ledger.units.series import Kept
from stats.errors import InsufficientData
from stats.seasonality import SeasonalBaseline, fit_baseline

DAY_S = 86_400


class Steps(NamedTuple):
    """Equal steps of whole minutes, from `first` to before `end`, in seconds since 1970."""

    first: int
    end: int
    step_s: int

    @classmethod
    def of(cls, since: datetime | None, until: datetime | None, step_s: int, *, now: datetime) -> "Steps":
        """Return the steps of a period, which ends by now and has `SERIES_STEPS` steps by default.

        Steps begin at multiples of their length (a day at midnight UTC). Raises InvalidInput for
        lengths that are not whole minutes or do not divide a day, periods that are empty or too
        long, and steps shorter than the stored spans of their time.
        """
        if step_s < 60 or step_s % 60 or DAY_S % step_s:
            reason = f"must be whole minutes that divide a day, such as 60, 300, 3600 or 86400; got {step_s}"
            raise InvalidInput(reason, field="step_s")
        last = now if until is None else min(until, now)
        if last.timestamp() <= 0:
            raise InvalidInput("must be after 1970", field="until")
        if since is not None and since >= last:
            raise InvalidInput("must be before until, and in the past", field="since")
        end = -(-last.timestamp() // step_s) * step_s
        first = end - limits.SERIES_STEPS * step_s if since is None else since.timestamp() // step_s * step_s
        if end - first > limits.SERIES_STEPS_MAX * step_s:
            reason = (
                f"must be at most {limits.SERIES_STEPS_MAX:,} steps before the end; "
                f"got {(end - first) / step_s:,.0f}; use longer steps or a shorter period"
            )
            raise InvalidInput(reason, field="since")
        first = max(first, 0.0)
        span_s = 60 * Kept.at(now.timestamp()).span(int(first // 60))
        if step_s % span_s:
            unit = "days" if span_s == DAY_S else "hours"
            reason = f"must be a multiple of {span_s}, because only whole {unit} of that time are kept"
            raise InvalidInput(f"{reason}; got {step_s}", field="step_s")
        return cls(int(first), int(end), step_s)


class Row(NamedTuple):
    """A row as stored: its first minute, the position of its variant, whether units crossed, and its sums."""

    minute: int
    variant: int
    crossed: bool
    body: bytes


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One step from `at` on: the new `units`, `n` of them with a value, and the metric of these.

    `standard_error` is null below two units, and for quantiles. `adjusted` is the value without the
    usual effect of that hour and weekday.
    """

    at: datetime
    units: int
    n: int
    value: float | None
    standard_error: float | None
    adjusted: float | UnsetType | None = UNSET


class VariantSeries(msgspec.Struct, frozen=True):
    """The steps of one variant with new units, in order; other steps are unknown."""

    variant: str
    control: bool
    points: list[Point]

    @property
    def known(self) -> list[Point]:
        """Steps with a value."""
        return [point for point in self.points if point.value is not None]


class Season(msgspec.Struct, frozen=True, kw_only=True):
    """The usual effects on the control of an hour of the day and a weekday (UTC, from Monday).

    Null: never seen. `reason`: why there is no season, and no adjustment.
    """

    level: float | None = None
    hours: tuple[float | None, ...] = ()
    weekdays: tuple[float | None, ...] = ()
    autocorrelation: float | None = None
    reason: str = ""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A metric in steps, per variant in the order of the definition."""

    key: str
    metric: str
    kind: str
    step_s: int
    since: datetime
    until: datetime
    variants: list[VariantSeries]
    season: Season | UnsetType = UNSET


def series_of(
    experiment: Experiment,
    measures: Measures,
    metrics: Iterable[Metric],
    steps: Steps,
    rows: Iterable[Row],
    *,
    seasonal: bool,
) -> list[Series]:
    """Return the series of metrics. The plan says whether they contain units that crossed over."""
    variants = experiment.definition.variants
    by_variant: list[dict[int, CellTotals]] = [{} for _ in variants]
    for row in rows:
        if row.variant < len(variants) and not (row.crossed and measures.plan.crossovers == "exclude"):
            at, by_step = row.minute * 60 // steps.step_s * steps.step_s, by_variant[row.variant]
            totals = measures.converted(CellTotals.from_bytes(row.body), beside=0)
            by_step[at] = by_step[at] + totals if at in by_step else totals
    made = [
        Series(
            key=experiment.key,
            metric=metric.key,
            kind=metric.kind,
            step_s=steps.step_s,
            since=_time(steps.first),
            until=_time(steps.end),
            variants=[
                VariantSeries(
                    variant.key, variant.control, _points(metric, measures.metrics.index(metric), by_step)
                )
                for variant, by_step in zip(variants, by_variant, strict=True)
            ],
        )
        for metric in metrics
    ]
    return [_adjusted(series) for series in made] if seasonal else made


def _points(metric: Metric, number: int, by_step: Mapping[int, CellTotals]) -> list[Point]:
    points = []
    for at, totals in sorted(by_step.items()):
        if totals.units:
            known = totals_of(metric, totals.metrics[number])
            n, value, error = (0, None, None) if known is None else described(metric, known)
            points.append(Point(at=_time(at), units=totals.units, n=n, value=value, standard_error=error))
    return points


def _adjusted(series: Series) -> Series:
    """Remove the control's season from all variants alike, so that differences stay the same."""
    control = next(variant for variant in series.variants if variant.control)
    try:
        baseline = _baseline(control.points)
    except InsufficientData as error:
        return replace(series, season=Season(reason=str(error)))
    season = Season(
        level=baseline.level,
        hours=baseline.hours,
        weekdays=baseline.weekdays,
        autocorrelation=baseline.autocorrelation,
    )
    variants = [
        replace(
            variant,
            points=[replace(point, adjusted=_without_season(point, baseline)) for point in variant.points],
        )
        for variant in series.variants
    ]
    return replace(series, season=season, variants=variants)


def _baseline(points: Iterable[Point]) -> SeasonalBaseline:
    known = [point for point in points if point.value is not None]
    return fit_baseline(
        np.array([point.value for point in known], np.float64),
        np.array([point.at.hour for point in known], np.int64),
        np.array([point.at.weekday() for point in known], np.int64),
    )


def _without_season(point: Point, baseline: SeasonalBaseline) -> float | None:
    """Return the value without its season; None for an hour or weekday never seen of the control."""
    if point.value is None:
        return None
    try:
        return point.value - baseline.expected(point.at.hour, point.at.weekday()) + baseline.level
    except InsufficientData:
        return None


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
