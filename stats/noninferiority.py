"""Guardrails: whether a metric got worse, or did not get worse by more than its margin, at every look.

Two one-sided tests run beside each other, each at `alpha`, each valid at all looks:

* *harm*: the null is "not worse than `tolerance`" (0 unless said otherwise). P(a canary that is no worse is
ever called
  harmful) <= alpha. This is the false rollback.
* *safe*: the null is "worse by the margin or more". P(a canary that is that bad is ever called safe) <=
alpha. This is the
  false promotion.

The interval that is reported *is* the rule: harm exactly if it lies beyond the tolerance, safe exactly if it
ends before the margin; the e-values reach 1 / alpha at the same looks. A canary that is worse, but by less
than the margin, will in the end be both: it is then called safe, for it does not break the guardrail; at an
earlier look it may have been called harmful. Set `tolerance` to the margin to call harm only what breaks it;
then a canary exactly at the margin is never told.

Where the tests are strongest is chosen from the margin: `guard_means` is tuned to the effective units at
which a worsening by the margin can be told, `guard_events` expects the ratio 1 + margin.

Source: non-inferiority by confidence sequences, Howard et al. (2021) and Lindon, Sanden & Shirikian (2022);
see `stats.sequences` and `stats.counts` for what is exact and what is asymptotic.
"""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from stats import checks, mixture, sequences, sequential_counts
from stats.eprocess import EValue
from stats.errors import InvalidInput
from stats.estimate import Alternative
from stats.interval import Interval
from stats.sequences import Contrast
from stats.sequential_counts import EventCounts

Worse = Literal["higher", "lower"]
"""The direction in which the metric gets worse."""

Verdict = Literal["harm", "safe", "not_enough_data"]


class Margin(msgspec.Struct, frozen=True):
    """By how much a metric may get worse: in its own unit, or relative to the control's value.

    Raises InvalidInput unless size is positive, tolerance within [0, size], and, where lower is worse and all
    is relative, size below 1.
    """

    size: float
    relative: bool
    worse: Worse
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        checks.positive(self.size, "size")
        if not 0 <= self.tolerance <= self.size:
            raise InvalidInput(f"tolerance must be within [0, {self.size:g}], got {self.tolerance:g}")
        if self.relative and self.worse == "lower" and self.size >= 1:
            raise InvalidInput(f"a metric cannot fall by {self.size:g} of its value, at most by 1")


class GuardrailReading(msgspec.Struct, frozen=True):
    """Verdict of one guardrail at one look, and what it rests on.

    `interval` is for treatment less control, or relative to the control; each of its bounds holds with 1 -
    alpha.
    """

    verdict: Verdict
    harm: EValue
    safe: EValue
    interval: Interval


def _reading(margin: Margin, interval: Interval, harm: EValue, safe: EValue) -> GuardrailReading:
    if margin.worse == "higher":
        is_harm, is_safe = interval.lower > margin.tolerance, interval.upper < margin.size
    else:
        is_harm, is_safe = interval.upper < -margin.tolerance, interval.lower > -margin.size
    verdict: Verdict = "safe" if is_safe else "harm" if is_harm else "not_enough_data"
    return GuardrailReading(verdict, harm, safe, interval)


def guard_means(contrast: Contrast, margin: Margin, *, alpha: float, tuned_to: float) -> GuardrailReading:
    """A guardrail on means of units: latency, cost, a score; also on proportions that are not rare.

    `tuned_to` in effective units; `sequences.units_to_tell(margin, sd, alpha=alpha, alternative="greater")`
    with the standard deviation known before the start is a good choice. Asymptotic with an enforced burn-in.

    Worked by hand: an interval [0.01, 0.05] of a latency with margin 0.1 is safe; [0.12, 0.3] is harm.
    Raises InsufficientData before the burn-in (see `Contrast.of`); for a relative margin while the control's
    mean cannot be told from 0.
    """
    sequence = sequences.relative_difference_sequence if margin.relative else sequences.difference_sequence
    lower = sequence(contrast, alpha=alpha, tuned_to=tuned_to, alternative="greater").lower
    upper = sequence(contrast, alpha=alpha, tuned_to=tuned_to, alternative="less").upper
    rho = mixture.tuned(tuned_to, alpha=alpha, alternative="greater")
    sign = 1 if margin.worse == "higher" else -1

    def evidence(at: float, alternative: Alternative) -> EValue:
        if margin.relative:
            return contrast.evalue(rho=rho, alternative=alternative, ratio=1 + sign * at)
        return contrast.evalue(rho=rho, alternative=alternative, shift=sign * at)

    towards, away = _directions(margin.worse)
    return _reading(
        margin, Interval(lower, upper), evidence(margin.tolerance, towards), evidence(margin.size, away)
    )


def guard_events(periods: Sequence[EventCounts], margin: Margin, *, alpha: float) -> GuardrailReading:
    """A guardrail on the rate of rare events, such as errors, with a relative margin. Exact.

    The interval is for (rate in treatment / rate in control) - 1.

    Worked by hand: no event at all: no evidence, interval [-1, infinity].
    Raises InvalidInput for an absolute margin: these counts say nothing about the rates themselves. Divide it
    by the base rate, or use `guard_means`.
    """
    if not margin.relative:
        raise InvalidInput("counts of events need a relative margin")
    checks.open_unit(alpha, "alpha")
    expected = 1 + margin.size if margin.worse == "higher" else 1 / (1 - margin.size)
    sign = 1 if margin.worse == "higher" else -1

    def evidence(at: float, alternative: Alternative) -> EValue:
        return sequential_counts.ratio_evalue(
            periods, ratio=max(1 + sign * at, 1e-12), expected_ratio=expected, alternative=alternative
        )

    def bounds(alternative: Alternative) -> Interval:
        return sequential_counts.ratio_sequence(
            periods, alpha=alpha, expected_ratio=expected, alternative=alternative
        )

    if any(period.control + period.treatment for period in periods):
        interval = Interval(bounds("greater").lower - 1, bounds("less").upper - 1)
    else:
        interval = Interval(-1.0, math.inf)
    towards, away = _directions(margin.worse)
    return _reading(margin, interval, evidence(margin.tolerance, towards), evidence(margin.size, away))


def _directions(worse: Worse) -> tuple[Alternative, Alternative]:
    return ("greater", "less") if worse == "higher" else ("less", "greater")
