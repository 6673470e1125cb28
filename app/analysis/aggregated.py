"""Analysis of totals that were aggregated elsewhere: one row per variant and metric. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final

import msgspec

from app.analysis import limits
from app.analysis.observed import Cell, Observed
from app.analysis.readout.analyze import analyze
from app.analysis.readout.record import Readout
from app.core.choices import nearest
from app.core.errors import FieldError, InvalidInput
from app.core.limits import VARIANTS_MAX
from app.core.text import Key
from app.experiments.limits import METRICS_MAX
from app.experiments.metrics import Direction, Margin, Mean, Metric, Proportion
from app.experiments.plan import AnalysisPlan, FixedHorizon
from app.ledger.units.metric_totals import MetricTotals
from stats.multiplicity import Role
from stats.srm import ArmCounts
from stats.totals import MeanTotals, ProportionTotals

DEFAULT_METRIC: Final = "metric"
_SHARES_OFF: Final = 1e-6

Count = Annotated[int, msgspec.Meta(ge=0, le=limits.AGGREGATED_UNITS_MAX)]
Number = Annotated[float, msgspec.Meta(ge=-limits.AGGREGATED_VALUE_MAX, le=limits.AGGREGATED_VALUE_MAX)]


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The totals of one metric in one variant: `n` units with `successes`, or with `mean` and `sd`.

    `sd` is the standard deviation of the units' values (not the standard error). It may be left out
    if there is only one unit.
    """

    variant: Key
    n: Count
    metric: str = DEFAULT_METRIC
    successes: Count | None = None
    mean: Number | None = None
    sd: Annotated[float, msgspec.Meta(ge=0, le=limits.AGGREGATED_VALUE_MAX)] | None = None


class AggregatedMetric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of a metric in the decision, as in a definition; a guardrail needs a `margin`."""

    key: str
    role: Role | None = None
    direction: Direction = "higher"
    margin: Margin | None = None


class AggregatedQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Totals of an experiment, and how to read them.

    `metrics` says which metrics to read, in order; by default all of them. The first one without a
    role is primary, the others are secondary. `control` is `control` or the first variant by
    default. `shares` are the probabilities that units were drawn with: the split is checked against
    them.
    """

    rows: tuple[Row, ...]
    metrics: tuple[AggregatedMetric, ...] = ()
    control: str | None = None
    shares: dict[str, Annotated[float, msgspec.Meta(gt=0, le=1)]] | None = None
    plan: AnalysisPlan = AnalysisPlan()


def answer(question: AggregatedQuestion) -> Readout:
    """Return the readout of aggregated totals. A fixed horizon is the number of their units.

    Raises InvalidInput with an error for each row or field that does not fit.
    """
    _refuse(_row_errors(question.rows))
    keys = list(dict.fromkeys(row.metric for row in question.rows))
    variants = tuple(dict.fromkeys(row.variant for row in question.rows))
    _refuse([*_size_errors(keys, variants), *_question_errors(question, keys, variants)])
    totals = {(row.metric, row.variant): _totals(row) for row in question.rows}
    declared = question.metrics or tuple(AggregatedMetric(key=key) for key in keys)
    _refuse(_missing_errors(declared, totals, variants))
    metrics = list(_metrics(declared, totals, variants))
    units = {variant: max(totals[metric.key, variant].n for metric in metrics) for variant in variants}
    cells = [
        Cell(1, variant, units[variant], {metric.key: totals[metric.key, variant] for metric in metrics})
        for variant in variants
    ]
    default = "control" if "control" in variants else variants[0]
    observed = Observed(
        variants=variants,
        control=question.control or default,
        cells=cells,
        assignments=_assignments(question.shares, units),
    )
    plan = question.plan
    if isinstance(plan.estimator, FixedHorizon):  # these totals are its one look
        plan = msgspec.structs.replace(plan, expected_units=max(observed.units(), 1))
    return analyze(plan, metrics, observed)


def _refuse(errors: Iterator[FieldError] | Sequence[FieldError]) -> None:
    """Raise InvalidInput if there are errors, with the first of them."""
    listed = tuple(errors)[: limits.AGGREGATED_ERRORS_MAX]
    if listed:
        detail = "; ".join(f"{error.field}: {error.reason}" for error in listed)
        raise InvalidInput(detail, errors=listed)


def _row_errors(rows: Sequence[Row]) -> Iterator[FieldError]:
    """Yield what is wrong with single rows, and with rows of one metric together."""
    if not rows:
        yield FieldError("rows", "must have a row for each variant, got none")
    seen: dict[tuple[str, str], int] = {}
    kinds: dict[str, tuple[int, bool]] = {}
    for number, row in enumerate(rows):
        field = f"rows[{number}]"
        if (row.metric, row.variant) in seen:
            yield FieldError(
                f"{field}.variant",
                f"{row.variant!r} has a second row of the metric {row.metric!r}; add up its units first",
            )
        seen.setdefault((row.metric, row.variant), number)
        counted = row.successes is not None
        if kinds.setdefault(row.metric, (number, counted))[1] != counted:
            other = "successes" if kinds[row.metric][1] else "mean and sd"
            yield FieldError(
                field, f"the metric {row.metric!r} has {other} in another row; give the same in all rows"
            )
        yield from _value_errors(row, field)


