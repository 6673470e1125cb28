"""Harm and safety of a quantile, from the order statistics of both variants. Pure."""

import math
from typing import Final, Literal

from app.analysis.harm.question import Answer, Proof, Question
from app.analysis.observed import Observed
from app.experiments.metrics import QuantileOf
from stats.errors import InsufficientData
from stats.quantiles import QuantileSketch, quantile, quantile_bound

_UNITS: Final = 2_000.0
"""Units at which the sequences are tightest: about those that detect a worsening of 10 %."""

Side = Literal["lower", "upper"]


def quantiles(question: Question, observed: Observed) -> Answer:
    """Return the answer from one bound per variant and side; each misses with half the level.

    Harm needs one bound of each variant only, so it is found while the other bounds are still
    infinite. It needs no division, so it is found next to a control at 0.
    """
    assert isinstance(question.metric.measure, QuantileOf)
    q = question.metric.measure.q
    control, treatment = (
        observed.pooled(question.metric.key, arm, question.pooled)
        for arm in (observed.control, question.treatment)
    )
    if not (isinstance(control, QuantileSketch) and isinstance(treatment, QuantileSketch)):
        raise InsufficientData("a variant has no value yet")
    better: Side = "lower" if question.sign > 0 else "upper"
    worse: Side = "upper" if question.sign > 0 else "lower"

    def bound(sketch: QuantileSketch, side: Side, level: float) -> float:
        return quantile_bound(sketch, q, side, alpha=level / 2, tuned_to=_UNITS)

    base = bound(control, better, question.within_level)
    lower = _worsening(
        question,
        bound(treatment, better, question.worse_level),
        bound(control, worse, question.worse_level),
    )
    upper = _worsening(question, bound(treatment, worse, question.within_level), base)
    if lower <= 0 and math.isinf(upper):
        raise InsufficientData(
            f"{control.n:,} and {treatment.n:,} values do not yet bound the {q:g}-quantile of both variants"
        )
    means = quantile(control, q), quantile(treatment, q)
    relative = question.margin.relative and means[0] != 0
    note = "" if relative == question.margin.relative else "nothing is relative to a control of 0"
    return question.answer(
        method=f"exact sequences of the {q:g}-quantiles" + (f": {note}" if note else ""),
        units=(control.n, treatment.n),
        means=means,
        relative=relative,
        worsening=(lower, upper),
        worse=question.proof("worse", lower, scale="bound", threshold=0.0),
        within=_within(question, upper, base),
        note=note,
    )


def _worsening(question: Question, treatment: float, control: float) -> float:
    """Return the worsening from one bound to another, relative to the control's if that is not 0."""
    worsening = question.sign * (treatment - control)
    if question.margin.relative and control and math.isfinite(control):
        return worsening / abs(control)
    return worsening


def _within(question: Question, upper: float, control: float) -> Proof:
    """Prove that the upper bound of the worsening, from this bound of the control, is within the margin."""
    size = question.margin.size
    if question.margin.relative and not control:
        size = 0.0
    elif question.margin.relative and question.sign * control < 0:
        size = min(size, 1.0)  # the control's quantile may be arbitrarily near to 0
    return question.proof("within", upper, scale="bound", threshold=size)
