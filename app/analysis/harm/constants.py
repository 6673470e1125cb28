"""Harm and safety where the values of no variant have any spread: worse values can only be counted. Pure."""

from typing import Final

from app.analysis.harm.counts import TOTAL_RATIO, worsening_at_most
from app.analysis.harm.question import Answer, Proof, Question
from app.analysis.observed import Observed
from app.analysis.strata import MeanPairs, comparable_means
from app.experiments.metrics import Proportion
from stats import mixture, sequences, sequential_counts
from stats.sequential_counts import EventCounts
from stats.totals import MeanTotals

SPREAD_MARGINS: Final = 3.0
"""The assumed standard deviation of a unit, in margins, where none was seen."""

_RESOLUTION: Final = 1e-9
"""Differences below this part of a value are rounding errors."""


def is_constant(question: Question, pairs: MeanPairs) -> bool:
    """Return whether all values of a variant in an epoch are the same, up to rounding."""
    return all(
        arm.m2 <= arm.n * _resolution(question, control) ** 2
        for control, treatment in pairs
        for arm in (control, treatment)
    )


def constants(
    question: Question, observed: Observed, pairs: MeanPairs, rho: float, units: tuple[int, int]
) -> Answer:
    """Return the answer from counts of worse values. `rho` is the mixture of the proof of safety.

    Harm is an exact test of how many of the worse values the treatment has. A treatment is safe if
    it is no worse than the control, or worse by less than the margin, assuming a standard deviation
    of three margins. A proportion has exact bounds instead.
    """
    control, treatment = comparable_means(pairs)
    harm = sequential_counts.ratio_evalue(
        [_worse_values(question, *pair) for pair in pairs], expected_ratio=TOTAL_RATIO
    )
    relative = question.margin.relative and control != 0
    note = "the values of a variant do not differ, so worse values are counted"
    if relative < question.margin.relative:
        note += "; a margin relative to a control of 0 allows nothing"
    return question.answer(
        method="counts of worse values (exact): the values of each variant have no spread",
        units=units,
        means=(control, treatment),
        relative=relative,
        worse=question.proof("worse", harm.log_value),
        within=_within(question, observed, pairs, rho, means=(control, treatment)),
        note=note,
    )


def _resolution(question: Question, control: MeanTotals) -> float:
    """Return the greatest difference that counts as rounding; a shift of the treatment does not change it."""
    return _RESOLUTION * max(abs(control.mean), 0.0 if question.margin.relative else question.margin.size)


def _worse_values(question: Question, control: MeanTotals, treatment: MeanTotals) -> EventCounts:
    """Count the units of the variant with the worse value."""
    worsening = question.sign * (treatment.mean - control.mean)
    same = abs(worsening) <= _resolution(question, control)
    return EventCounts(
        0 if same or worsening > 0 else control.n,
        0 if same or worsening < 0 else treatment.n,
        treatment.n / (control.n + treatment.n),
    )


def _within(
    question: Question,
    observed: Observed,
    pairs: MeanPairs,
    rho: float,
    *,
    means: tuple[float, float],
) -> Proof:
    control, treatment = means
    margin = question.margin_at(control)
    if margin <= 0:
        return question.proof("within", 0.0)
    if isinstance(question.metric.measure, Proportion):
        # The bound of a rise is a difference, and so is its margin here.
        threshold = margin if question.sign > 0 else question.margin.size
        upper = worsening_at_most(question, observed)
        return question.proof("within", upper, scale="bound", threshold=threshold)
    time = sum(sequences.effective_units(c.n, t.n) for c, t in pairs)
    score = (margin - question.sign * (treatment - control)) / (SPREAD_MARGINS * margin) * time
    return question.proof("within", float(mixture.log_mixture(score, time, rho=rho, alternative="greater")))
