"""Guardrails of the readout: the question that rollouts ask too, and its answer as a row. Pure."""

import math

import msgspec

from app.analysis.bounds import Bounds
from app.analysis.harm.answer import answer
from app.analysis.harm.question import Answer, Question
from app.analysis.harm.verdict import UNDECIDED, ReadoutVerdict
from app.analysis.observed import Observed
from app.analysis.readout.record import VariantReadout
from app.experiments.metrics import Metric, QuantileOf
from app.experiments.plan import AlwaysValid, AnalysisPlan
from stats.errors import InsufficientData


def is_shared(metric: Metric, plan: AnalysisPlan, observed: Observed) -> bool:
    """Return whether the readout asks for harm as a rollout does.

    A planned horizon and an allocation that reacts to outcomes have methods of their own.
    """
    return metric.role == "guardrail" and isinstance(plan.estimator, AlwaysValid) and not observed.adaptive


def ask(metric: Metric, observed: Observed, variant: str, level: float) -> Answer:
    """Return what is proven about a variant, each side at this level. Raises InsufficientData."""
    assert metric.margin is not None, "a guardrail has a margin"
    epochs = observed.epochs
    if isinstance(metric.measure, QuantileOf) and len(epochs) > 1:
        raise InsufficientData("quantiles are not stratified by epoch: they need one with a constant split")
    question = Question(
        metric=metric,
        margin=metric.margin,
        treatment=variant,
        epochs=epochs,
        pooled=epochs if len(epochs) == 1 else (),
        worse_level=level,
        within_level=level,
    )
    return answer(question, observed)


def with_answer(shown: VariantReadout, metric: Metric, answered: Answer, level: float) -> VariantReadout:
    """Add an answer to a row. A relative interval is shown as a difference too, at the control's estimate."""
    control, estimate = answered.means
    e_value = None
    if answered.worse.scale == "log e-value":
        e_value = math.exp(min(answered.worse.statistic, 690.0))
    decided = _verdict(metric, answered)
    return msgspec.structs.replace(
        shown,
        estimate=estimate,
        control_estimate=control,
        effect=estimate - control,
        interval=difference_interval(answered),
        relative_effect=answered.effect if answered.relative else None,
        relative_interval=answered.interval if answered.relative else None,
        level=level,
        e_value=e_value,
        p_value=None if e_value is None else min(1 / e_value, 1.0),
        verdict=decided,
        reason=answered.note or (UNDECIDED if decided == "not_enough_data" else ""),
    )


def difference_interval(answered: Answer) -> Bounds | None:
    """Return the interval of the difference; None if there is none."""
    if answered.interval is None or not answered.relative:
        return answered.interval
    lower, upper = (None if bound is None else bound * abs(answered.means[0]) for bound in answered.interval)
    return lower, upper


def _verdict(metric: Metric, answered: Answer) -> ReadoutVerdict:
    """Return the verdict of both proofs, or that the whole interval is on the better side."""
    lower, upper = answered.interval or (None, None)
    nearest = upper if metric.direction == "lower" else lower
    better = nearest is not None and (nearest < 0 if metric.direction == "lower" else nearest > 0)
    return "better" if better and answered.within.proven else answered.verdict
