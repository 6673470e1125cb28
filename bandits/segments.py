"""Segments: arms whose rates differ between declared groups of units, with partial pooling.

The rate of arm k in segment s is drawn from a Beta(mu kappa, (1 - mu) kappa) whose mean is that of
the arm with the effect of the segment on all arms: logit mu = a_k + g_s. Some segments are harder
for everybody: that tells nothing of the arms' order, and should not pass for disagreement about it.
Where segments agree but for that, kappa is large and a thin segment borrows nearly everything from
the others; where they differ, it stands on its own. All of it is learned from the totals of all
arms in all segments.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy import special

from bandits.arms import BetaArms, answers_per_reward
from bandits.totals import ArmTotals, FloatArray
from stats.errors import InvalidInput
from stats.totals import RewardTotals

SEGMENTS_MAX: Final = 1_000

_KAPPA_MIN: Final = 1.0
_LOG_RATIO_MAX: Final = 12.0  # of kappa to the size of segments: they agree for all purposes
_KAPPA_NODES: Final = 41
_MU_STEPS: Final = np.linspace(-9, 9, 41)
_NEWTON_STEPS: Final = 6

_DEVIATIONS: Final = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
"""On the logit scale, of the effects of segments and, apart from them, of each arm in a segment."""
_ARM_PRECISION: Final = 0.25  # of the prior of a_k about the logit of the overall rate
_ROUNDS: Final = 3
_LOGIT_MAX: Final = 25.0
_RESPONSE_MAX: Final = 2.0  # on the logit scale, how far one round of weighted least squares may look


class Pooled(NamedTuple):
    """Arms of every segment, and how strongly the segments of each arm were drawn together.

    `segments[s]` are the arms in segment s. `shrinkage[k]`, in (0, 1), says how far the rate of arm
    k in a segment of medium size is drawn towards its expectation from the arm's rate elsewhere and
    the segment's effect. Near 1 segments agree on the arms; near 0 each stands alone. `effects[s]`,
    on the logit scale, is by how much segment s is kinder to all arms.
    """

    segments: tuple[BetaArms, ...]
    shrinkage: FloatArray
    effects: FloatArray


def partially_pooled(totals: Sequence[Sequence[RewardTotals]]) -> Pooled:
    """Return the posterior rates of each arm in each segment from `totals[segment][arm]`.

    The prior of expit(a_k) is uniform. All arms share kappa. Its prior is that of a uniform
    shrinkage kappa / (kappa + m), cut off at kappa = 1, where m is the mean size of the segments
    that have any rewards, over all arms. Both are integrated out on a grid, so with few segments
    the borrowing itself is uncertain. The result in a segment is a mixture of Betas. It is served
    as the Beta with its mean and variance. The effects of segments are learned first
    (`segment_effects`) and used as if they were known: their uncertainty is common to the arms of a
    segment, which compete with each other. With one arm they cannot be separated from its own
    differences, and are 0. A fractional reward counts for as many answers of yes or no as it is
    worth (`bandits.arms.answers_per_reward`), learned within the segments of its arm together.
    Segments that are served by one allocation need no pooling; the arms of `segments[s]` go to
    `bandits.best.probability_best` or `bandits.allocation.thompson` as they are.

    Worked by hand: without any reward all rates are uniform in expectation: mean 1/2 everywhere.

    Raises InvalidInput if there are no segments or more than SEGMENTS_MAX, they differ in their
    number of arms, or a sum of rewards is not between 0 and n.

    Source: Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., sec. 5.3, for the model;
    Christiansen & Morris (1997), JASA 92(438), for the uniform-shrinkage prior. Theirs, like ours,
    sees the sizes of segments.
    """
    if not 1 <= len(totals) <= SEGMENTS_MAX:
        raise InvalidInput(f"there must be between 1 and {SEGMENTS_MAX} segments, got {len(totals)}")
    n_arms = len(totals[0])
    if not n_arms or any(len(arms) != n_arms for arms in totals):
        raise InvalidInput("every segment must have the same arms, at least one")
    n, rewards, squares = (
        np.array([[getattr(total, name) for total in arms] for arms in totals], dtype=np.float64)
        for name in ("n", "sum", "sum_squares")
    )
    seen = ArmTotals(n, rewards, squares, np.zeros_like(n))
    seen.check_unit_rewards()
    worth = answers_per_reward(seen, alike_over=0)
    n, rewards = worth * n, worth * rewards
    effects = segment_effects(n, rewards)
    alpha, beta, shrinkage = _integrated(n, rewards, effects)
    return Pooled(tuple(map(BetaArms, alpha, beta)), shrinkage, effects)


def segment_effects(n: FloatArray, rewards: FloatArray) -> FloatArray:
    """Return by how much each segment is kinder to all arms, on the logit scale, shape (s,).

    `n` and `rewards`, shapes (s, n_arms), count answers and those of yes. The logit of a rate is
    a_k + g_s + e_sk; g and e are normal with deviations of `_DEVIATIONS`, each pair of them as
    likely as any other before the rewards, and averaged over by its marginal likelihood. The
    likelihood is taken as normal about the current fit, three times. 0 for all if there are fewer
    than two arms or segments.

    Worked by hand: where all arms have the same rate in every segment, all are 0.

    Source: Breslow & Clayton (1993), JASA 88(421), penalised quasi-likelihood; Searle, Casella &
    McCulloch (1992), Variance Components, for the marginal likelihood of the normal model.
    """
    if min(n.shape) < 2:
        return np.zeros(len(n))
    seen = n > 0
    overall = special.logit((rewards.sum() + 0.5) / (n.sum() + 1))
    arms = special.logit((rewards.sum(axis=0) + 0.5) / (n.sum(axis=0) + 1)) - overall
    effects = np.zeros(len(n))
    for _ in range(_ROUNDS):
        fitted = arms + effects[:, None]
        rate = special.expit(np.clip(overall + fitted, -_LOGIT_MAX, _LOGIT_MAX))
        information = rate * (1 - rate)
        residual = (rewards / np.where(seen, n, 1.0) - rate) / information
        response = np.where(seen, fitted + np.clip(residual, -_RESPONSE_MAX, _RESPONSE_MAX), 0.0)
        noise = np.where(seen, 1 / (np.where(seen, n, 1.0) * information), np.inf)
        fits = [_effects_given(response, noise, deviation) for deviation in _DEVIATIONS]
        log_evidence, arms_given, effects_given = (np.concatenate(part) for part in zip(*fits, strict=True))
        weight = special.softmax(log_evidence)
        arms, effects = weight @ arms_given, weight @ effects_given
    return effects


def _effects_given(
    response: FloatArray, noise: FloatArray, deviation: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return log evidence, arms (., k) and effects (., s) for each deviation of effects.

    `response` is a + g + e with a normal error of variance `noise`. Effects are integrated out one
    by one, which leaves the normal equations of the arms.
    """
    weight = 1 / (noise + deviation**2)
    variance = _DEVIATIONS[:, None] ** 2
    total = weight.sum(axis=1)
    spread = variance / (1 + variance * total)  # (., s), what is not known of an effect, given the arms
    matrix = -(weight.T * spread[:, None, :]) @ weight
    diagonal = np.arange(response.shape[1])
    matrix[:, diagonal, diagonal] += weight.sum(axis=0) + _ARM_PRECISION
    weighted = weight * response
    linear = weighted.sum(axis=0) - (spread * weighted.sum(axis=1)) @ weight
    arms = np.linalg.solve(matrix, linear[:, :, None])[:, :, 0]
    square = (weighted * response).sum() - spread @ weighted.sum(axis=1) ** 2 - (linear * arms).sum(axis=1)
    volume = np.log1p(variance * total).sum(axis=1) + np.linalg.slogdet(matrix)[1]
    volume -= np.log(weight, where=weight > 0, out=np.zeros_like(weight)).sum()
    return -0.5 * (square + volume), arms, spread * (weighted.sum(axis=1) - arms @ weight.T)


