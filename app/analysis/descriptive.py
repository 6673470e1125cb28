"""Raw figures of every metric per variant: what was seen, without any claim. Pure.

They are there for every metric, also where no method that is valid for the data compares variants.
Figures add up over epochs and shares, so a difference between variants may come from when and to
whom they were served. Comparisons belong to the readout.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from app.analysis.observed import Observed
from app.experiments.metric_history import Backfill, MetricVersion
from app.experiments.metrics import Metric, QuantileOf, Ratio
from app.ledger.units.metric_totals import MetricTotals, moments_of
from stats.errors import InsufficientData
from stats.quantiles import QuantileSketch, quantile
from stats.totals import JointTotals, ProportionTotals

ADAPTIVE_SEGMENTS = "segments are not compared where the allocation reacts to outcomes"
ADAPTIVE_COVARIATES = "covariates do not adjust comparisons where the allocation reacts to outcomes"


class VariantFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One variant: its `units`, `n` of them with a value, and the metric of these.

    `total` is the sum that `value` is made of: units with the signal of a proportion, values of a
    mean, the numerator of a ratio, whose `denominator` stands beside it. Null without a value, and
    for quantiles. `standard_error` is null below two units, and for quantiles.
    """

    variant: str
    control: bool
    units: int
    n: int
    value: float | None
    standard_error: float | None
    total: float | None = None
    denominator: float | None = None


class SegmentFigures(msgspec.Struct, frozen=True):
    """The figures of one segment."""

    segment: str
    variants: tuple[VariantFigures, ...]


class MetricFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One metric in raw figures, which prove nothing by themselves.

    `version`, `since` and `exploratory` are as in the history of the metrics. `measured` is the
    part of the log that a changed metric is measured from, 1 when it is complete; before, there are
    no figures. `note` says why there is no comparison, or what limits it.
    """

    key: str
    kind: str
    role: str
    version: int = 1
    since: datetime | None = None
    exploratory: bool = False
    measured: float = 1.0
    note: str = ""
    variants: tuple[VariantFigures, ...] = ()
    segments: tuple[SegmentFigures, ...] = ()


def figures_of(
    metrics: Sequence[Metric],
    observed: Observed,
    *,
    versions: Mapping[str, MetricVersion],
    unfinished: frozenset[str],
    backfill: Backfill | None,
    reasons: Mapping[str, str],
    has_covariates: bool,
) -> list[MetricFigures]:
    """Return the figures of all metrics. `reasons` say why a metric is not compared, by its key."""
    share = backfill.share if backfill is not None else 0.0
    return [
        _figures(
            metric,
            observed,
            version=versions.get(metric.key),
            measured=share if metric.key in unfinished else 1.0,
            note=_note(metric, observed, reasons.get(metric.key, ""), has_covariates=has_covariates),
        )
        for metric in metrics
    ]


def described(metric: Metric, totals: MetricTotals) -> tuple[int, float | None, float | None]:
    """Return the number of units, the metric and its standard error."""
    if isinstance(totals, QuantileSketch):
        assert isinstance(metric.measure, QuantileOf)
        return totals.n, quantile(totals, metric.measure.q), None
    try:
        moments = moments_of(metric, totals)
    except InsufficientData:  # a ratio with the denominator 0, or of one unit
        by = totals.mean[1] if isinstance(totals, JointTotals) else 0.0
        return totals.n, totals.mean[0] / by if isinstance(totals, JointTotals) and by else None, None
    error = (moments.variance / moments.n) ** 0.5 if moments.n > 1 else None
    return moments.n, moments.mean, error


def measuring(share: float) -> str:
    """Return the reason why a changed metric has no figures yet."""
    return f"being measured from the log: {share:.0%} done"


def _note(metric: Metric, observed: Observed, reason: str, *, has_covariates: bool) -> str:
    notes = [reason] if reason else []
    if observed.adaptive and observed.segments:
        notes.append(ADAPTIVE_SEGMENTS)
    if observed.adaptive and has_covariates and not isinstance(metric.measure, QuantileOf):
        notes.append(ADAPTIVE_COVARIATES)
    return "; ".join(notes)


def _figures(
    metric: Metric, observed: Observed, *, version: MetricVersion | None, measured: float, note: str
) -> MetricFigures:
    made = MetricFigures(key=metric.key, kind=metric.kind, role=metric.role, measured=measured, note=note)
    if version is not None:
        made = msgspec.structs.replace(
            made, version=version.version, since=version.since, exploratory=version.exploratory
        )
    if measured < 1:
        return msgspec.structs.replace(made, note=measuring(measured))
    return msgspec.structs.replace(
        made,
        variants=_of_variants(metric, observed, None),
        segments=tuple(
            SegmentFigures(segment, _of_variants(metric, observed, segment)) for segment in observed.segments
        ),
    )


def _of_variants(metric: Metric, observed: Observed, segment: str | None) -> tuple[VariantFigures, ...]:
    within = observed if segment is None else observed.of_segment(segment)
    figures = []
    for variant in observed.variants:
        totals = observed.totals(metric.key, variant, segment=segment)
        n, value, error = (0, None, None) if totals is None else described(metric, totals)
        total, denominator = _sums(metric, totals)
        figures.append(
            VariantFigures(
                variant=variant,
                control=variant == observed.control,
                units=within.units(variant),
                n=n,
                value=value,
                standard_error=error,
                total=total,
                denominator=denominator,
            )
        )
    return tuple(figures)


def _sums(metric: Metric, totals: MetricTotals | None) -> tuple[float | None, float | None]:
    """Return the sum of the outcomes and, for a ratio, of its denominators."""
    match totals:
        case None | QuantileSketch():
            return None, None
        case ProportionTotals():
            return float(totals.successes), None
        case JointTotals() if isinstance(metric.measure, Ratio):
            return totals.n * totals.mean[0], totals.n * totals.mean[1]
        case JointTotals():
            return totals.n * totals.mean[0], None
        case _:
            return totals.n * totals.mean, None
