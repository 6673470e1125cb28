"""Which arm is best, decided at confidence 1 - delta, at any time and under any allocation.

Against every rival j of the leader i stands an e-process for "mean_j >= mean_i + indifference":

    E_ij = integral of the likelihood of both arms over a prior  /  its greatest value under the hypothesis.

At the true means the first over the likelihood is a non-negative martingale that starts at 1, whatever rule
chooses the arms from the past, and the second is at least the likelihood: so E_ij exceeds (K - 1) / delta
with probability at most delta / (K - 1), ever (Ville). If the arm declared best is not within
`indifference` of the best, then its E against the truly best arm has done so, and the leader is one of K - 1
wrong ones: the error is at most delta in all. The prior costs power, never validity: it expects the arm to be
better, by a gap that may be large or small (`_Prior`), which saved 8 to 20 % of the rewards that Jeffreys'
prior for each arm needs on the four problems of `benchmarks/bandits.py`, where its sizes were chosen.

Likelihoods are Bernoulli's, with which the same holds for any rewards in [0, 1] (r enters as r successes
and 1 - r failures: by convexity each factor has an expectation of at most 1), or normal with known sigma,
with which it holds for rewards that are sigma-sub-Gaussian. It does not cover means that change, nor
feedback that is missing for reasons that have to do with its value.

Source: mixture martingales, Kaufmann & Koolen (2021), JMLR 22(246), section 2; dividing by the greatest
likelihood, Wasserman, Ramdas & Balakrishnan (2020), PNAS 117(29), section 7. This takes the place of the
threshold of Garivier & Kaufmann (2016), COLT, theorem 10.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from scipy import special

from bandits.allocation import Allocation, greatest, with_floor
from bandits.totals import ArmTotals, FloatArray
from bandits.ucb import bernoulli_divergence
from stats import checks
from stats.errors import InvalidInput

_JEFFREYS: Final = 0.5
_CONCENTRATIONS: Final = (8.0, 128.0, 2_048.0)
_SPACING: Final = 1.5
"""Between centres of the prior, in its standard deviations: closer ones add nothing but work."""
_BISECTIONS: Final = 40
_TINY: Final = 1e-300
_LEVELS: Final = 48
_ROUNDS: Final = 4
"""Four grids of 48 levels, each inside one cell of the one before, find a root to 1e-6 of its range."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """The leader so far, and how far the weakest evidence against a rival is from the threshold (logs)."""

    leader: int
    log_evidence: float
    log_threshold: float


@dataclass(frozen=True, slots=True)
class Winner:
    """The arm declared best, after `n` rewards, with the evidence and threshold of that moment (logs)."""

    arm: int
    n: float
    log_evidence: float
    log_threshold: float


Decision = Undecided | Winner


def decide(
    totals: ArmTotals, *, delta: float, indifference: float = 0.0, previous: Decision | None = None
) -> Decision:
    """Whether the best arm is known, for rewards in [0, 1]. Valid at every look, however many.

    A winner stays: pass what was decided before, and a `Winner` comes back as it is. P(an arm ever wins
    whose mean is more than `indifference` below the greatest) <= delta.

    Worked by hand: 10 of 10 against 0 of 10. A quarter of the prior is Jeffreys' for both arms: there each
    arm's integral is B(10.5, 0.5) / B(0.5, 0.5) = 0.17620. The greatest likelihood with equal means is 2^-20.
    So E is at least 0.03105 / 4 x 1,048,576 = 8,138, which is more than 1 / 0.05: the first wins.

    Raises InvalidInput if there are fewer than 2 arms, rewards outside [0, 1], delta not in (0, 1) or
    indifference not in [0, 1).
    """
    totals.check_unit_rewards()
    if not 0 <= indifference < 1:
        raise InvalidInput(f"indifference must be in [0, 1), got {indifference:g}")
    successes, failures = totals.sum, totals.n - totals.sum

    def log_evidence(leader: int) -> FloatArray:
        null = _bernoulli_null(successes[leader], failures[leader], successes, failures, indifference)
        better = _log_marginal(_PRIOR.better, successes[leader], failures[leader])
        worse = _log_marginal(_PRIOR.worse, successes[:, None], failures[:, None])
        evidence: FloatArray = special.logsumexp(_PRIOR.log_weight + better + worse, axis=1) - null
        return evidence

    return _decision(totals, log_evidence, delta=delta, previous=previous)


def decide_normal(
    totals: ArmTotals,
    *,
    delta: float,
    sigma: float,
    prior_mean: float,
    prior_sd: float,
    indifference: float = 0.0,
    previous: Decision | None = None,
) -> Decision:
    """As `decide`, for rewards with standard deviation `sigma` (normal, or sigma-sub-Gaussian).

    `prior_mean` and `prior_sd` say where means are expected: they cost rewards where they are wrong.

    Worked by hand: sigma 1, prior N(0, 1), means 1 and -1 of 16 each, no indifference: each arm's integral
    over its greatest likelihood has the logarithm -ln(17) / 2 - 1 / (2 (1 + 1/16)) = -1.887; the
    hypothesis costs 16 x 16 / 32 x 2^2 / 2 = 16: log E = 16 - 3.774 = 12.226.

    Raises InvalidInput if there are fewer than 2 arms, delta is not in (0, 1), sigma or prior_sd not
    positive, or indifference negative.
    """
    for value, name in ((sigma, "sigma"), (prior_sd, "prior_sd")):
        checks.positive(value, name)
    checks.finite(prior_mean, "prior_mean")
    checks.not_negative(indifference, "indifference")
    n, mean = totals.n, totals.mean
    seen = np.where(n > 0, n, 1.0)
    mixture = -0.5 * np.log1p(n * (prior_sd / sigma) ** 2)
    mixture -= np.where(n > 0, 0.5 * (mean - prior_mean) ** 2 / (prior_sd**2 + sigma**2 / seen), 0.0)

    def log_evidence(leader: int) -> FloatArray:
        pair = n[leader] * n / np.maximum(n[leader] + n, 1.0)
        apart = np.maximum(mean[leader] - mean + indifference, 0.0) / sigma
        evidence: FloatArray = mixture[leader] + mixture + 0.5 * pair * apart**2
        return evidence

    return _decision(totals, log_evidence, delta=delta, previous=previous)


def track_and_stop(totals: ArmTotals, *, exploration_floor: float) -> Allocation:
    """Shares that identify the best of Bernoulli arms with the fewest rewards, at the averages so far.

    Mixed with the floor, which must be positive: it is the forced exploration that corrects wrong averages
    (the paper forces about sqrt(t) pulls of each arm; a floor forces a fixed part). Even shares while an
    arm has no reward. Averages of 0 and 1 are taken with half a success and half a failure added.

    Worked by hand: two arms with means 0.4 and 0.6 are mirror images, so shares are 1/2 and 1/2.

    Raises InvalidInput if exploration_floor is not in (0, 1] or rewards are outside [0, 1].

    Source: Garivier & Kaufmann (2016), COLT, theorem 5 (shares) and section 3.1 (tracking).
    """
    totals.check_unit_rewards()
    if not 0 < exploration_floor <= 1:
        raise InvalidInput(f"exploration_floor must be in (0, 1], got {exploration_floor:g}")
    if (totals.n == 0).any():
        return with_floor(np.full(totals.n_arms, 1 / totals.n_arms), exploration_floor)
    mean = (totals.sum + _JEFFREYS) / (totals.n + 2 * _JEFFREYS)
    return with_floor(optimal_shares(mean), exploration_floor)


def optimal_shares(mean: FloatArray) -> FloatArray:
    """The shares w that make the least of the K - 1 pairs' evidence per reward greatest, shape (n_arms,).

    Of Bernoulli arms with these means, in (0, 1). Several that are best share evenly, and alone.

    Worked by hand: see `track_and_stop`. Agrees with the paper's figures: means (0.5, 0.45, 0.43, 0.4) give
    (0.417, 0.390, 0.136, 0.057); (0.3, 0.21, 0.2, 0.19, 0.18) give (0.336, 0.251, 0.177, 0.132, 0.104).

    Source: Garivier & Kaufmann (2016), theorem 5.
    """
    best = greatest(mean)
    if best.max() < 1:
        return best
    leader, rivals = mean.max(), mean[best == 0]
    if not rivals.size:
        return best
    top = float(bernoulli_divergence(np.array(leader), rivals).min())
    low, high = 0.0, top
    odds = np.zeros_like(rivals)
    for _ in range(_ROUNDS):
        level = np.linspace(low, high, _LEVELS + 2)[1:-1]
        odds, ratio = _odds(leader, rivals, level)
        # The ratio increases with the level from 0 to infinity: the shares are where it is 1.
        cell = int(np.searchsorted(ratio, 1.0))
        odds = odds[min(cell, _LEVELS - 1)]
        low, high = (level[cell - 1] if cell else low), (level[cell] if cell < _LEVELS else high)
    shares = np.empty_like(mean)
    shares[best > 0] = 1.0
    shares[best == 0] = odds
    normalised: FloatArray = shares / shares.sum()
    return normalised


def _decision(
    totals: ArmTotals,
    log_evidence: Callable[[int], FloatArray],
    *,
    delta: float,
    previous: Decision | None,
) -> Decision:
    """The best average leads; it wins once its evidence against every rival reaches the threshold."""
    checks.open_unit(delta, "delta")
    if totals.n_arms < 2:
        raise InvalidInput("needs at least 2 arms")
    if isinstance(previous, Winner):
        return previous
    threshold = math.log((totals.n_arms - 1) / delta)
    leader = int(np.where(totals.n > 0, totals.mean, -np.inf).argmax())
    weakest = float(np.delete(log_evidence(leader), leader).min())
    if weakest >= threshold:
        return Winner(leader, float(totals.n.sum()), weakest, threshold)
    return Undecided(leader, weakest, threshold)


class _Prior(NamedTuple):
    """A mixture of pairs of independent Betas: `better` for the leader, `worse` for its rival.

    A quarter of the weight is on Jeffreys' priors for both, so that no pair of means is lost. A quarter each
    is on gaps of about 2 / sqrt(concentration), spread evenly over levels: in the angle 2 arcsin sqrt(mean),
    in which an average is as precise at every level, centres cover (0, pi), and the arms lie one standard
    deviation above and below. `better` and `worse` hold alpha and beta, shape (2, components).
    """

    better: FloatArray
    worse: FloatArray
    log_weight: FloatArray

    @classmethod
    def of_gaps(cls) -> "_Prior":
        """With the sizes of `_CONCENTRATIONS`."""
        better, worse = [np.full((2, 1), _JEFFREYS)], [np.full((2, 1), _JEFFREYS)]
        for concentration in _CONCENTRATIONS:
            deviation = 1 / math.sqrt(concentration)
            n_centres = math.ceil(math.pi / (_SPACING * deviation))
            centres = (np.arange(n_centres) + 0.5) * math.pi / n_centres
            for side, sign in ((better, 1), (worse, -1)):
                angle = np.clip(centres + sign * deviation, 0, math.pi)
                mean = np.sin(angle / 2) ** 2
                side.append(_JEFFREYS + concentration * np.array((mean, 1 - mean)))
        sizes = [part.shape[1] for part in better]
        log_weight = -np.log(len(sizes)) - np.repeat(np.log(sizes), sizes)
        return cls(np.concatenate(better, axis=1), np.concatenate(worse, axis=1), log_weight)


_PRIOR: Final = _Prior.of_gaps()


def _log_marginal(
    beta: FloatArray, successes: FloatArray | float, failures: FloatArray | float
) -> FloatArray:
    """Of counts under each component, shape (..., components)."""
    marginal: FloatArray = special.betaln(beta[0] + successes, beta[1] + failures) - special.betaln(*beta)
    return marginal


def _bernoulli_null(
    successes: float, failures: float, rival_successes: FloatArray, rival_failures: FloatArray, gap: float
) -> FloatArray:
    """The greatest log likelihood of an arm and each rival with rival mean >= arm mean + gap."""
    n, rival_n = successes + failures, rival_successes + rival_failures
    mean, rival_mean = successes / (n or 1.0), rival_successes / np.where(rival_n > 0, rival_n, 1.0)
    # Where the averages contradict the hypothesis, the likelihood is greatest at its boundary.
    if gap:
        m = _boundary(successes, failures, rival_successes, rival_failures, gap)
    else:
        m = (successes + rival_successes) / np.maximum(n + rival_n, 1.0)
    boundary = _log_likelihood(successes, failures, m)
    boundary = boundary + _log_likelihood(rival_successes, rival_failures, np.minimum(m + gap, 1.0))
    free = _log_likelihood(successes, failures, mean)
    free = free + _log_likelihood(rival_successes, rival_failures, rival_mean)
    inside = (rival_mean >= mean + gap) | (n == 0) | (rival_n == 0)
    null: FloatArray = np.where(inside, free, boundary)
    return null


def _boundary(
    successes: float, failures: float, rival_successes: FloatArray, rival_failures: FloatArray, gap: float
) -> FloatArray:
    """The mean m of the arm at which the likelihood with rival mean m + gap is greatest.

    It is concave in m, and m lies between what the rival's average says of it and its own.
    """
    mean = successes / max(successes + failures, 1.0)
    rival_mean = rival_successes / np.maximum(rival_successes + rival_failures, 1.0)
    low, high = np.clip(rival_mean - gap, 0.0, mean), np.full_like(rival_mean, min(mean, 1 - gap))
    for _ in range(_BISECTIONS):
        m = 0.5 * (low + high)
        up = successes / np.maximum(m, _TINY) + rival_successes / np.maximum(m + gap, _TINY)
        down = failures / np.maximum(1 - m, _TINY) + rival_failures / np.maximum(1 - m - gap, _TINY)
        rising = up > down
        low, high = np.where(rising, m, low), np.where(rising, high, m)
    return 0.5 * (low + high)


def _log_likelihood(
    successes: FloatArray | float, failures: FloatArray | float, p: FloatArray | float
) -> FloatArray:
    value = special.xlogy(successes, p) + special.xlog1py(failures, -np.asarray(p))
    return np.asarray(value, dtype=np.float64)


def _odds(leader: float, rivals: FloatArray, level: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Shares relative to the leader's at levels of evidence (l,), shape (l, rivals), and a sum, (l,).

    The sum is over kl(leader, m) / kl(rival, m) at the mean m of leader and rival with those weights.
    """
    low, high = np.zeros((len(level), len(rivals))), np.ones((len(level), len(rivals)))
    for _ in range(_BISECTIONS):
        weight = 0.5 * (low + high)
        middle = (1 - weight) * leader + weight * rivals
        for_leader = bernoulli_divergence(np.array(leader), middle)
        for_rival = weight / (1 - weight) * bernoulli_divergence(rivals, middle)
        enough = for_leader + for_rival >= level[:, None]
        low, high = np.where(enough, low, weight), np.where(enough, weight, high)
    middle = (1 - high) * leader + high * rivals
    ratio = bernoulli_divergence(np.array(leader), middle) / bernoulli_divergence(rivals, middle)
    return high / (1 - high), ratio.sum(axis=1)
