"""Rare events: exact inference, conditional on how many were seen in total.

Conditioning removes the unknown base rate: given x + y events in the two arms, those of the treatment are
binomial (events over exposures) or hypergeometric (successes among units). Being discrete, these methods err
on the safe side: their true error is below alpha, by half when a handful of events was seen.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

from stats import checks, tails
from stats.errors import InsufficientData
from stats.estimate import Alternative, HypothesisTest, both_tails
from stats.interval import Interval
from stats.proportions import difference_of_bounds, exact_interval
from stats.totals import CountTotals, FloatArray, ProportionTotals


def rate_interval(total: CountTotals, *, alpha: float) -> Interval:
    """The exact interval of a Poisson rate: events per unit of exposure.

    Worked by hand: 0 events during exposure 1 give [0, -log(alpha / 2)] = [0, 3.69] at alpha 0.05. (The
    "rule of three" is the one-sided -log(0.05) = 3.00.)

    Raises InsufficientData without exposure.

    Source: Garwood (1936), Biometrika 28(3-4), as quantiles of gamma distributions.
    """
    checks.open_unit(alpha, "alpha")
    _exposed(total)
    lower = float(special.gammaincinv(total.events, alpha / 2)) if total.events else 0.0
    upper = float(special.gammainccinv(total.events + 1, alpha / 2))
    return Interval(lower / total.exposure, upper / total.exposure)


def rate_ratio_test(
    treatment: CountTotals, control: CountTotals, *, null: float = 1.0, alternative: Alternative = "two-sided"
) -> HypothesisTest:
    """The exact conditional test of rate(treatment) / rate(control) = `null`.

    Two-sided: twice the smaller tail. Its statistic is the number of the treatment's events. `null=1.2,
    alternative="less"` is a test that the treatment raises the rate by less than 20 % (non-inferiority).

    Worked by hand: 5 against 0 events at equal exposures: P(5 of 5) = 1/32 one-sided, 1/16 two-sided.
    Without any event there is a single possible outcome, so p = 1.

    Raises InsufficientData if an arm had no exposure; InvalidInput unless null is positive.

    Source: Przyborowski & Wilenski (1940), Biometrika 31(3-4).
    """
    share = _share(treatment, control, null)
    events = treatment.events + control.events
    if not events:
        return HypothesisTest(0.0, 0.0)
    lower = tails.log_binomial_lower(treatment.events, events, share)
    upper = tails.log_binomial_upper(treatment.events, events, share)
    return both_tails(treatment.events, lower, upper, alternative)


def rate_ratio_interval(treatment: CountTotals, control: CountTotals, *, alpha: float) -> Interval:
    """The ratios of rates that `rate_ratio_test` does not reject, two-sided.

    Clopper and Pearson's interval of the treatment's share of events, as odds.

    Worked by hand: 0 against 1 event at equal exposures: the share is in [0, 0.975], the ratio in [0, 39].

    Raises InsufficientData if the control had no event (no ratio is too large then;
    `rate_difference_interval` and the one-sided test still answer) or an arm no exposure.
    """
    _share(treatment, control, 1.0)
    if not control.events:
        raise InsufficientData("the control had no event: the ratio has no upper bound")
    n = treatment.events + control.events
    share = exact_interval(ProportionTotals(n, treatment.events), alpha=alpha)
    # The complement from its own interval keeps the digits of an odds that is very large.
    rest = exact_interval(ProportionTotals(n, control.events), alpha=alpha)
    per_exposure = control.exposure / treatment.exposure
    return Interval(share.lower / rest.upper * per_exposure, share.upper / rest.lower * per_exposure)


def rate_difference_interval(treatment: CountTotals, control: CountTotals, *, alpha: float) -> Interval:
    """The interval of rate(treatment) - rate(control), from the exact interval of each.

    Bounded without events too.

    Worked by hand: 0 against 0 events at exposure 1 give [-3.69, 3.69] at alpha 0.05.

    Raises InsufficientData if an arm had no exposure.

    Source: Li, Tang & Wong (2011), Statistics in Medicine 30(15) (MOVER for rates). Not exact, and
    conservative.
    """
    ours, theirs = rate_interval(treatment, alpha=alpha), rate_interval(control, alpha=alpha)
    return difference_of_bounds(
        treatment.events / treatment.exposure, ours, control.events / control.exposure, theirs
    )


def fisher_test(
    treatment: ProportionTotals, control: ProportionTotals, *, alternative: Alternative = "two-sided"
) -> HypothesisTest:
    """Fisher's exact test that two proportions are equal. Two-sided: twice the smaller tail.

    Its statistic is the number of the treatment's successes. scipy's and R's two-sided p-value adds all
    tables that are no more likely than the one seen: equal in symmetric cases, smaller or larger in others.

    Worked by hand: 3 of 3 against 0 of 3: P = 1 / C(6, 3) = 0.05 one-sided, 0.1 two-sided. If all units
    succeeded, or none, there is a single possible table, so p = 1.

    Raises InsufficientData if an arm is empty.
    """
    checks.n_at_least(min(treatment.n, control.n), 1, "units per arm")
    units, successes = treatment.n + control.n, treatment.successes + control.successes
    lower = _log_hypergeometric(treatment.successes, treatment.n, successes, units)
    # Not fewer successes are not more failures.
    upper = _log_hypergeometric(treatment.n - treatment.successes, treatment.n, units - successes, units)
    return both_tails(treatment.successes, lower, upper, alternative)


def _exposed(total: CountTotals) -> None:
    if not total.exposure:
        raise InsufficientData("needs exposure, has none")


def _share(treatment: CountTotals, control: CountTotals, ratio: float) -> float:
    """The treatment's share of all events if the rates have this ratio."""
    checks.positive(ratio, "null")
    _exposed(treatment)
    _exposed(control)
    return 1 / (1 + control.exposure / treatment.exposure / ratio)


def _log_hypergeometric(k: int, draws: int, good: int, total: int) -> float:
    """The logarithm of P(at most k good ones among the draws): a sum from k down to where nothing is left.

    It begins no higher than where nothing is left above, so that it has some 80 deviations of terms at most.
    """
    mean = draws * (good / total)
    deviation = math.sqrt(mean * (1 - good / total) * ((total - draws) / (total - 1)))
    reach = 40 * deviation + 40
    lowest = max(0, draws + good - total, int(min(k, mean) - reach))
    highest = min(k, int(mean + reach))
    taken = np.arange(lowest, highest + 1)
    ways = _log_choose(good, taken) + _log_choose(total - good, draws - taken) - _log_choose(total, draws)
    return min(float(special.logsumexp(ways)), 0.0)


def _log_choose(n: int, k: int | NDArray[np.int64]) -> FloatArray:
    """The logarithm of how many ways there are to take k out of n."""
    ways: FloatArray = np.asarray(-math.log1p(n) - special.betaln(n - k + 1, k + 1))
    return ways