def _value_errors(row: Row, field: str) -> Iterator[FieldError]:
    if row.successes is not None:
        if row.mean is not None or row.sd is not None:
            yield FieldError(f"{field}.successes", "belongs to a proportion; leave out mean and sd")
        elif row.successes > row.n:
            yield FieldError(f"{field}.successes", f"must be at most n = {row.n}, got {row.successes}")
    elif row.n and row.mean is None:
        yield FieldError(f"{field}.mean", "is missing; give successes, or mean and sd")
    elif row.n > 1 and row.sd is None:
        yield FieldError(
            f"{field}.sd",
            "is missing; give the standard deviation of the units, which is the standard error times √n",
        )
    elif row.n == 1 and row.sd:
        yield FieldError(f"{field}.sd", f"must be 0 or empty for one unit, got {row.sd:g}")
    elif not row.n and (row.mean is not None or row.sd is not None):
        yield FieldError(f"{field}.n", "is 0, so mean and sd must be empty")


def _size_errors(keys: Sequence[str], variants: Sequence[str]) -> Iterator[FieldError]:
    if not 2 <= len(variants) <= VARIANTS_MAX:
        yield FieldError("rows", f"must have 2 to {VARIANTS_MAX} variants, got {len(variants)}")
    if len(keys) > METRICS_MAX:
        yield FieldError("rows", f"must have at most {METRICS_MAX} metrics, got {len(keys)}")


def _question_errors(
    question: AggregatedQuestion, keys: Sequence[str], variants: Sequence[str]
) -> Iterator[FieldError]:
    if question.control is not None and question.control not in variants:
        yield FieldError("control", _unknown(question.control, variants))
    names = [metric.key for metric in question.metrics]
    for number, metric in enumerate(question.metrics):
        if metric.key not in keys:
            yield FieldError(f"metrics[{number}].key", _unknown(metric.key, keys))
        if names.count(metric.key) > 1:
            yield FieldError(f"metrics[{number}].key", f"{metric.key!r} is given twice; remove one")
        if metric.role == "guardrail" and metric.margin is None:
            yield FieldError(
                f"metrics[{number}].margin",
                f"the guardrail {metric.key!r} needs one: how much worse it may get",
            )
    if question.plan.covariates or question.plan.segments is not None:
        field = "plan.covariates" if question.plan.covariates else "plan.segments"
        yield FieldError(field, "needs one row per unit; leave it out for aggregated rows")
    if question.shares is not None:
        yield from _share_errors(question.shares, variants)


def _share_errors(shares: Mapping[str, float], variants: Sequence[str]) -> Iterator[FieldError]:
    for variant in variants:
        if variant not in shares:
            yield FieldError("shares", f"has no share for {variant!r}; give one for each variant")
    total = sum(shares.values())
    if abs(total - 1) > _SHARES_OFF:
        yield FieldError("shares", f"must sum to 1, got {total:g}")


def _unknown(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    hint = "" if near is None else f"; did you mean {near!r}?"
    return f"{name!r} is in no row; there are {', '.join(known)}{hint}"


def _missing_errors(
    declared: Sequence[AggregatedMetric],
    totals: Mapping[tuple[str, str], MetricTotals],
    variants: Sequence[str],
) -> Iterator[FieldError]:
    """Yield an error for each metric that has no row of a variant."""
    for metric in declared:
        for variant in variants:
            if (metric.key, variant) not in totals:
                reason = f"the metric {metric.key!r} has no row of {variant!r}"
                yield FieldError("rows", f"{reason}; add it, with n = 0 if it has no units")


def _totals(row: Row) -> ProportionTotals | MeanTotals:
    if row.successes is not None:
        return ProportionTotals(row.n, row.successes)
    if not row.n:
        return MeanTotals()
    return MeanTotals(row.n, row.mean or 0.0, (row.sd or 0.0) ** 2 * (row.n - 1))


def _metrics(
    declared: Sequence[AggregatedMetric],
    totals: Mapping[tuple[str, str], ProportionTotals | MeanTotals],
    variants: Sequence[str],
) -> Iterator[Metric]:
    has_primary = any(metric.role == "primary" for metric in declared)
    for metric in declared:
        role = metric.role or ("guardrail" if metric.margin else "secondary" if has_primary else "primary")
        has_primary = has_primary or role == "primary"
        counted = isinstance(totals[metric.key, variants[0]], ProportionTotals)
        measure = Proportion(metric.key) if counted else Mean(metric.key)
        yield Metric(
            key=metric.key, measure=measure, role=role, direction=metric.direction, margin=metric.margin
        )


def _assignments(shares: Mapping[str, float] | None, units: Mapping[str, int]) -> tuple[ArmCounts, ...]:
    if shares is None:
        return ()
    # A variant with a share and without rows got no units, which breaks the split.
    names = list(shares)
    return (ArmCounts(tuple(units.get(name, 0) for name in names), tuple(shares[name] for name in names)),)
