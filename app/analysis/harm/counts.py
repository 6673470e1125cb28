"""Harm and safety of a proportion, from counts of bad outcomes and from exact bounds of both rates. Pure."""

import math
from collections.abc import Sequence
from typing import Final, Literal

from app.analysis.harm.question import Answer, Question
from app.analysis.harm.waiting import factor_to_answer
from app.analysis.observed import Observed
from app.analysis.strata import Pairs, comparable_means, counts_of
from stats import bounded, mixture, sequences, sequential_counts
from stats.sequential_counts import EventCounts
from stats.totals import ProportionTotals

RARE: Final = 0.2
"""Bad outcomes below this share are counted: then units without one add little information."""
STAND_IN: Final = 0.1
"""The part of a level that is reserved for each test that stands in where the sharpest is undefined or slow.

The parts of all tests of a proof sum to 1, so a union bound keeps the level. This costs the sharpest test 0.1
of about 7 nats of evidence.
"""
TOTAL_RATIO: Final = 20.0
"""The scale of the ratio of bad outcomes for a canary that fails totally."""
METHOD: Final = "counts of bad outcomes, given how many there were (exact), stratified by epoch"
SPREAD_MAX: Final = 1e6
"""Greatest standard deviation of a unit, in margins: a million margins need more units than exist."""

_RATIO_GUESS: Final = 2.0
"""Expected ratio of bad outcomes in a bad canary, if nothing is known of the control."""
_CONTROL_UNITS: Final = 10.0
"""The control's bound is tightest at this many times the treatment's units."""


def counts_failures(question: Question) -> bool:
    """Return whether the bad outcome is known to be rare, or assumed to be because "lower is better"."""
    if question.baseline is None:
        return question.sign > 0
    return 0 <= _bad_rate(question, question.baseline.mean) <= RARE


def counts(question: Question, observed: Observed, pairs: Pairs) -> Answer:
    """Return the answer from the treatment's part of all bad outcomes.

    The treatment's share of the units with a known outcome stands for its share of the traffic.
    Given the units of both, its bad outcomes are hypergeometric. That is less spread than the
    binomial numbers that the test allows for (Hoeffding 1963, theorem 4), so the test is
    conservative.
    """
    periods = bad_counts(question, pairs)
    expected = _expected_ratio(question)
    # One mixture for what breaks a margin, and one for a canary that fails totally.
    tests = ((1 - STAND_IN, expected), (STAND_IN, max(TOTAL_RATIO, expected)))
    harm = max(
        sequential_counts.ratio_evalue(periods, expected_ratio=scale).log_value + math.log(part)
        for part, scale in tests
    )
    control, treatment = comparable_means([(counts_of(c), counts_of(t)) for c, t in pairs])
    lower = max(_ratio_bound(periods, part * question.worse_level, scale, "greater") for part, scale in tests)
    if question.margin.relative and question.sign > 0:
        upper = _ratio_bound(periods, question.within_level, expected, "less")
        safe = sequential_counts.ratio_evalue(
            periods, ratio=1 + question.margin.size, expected_ratio=expected, alternative="less"
        )
        within = question.proof("within", safe.log_value)
    else:
        # What the ratio of bad outcomes means for the metric, at the control's rate.
        rate = _bad_rate(question, control)
        lower *= rate / control if question.margin.relative and control else rate
        upper = worsening_at_most(question, observed)
        within = question.proof("within", upper, scale="bound", threshold=question.margin.size)
    return question.answer(
        method=METHOD,
        units=(sum(c.n for c, _ in pairs), sum(t.n for _, t in pairs)),
        means=(control, treatment),
        worsening=(lower, upper),
        worse=question.proof("worse", harm),
        within=within,
        factor=_factor(question, periods, expected),
    )


def bad_counts(question: Question, pairs: Pairs) -> list[EventCounts]:
    """Return the bad outcomes of both variants per epoch, with the treatment's share of the units."""
    periods = []
    for control, treatment in pairs:
        bad_control, bad_treatment = (_bad_outcomes(question, counts_of(arm)) for arm in (control, treatment))
        share = treatment.n / (control.n + treatment.n)
        periods.append(EventCounts(bad_control, bad_treatment, share))
    return periods


def worsening_at_most(question: Question, observed: Observed) -> float:
    """Return the upper bound of the worsening, from exact bounds of both rates at half the level each."""
    arms = [
        observed.pooled(question.metric.key, arm, question.pooled)
        for arm in (observed.control, question.treatment)
    ]
    if arms[0] is None or arms[1] is None:
        return math.inf
    guess = 0.05 if question.sign > 0 else 0.95
    baseline = question.baseline.mean if question.baseline is not None else guess
    reach = max(question.margin.size * (baseline if question.margin.relative else 1), 1 / SPREAD_MAX)
    spread = math.sqrt(max(baseline * (1 - baseline), reach))
    half = question.within_level / 2
    units = max(sequences.units_to_tell(reach, spread, alpha=half, alternative="greater"), 1.0)
    control = bounded.bounded_sequence(
        counts_of(arms[0]), alpha=half, tuned_to=_CONTROL_UNITS * units, alternative=question.worse_claim
    )
    treatment = bounded.bounded_sequence(
        counts_of(arms[1]), alpha=half, tuned_to=units, alternative=question.within_claim
    )
    if question.sign > 0:
        return treatment.upper - control.lower
    if question.margin.relative:
        return 1 - treatment.lower / control.upper
    return control.upper - treatment.lower


def _bad_outcomes(question: Question, totals: ProportionTotals) -> int:
    return totals.successes if question.sign > 0 else totals.n - totals.successes


def _bad_rate(question: Question, mean: float) -> float:
    """Return the rate of bad outcomes, for a proportion with this mean."""
    return mean if question.sign > 0 else 1 - mean


def _expected_ratio(question: Question) -> float:
    """Return the ratio of bad outcomes in a treatment that is worse by exactly the margin."""
    size, baseline = question.margin.size, question.baseline
    if question.margin.relative and question.sign > 0:
        return 1 + max(size, 1 / SPREAD_MAX)
    if baseline is None:
        return _RATIO_GUESS
    more = size * baseline.mean if question.margin.relative else size
    return 1 + more / max(_bad_rate(question, baseline.mean), more / 100)


def _ratio_bound(
    periods: Sequence[EventCounts], level: float, expected: float, side: Literal["greater", "less"]
) -> float:
    """Return the bound of the ratio of bad outcomes, less 1. Without an event there is no bound."""
    if not any(period.control + period.treatment for period in periods):
        return -1.0 if side == "greater" else math.inf
    interval = sequential_counts.ratio_sequence(
        periods, alpha=level, expected_ratio=expected, alternative=side
    )
    return (interval.lower if side == "greater" else interval.upper) - 1


def _factor(question: Question, periods: Sequence[EventCounts], expected: float) -> float | None:
    """Return the factor of an answer, by the normal approximation of the log ratio."""
    control, treatment = (
        sum(period.control for period in periods),
        sum(period.treatment for period in periods),
    )
    if not control or not treatment:
        return None
    variance = 1 / control + 1 / treatment
    worse_rho, within_rho = (
        mixture.tuned(1 / variance, alpha=level, alternative="greater")
        for level in (question.worse_level, question.within_level)
    )
    return factor_to_answer(
        question,
        math.log(sequential_counts.likeliest_ratio(periods)),
        math.log(expected),
        variance=(variance, variance),
        time=1 / variance,
        rhos=(worse_rho, within_rho),
    )
