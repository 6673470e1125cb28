"""Tests whether an arm's mean reward has changed: when to turn forgetting on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bandits.totals import ArmTotals, FloatArray
from stats import checks
from stats.errors import InvalidInput

_JEFFREYS: Final = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """Evidence that each arm's mean changed; arrays of shape (n_arms,).

    `since` is the number of buckets before the most likely change. It has no meaning for an arm
    that did not change.
    """

    changed: NDArray[np.bool_]
    log_evidence: FloatArray
    log_threshold: float
    since: NDArray[np.int_]


def detect(buckets: Sequence[ArmTotals], *, alpha: float) -> Drift:
    """Test whether the mean reward of some arm changed. Buckets of time come oldest first.

    The evidence of an arm is a mixture over the buckets s after which its mean may have changed,
    with weights 1 / (s (s + 1)). It takes the likelihood of two independent means, before and
    after, each integrated over a Jeffreys prior, over the greatest likelihood of one mean. While
    the mean is constant, this is at most a non-negative martingale starting at 1, however the arms
    were chosen. So the probability that some arm is ever called changed, although none has, is at
    most alpha over all looks (Ville; alpha is split evenly over arms). Rewards are in [0, 1].

    An alarm does not repeat: after it, start again with the later buckets. Seasons are changes too.

    Worked by hand: 10 failures, then 10 successes, two buckets: B(0.5, 10.5)^2 / B(0.5, 0.5)^2 =
    0.03105 over 2^-20, times the weight 1/2 of s = 1: 16,277, whose logarithm is 9.70.

    Raises InvalidInput if there is no bucket, rewards are outside [0, 1] or alpha is not in (0, 1).

    Source: a likelihood-ratio scan in the manner of Maillard (2019), ALT; the mixtures, Kaufmann &
    Koolen (2021), JMLR 22(246), section 2; over the greatest likelihood, Wasserman, Ramdas &
    Balakrishnan (2020), PNAS 117(29), section 7.
    """
    checks.open_unit(alpha, "alpha")
    if not buckets:
        raise InvalidInput("needs at least one bucket")
    for bucket in buckets:
        bucket.check_unit_rewards()
    successes = np.cumsum([bucket.sum for bucket in buckets], axis=0)
    failures = np.cumsum([bucket.n - bucket.sum for bucket in buckets], axis=0)
    # Fractional rewards may leave a difference of sums a rounding error below 0.
    after = _log_mixture(np.maximum(successes[-1] - successes, 0.0), np.maximum(failures[-1] - failures, 0.0))
    n = successes[-1] + failures[-1]
    mean = successes[-1] / np.where(n > 0, n, 1.0)
    one_mean = special.xlogy(successes[-1], mean) + special.xlog1py(failures[-1], -mean)
    s = np.arange(1, len(buckets) + 1)
    # A change after the last bucket, or later still, has no rewards yet: those weights add up to 1
    # / s.
    log_weight = -np.log(s) - np.log(np.where(s < len(buckets), s + 1, 1))
    terms = log_weight[:, None] + _log_mixture(successes, failures) + after - one_mean
    log_evidence = special.logsumexp(terms, axis=0)
    log_threshold = float(np.log(len(mean) / alpha))
    return Drift(log_evidence >= log_threshold, log_evidence, log_threshold, s[terms.argmax(axis=0)])


def _log_mixture(successes: FloatArray, failures: FloatArray) -> FloatArray:
    """Return the log of the Bernoulli likelihood integrated over a Jeffreys prior."""
    log_mixture: FloatArray = special.betaln(_JEFFREYS + successes, _JEFFREYS + failures)
    return log_mixture - special.betaln(_JEFFREYS, _JEFFREYS)
