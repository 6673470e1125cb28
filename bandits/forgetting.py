"""Modifiers of totals, for any policy: forget the past, or start from one.

Totals are kept by bucket of time, oldest first; what a policy reads are effective totals. What is
pending is not weighted: it is not known yet, and belongs to the present.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np

from bandits.totals import ArmTotals
from stats import checks
from stats.errors import InvalidInput


def discounted(buckets: Sequence[ArmTotals], *, factor: float) -> ArmTotals:
    """Discount totals: every bucket counts `factor` times as much as the one after it.

    After a change the old mean is forgotten at that rate; without one, the effective number of
    rewards stays below 1 / (1 - factor) buckets, so exploration never ends and regret grows
    linearly.

    Worked by hand: 10 rewards in each of 3 buckets, factor 1/2: 2.5 + 5 + 10 = 17.5 rewards.

    Raises InvalidInput if factor is not in (0, 1] or there is no bucket.

    Source: Garivier & Moulines (2011), ALT, D-UCB; Raj & Kalyani (2017), discounted Thompson
    sampling.
    """
    if not 0 < factor <= 1:
        raise InvalidInput(f"factor must be in (0, 1], got {factor:g}")
    age = range(len(buckets) - 1, -1, -1)
    return _sum([bucket.weighted(factor**old) for bucket, old in zip(buckets, age, strict=True)])


def windowed(buckets: Sequence[ArmTotals], *, last: int) -> ArmTotals:
    """Add up the last `last` buckets.

    Pulls that are pending from before the window stay pending.

    Raises InvalidInput if last < 1 or there is no bucket.

    Source: Garivier & Moulines (2011), SW-UCB; Trovo et al. (2020), JAIR 68, SW-TS.
    """
    if last < 1:
        raise InvalidInput(f"last must be at least 1, got {last}")
    old = [bucket.weighted(0.0) for bucket in buckets[:-last]]
    return _sum([*old, *buckets[-last:]])


def warm_start(logged: ArmTotals, *, discount: float, n_max: float) -> ArmTotals:
    """Return totals of earlier data to add to the present ones: a prior for any policy.

    Each logged reward counts `discount`, and the log of an arm counts for at most `n_max` rewards.
    So a log that misleads (another season, another prompt) is outvoted after about `n_max` rewards.
    Arms must have been chosen at random, or the means of the log are confounded.

    Worked by hand: 1,000 rewards with mean 0.3, discount 0.5, n_max 100: 100 rewards, sum 30.

    Raises InvalidInput if discount is not in [0, 1] or n_max negative.
    """
    checks.closed_unit(discount, "discount")
    checks.not_negative(n_max, "n_max")
    weight = np.minimum(discount, n_max / np.where(logged.n > 0, logged.n, 1.0))
    return replace(
        logged,
        n=weight * logged.n,
        sum=weight * logged.sum,
        sum_squares=weight * logged.sum_squares,
        pending=np.zeros_like(logged.pending),
    )


def _sum(buckets: Sequence[ArmTotals]) -> ArmTotals:
    if not buckets:
        raise InvalidInput("needs at least one bucket")
    return reduce(add, buckets)
