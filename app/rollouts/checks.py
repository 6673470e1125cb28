"""Check that a rollout fits its experiment. Pure."""

from collections.abc import Iterator
from itertools import pairwise

import msgspec

from app.analysis.harm.question import Baseline
from app.core.errors import FieldError, InvalidInput
from app.core.limits import SIGNAL_VALUE_MAX
from app.experiments.limits import FIELD_ERRORS_MAX
from app.experiments.metrics import Metric, Proportion
from app.experiments.model import Definition
from app.rollouts.model import (
    PRESETS,
    Guardrail,
    Primary,
    PrimaryRequest,
    Ramp,
    RolloutPlan,
    RolloutPlanRequest,
)


def resolve(request: RolloutPlanRequest, definition: Definition) -> RolloutPlan:
    """Return the full plan. Names of guardrails are metrics of the experiment first, then presets.

    Secondary metrics are those of the experiment. Raises InvalidInput with one error per field that
    does not fit.
    """
    metrics = {metric.key: metric for metric in definition.metrics}
    errors: list[FieldError] = []
    guardrails: list[Guardrail] = []
    for index, named in enumerate(request.guardrails):
        guardrail = named if isinstance(named, Guardrail) else _named(named, metrics)
        if isinstance(guardrail, Guardrail):
            guardrails.append(guardrail)
        else:
            errors.append(FieldError(f"guardrails[{index}]", guardrail))
    primary = None if request.primary is None else _primary(request.primary, metrics)
    if isinstance(primary, str):
        errors.append(FieldError("primary.metric", primary))
    if errors or isinstance(primary, str):
        raise _invalid(errors)
    plan = RolloutPlan(
        **{field: getattr(request, field) for field in Ramp.__struct_fields__},
        guardrails=tuple(guardrails),
        primary=primary,
        secondary=tuple(metric for metric in definition.metrics if metric.role == "secondary"),
    )
    return check(plan, definition)


def _named(key: str, metrics: dict[str, Metric]) -> Guardrail | str:
    """Return the guardrail of this name, or the reason why there is none."""
    if key in metrics and metrics[key].role == "guardrail":
        return Guardrail(metric=metrics[key])
    if key in metrics:
        return f"{key!r} has the role {metrics[key].role}, not guardrail"
    if key in PRESETS:
        return Guardrail(metric=PRESETS[key])
    return f"{key!r} is neither a guardrail of the experiment nor a preset: {', '.join(PRESETS)}"


def _primary(request: PrimaryRequest, metrics: dict[str, Metric]) -> Primary | str:
    metric = metrics.get(request.metric)
    if metric is None:
        return f"the experiment has no metric {request.metric!r}"
    if request.margin is not None:
        metric = msgspec.structs.replace(metric, margin=request.margin)
    if request.test == "non_inferior" and metric.margin is None:
        return f"a non-inferiority test of {metric.key!r} needs a margin"
    return Primary(metric=metric, test=request.test)


def check(plan: RolloutPlan, definition: Definition) -> RolloutPlan:
    """Return the plan if it fits the experiment. Raises InvalidInput with one error per wrong field."""
    errors = [*_canaries(plan, definition), *_stages(plan), *_guardrails(plan)][:FIELD_ERRORS_MAX]
    if errors:
        raise _invalid(errors)
    return plan


def _invalid(errors: list[FieldError]) -> InvalidInput:
    detail = "; ".join(f"{error.field}: {error.reason}" for error in errors)
    return InvalidInput(detail, errors=tuple(errors))


def _canaries(plan: RolloutPlan, definition: Definition) -> Iterator[FieldError]:
    if len(set(plan.canaries)) != len(plan.canaries):
        yield FieldError("canaries", "must differ")
    variants = {variant.key: variant for variant in definition.variants}
    for index, canary in enumerate(plan.canaries):
        variant = variants.get(canary)
        if variant is None:
            yield FieldError(f"canaries[{index}]", f"no variant is called {canary!r}")
        elif variant.control:
            yield FieldError(f"canaries[{index}]", f"{canary!r} is the control")
        elif variant.retired:
            yield FieldError(f"canaries[{index}]", f"{canary!r} is retired: take it back first")


def _stages(plan: RolloutPlan) -> Iterator[FieldError]:
    if plan.stages[0].share >= 1:
        yield FieldError("stages[0].share", "must be below 1, because the control needs traffic")
    for index, (before, stage) in enumerate(pairwise(plan.stages), start=1):
        if stage.share <= before.share:
            reason = f"must be above {before.share:g}, the share of the stage before; got {stage.share:g}"
            yield FieldError(f"stages[{index}].share", reason)


def _guardrails(plan: RolloutPlan) -> Iterator[FieldError]:
    keys = [guardrail.metric.key for guardrail in plan.guardrails]
    if len(set(keys)) != len(keys):
        yield FieldError("guardrails", "must not repeat a metric")
    for index, limit in enumerate(plan.limits):
        if limit.metric not in keys:
            yield FieldError(f"limits[{index}].metric", f"the plan has no guardrail {limit.metric!r}")
    for index, guardrail in enumerate(plan.guardrails):
        field = f"guardrails[{index}]"
        yield from _margin(guardrail.metric, f"{field}.metric.margin.size")
        yield from _baseline(guardrail.metric, guardrail.baseline, f"{field}.baseline.mean")
    if plan.primary is not None:
        yield from _margin(plan.primary.metric, "primary.margin.size")
        yield from _baseline(plan.primary.metric, plan.primary.baseline, "primary.baseline.mean")


def _margin(metric: Metric, field: str) -> Iterator[FieldError]:
    margin = metric.margin
    if margin is None:
        return
    if margin.size > SIGNAL_VALUE_MAX:
        yield FieldError(field, f"must be at most {SIGNAL_VALUE_MAX:g}; got {margin.size:g}")
    elif margin.relative and metric.direction == "higher" and margin.size >= 1:
        yield FieldError(
            field,
            f"must be below 1, because a metric cannot fall by more than its value; got {margin.size:g}",
        )
    elif not margin.relative and isinstance(metric.measure, Proportion) and margin.size >= 1:
        yield FieldError(
            field, f"must be below 1, because a proportion is between 0 and 1; got {margin.size:g}"
        )


def _baseline(metric: Metric, baseline: Baseline | None, field: str) -> Iterator[FieldError]:
    if baseline is not None and isinstance(metric.measure, Proportion) and not 0 <= baseline.mean <= 1:
        yield FieldError(field, f"must be between 0 and 1 for a proportion; got {baseline.mean:g}")