def _integrated(
    n: FloatArray, rewards: FloatArray, effects: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return alpha and beta, (s, k), and shrinkage, (k,), from a grid over log kappa.

    The grid is moved twice to where its mass is.
    """
    sizes = n.sum(axis=1)
    size = float(sizes[sizes > 0].mean()) if sizes.any() else 1.0
    seen = [n[:, arm] > 0 for arm in range(n.shape[1])]
    rows = [
        (n[segments, arm], rewards[segments, arm], effects[segments]) for arm, segments in enumerate(seen)
    ]
    log_kappa = np.linspace(math.log(_KAPPA_MIN), math.log(size) + _LOG_RATIO_MAX, _KAPPA_NODES)
    for _ in range(2):
        log_kappa = _narrowed(log_kappa, _kappas_given(log_kappa, size, rows)[1])
    given, weight = _kappas_given(log_kappa, size, rows)
    kappa = np.exp(log_kappa)
    strength = np.repeat(kappa, len(_MU_STEPS))[:, None]
    served = []
    for arm, (nodes, shares) in enumerate(given):
        logit = nodes.ravel()[:, None] + effects
        alpha = strength * special.expit(logit) + rewards[:, arm]
        beta = strength * special.expit(-logit) + (n[:, arm] - rewards[:, arm])
        served.append(_as_beta(alpha, beta, (weight[:, None] * shares).ravel()))
    alpha, beta = (np.stack(part, axis=1) for part in zip(*served, strict=True))
    means = np.array(
        [n[segments, arm].mean() if segments.any() else 1.0 for arm, segments in enumerate(seen)]
    )
    return alpha, beta, (kappa / (kappa + means[:, None])) @ weight


def _kappas_given(
    log_kappa: FloatArray, size: float, rows: Sequence[tuple[FloatArray, FloatArray, FloatArray]]
) -> tuple[list[tuple[FloatArray, FloatArray]], FloatArray]:
    """Return nodes of a and their shares for each arm, (kappa, a), and the posterior of kappa.

    Its prior is uniform shrinkage, as a density of log kappa. It is integrated by the trapezoidal
    rule, as its lower end is not a tail.
    """
    log_weight = log_kappa - 2 * np.logaddexp(log_kappa, math.log(size))
    log_weight[[0, -1]] -= math.log(2)
    given = []
    for row in rows:
        nodes, shares, log_likelihood = _rates_given(log_kappa, *row)
        log_weight += log_likelihood
        given.append((nodes, shares))
    return given, special.softmax(log_weight)


def _as_beta(alpha: FloatArray, beta: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the Beta with the mean and variance of each segment's mixture, (nodes, s) to (s,)."""
    mean = alpha / (alpha + beta)
    overall = weight @ mean
    variance = weight @ (mean * (1 - mean) / (alpha + beta + 1) + (mean - overall) ** 2)
    strength = overall * (1 - overall) / variance - 1
    return overall * strength, (1 - overall) * strength


def _narrowed(nodes: FloatArray, weight: FloatArray) -> FloatArray:
    """Spread the nodes over six deviations and a step on each side of the mean, within the grid."""
    mean = float(weight @ nodes)
    reach = 6 * math.sqrt(float(weight @ (nodes - mean) ** 2)) + float(nodes[1] - nodes[0])
    return np.linspace(max(nodes[0], mean - reach), min(nodes[-1], mean + reach), len(nodes))


def _rates_given(
    log_kappa: FloatArray, n: FloatArray, rewards: FloatArray, effects: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return nodes of an arm's a, their shares, (kappa, a), and the log likelihood of each kappa.

    Given kappa a segment tells of a what n kappa / (n + kappa) rewards would: that says where the
    nodes of a are needed, which for a large kappa is a place that no common grid would hit.
    """
    kappa = np.exp(log_kappa)[:, None]
    worth = n * kappa / (n + kappa)
    centre, deviation = _peak(worth, rewards / n, effects)
    logit = centre + deviation * _MU_STEPS
    # The prior, a uniform rate, as a density of the logit.
    log_weight = np.log(special.expit(logit)) + np.log(special.expit(-logit)) + np.log(deviation)
    for count, total, effect in zip(n, rewards, effects, strict=True):
        log_weight += _log_rising(kappa * special.expit(logit + effect), total)
        log_weight += _log_rising(kappa * special.expit(-logit - effect), count - total)
        log_weight -= _log_rising(kappa, count)
    log_likelihood = special.logsumexp(log_weight, axis=1)
    return logit, np.exp(log_weight - log_likelihood[:, None]), log_likelihood


def _peak(worth: FloatArray, rate: FloatArray, effects: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mode and deviation of a's posterior if each segment counts `worth` rewards."""
    rows = worth.sum(axis=1, keepdims=True) + 1
    centre = special.logit(((worth * rate).sum(axis=1, keepdims=True) + 0.5) / rows)
    for _ in range(_NEWTON_STEPS):
        slope = (worth * (rate - special.expit(centre + effects))).sum(axis=1, keepdims=True)
        slope += 0.5 - special.expit(centre)
        centre = centre + np.clip(slope / _information(worth, centre, effects), -1, 1)
    return centre, 1 / np.sqrt(_information(worth, centre, effects))


def _information(worth: FloatArray, centre: FloatArray, effects: FloatArray) -> FloatArray:
    """Return the information about a at `centre`, (kappa, 1), from the segments and the prior."""
    mu, prior = special.expit(centre + effects), special.expit(centre)
    information: FloatArray = (worth * mu * (1 - mu)).sum(axis=1, keepdims=True) + prior * (1 - prior)
    return information


def _log_rising(start: FloatArray, steps: float) -> FloatArray:
    """Return log(Gamma(start + steps) / Gamma(start))."""
    rising: FloatArray = special.gammaln(start + steps) - special.gammaln(start)
    return rising
