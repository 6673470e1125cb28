"""Thompson sampling as probability matching: shares are exact probabilities of being best."""

from typing import Final

import numpy as np

from bandits.allocation import Allocation, with_floor
from bandits.arms import Arms
from bandits.best import probability_best, probability_best_optimistic
from bandits.totals import FloatArray
from stats import checks

# What the quadrature leaves in doubt: of smaller probabilities the order of the runners-up is not
# known.
_RESOLUTION: Final = 1e-9

DEFAULT_SAMPLING: Final = 0.9
"""Chosen on environments A, B and C of `benchmarks/bandits.py`: less loses more when luck is bad.
"""


def thompson(arms: Arms, *, exploration_floor: float) -> Allocation:
    """Serve each arm with the probability that it is best: Thompson sampling.

    `exploration_floor` (eps) keeps every arm observed: shares are (1 - eps) P(best) + eps / n_arms.
    With eps = 0 drawing from the shares is Thompson sampling itself, its propensities known. What
    is proved about Thompson sampling (logarithmic regret) assumes eps = 0 and an update after every
    reward; with a floor, regret grows linearly at eps times the mean gap.

    Worked by hand: two equal arms get 1/2 each; an arm that is certainly best gets 1 - eps / 2.

    Raises ValueError if exploration_floor is not in [0, 1].

    Source: Thompson (1933), Biometrika 25(3/4); Russo et al. (2018), A Tutorial on Thompson
    Sampling.
    """
    return with_floor(probability_best(arms), exploration_floor)


def optimistic_thompson(
    arms: Arms, *, sampling: float = DEFAULT_SAMPLING, exploration_floor: float
) -> Allocation:
    """Serve by optimistic Thompson sampling.

    An arm counts as its mean, or as a draw if that is greater.

    A draw below the mean explores nothing, it only makes an arm look worse than it is known to be.
    And each arm draws with probability `sampling` only, else its mean stands, which explores less.
    Shares are the exact probabilities to come out best. With sampling = 1 this is optimistic
    Bayesian sampling.

    `benchmarks/bandits.py` measures in batches of 100. Mean regret is 0.91, 0.94 and 0.93 of
    Thompson sampling's on environments A, B and C. It is 0.91, 0.92 and 0.91 on D, E and F, which
    were not used to choose `sampling`. The 95th percentile is no worse within its error, but the
    99th is up to 1.4 times as large on A and C. No regret bound is proved for the two ideas
    together.

    Worked by hand: a uniform arm against one known to be 0.6: draws exceed 0.6 with probability
    0.4; the first gets 0.4 x sampling.

    Raises InvalidInput if sampling is not in (0, 1] or exploration_floor not in [0, 1].

    Source: May, Korda, Lee & Leslie (2012), JMLR 13, section 3.2 (optimism); Jin, Yang, Xiao & Xu
    (2023), ICML, Thompson Sampling with Less Exploration is Fast and Optimal (drawing with a
    probability).
    """
    return with_floor(probability_best_optimistic(arms, sampling), exploration_floor)


def top_two(arms: Arms, *, leader_share: float = 0.5, exploration_floor: float) -> Allocation:
    """Serve by top-two Thompson sampling, which identifies the best arm faster than it earns.

    A draw from the posterior names a leader; with probability `leader_share` (beta) that arm is
    pulled, else draws are repeated until another arm comes out best, and that one is pulled. With a
    = P(best) the probability to pull arm i is therefore exactly

        a_i (beta + (1 - beta) sum over j != i of a_j / (1 - a_j)).

    Allocations converge to the best among those that spend `leader_share` on the best arm; as a
    policy for earning it never stops exploring. Once an arm is best up to 1e-9, quadrature can no
    longer tell the proportions of the others, and they share evenly.

    Worked by hand: a = (1/2, 1/4, 1/4), beta = 1/2: the first gets 1/2 (1/2 + 1/2 (1/3 + 1/3)) =
    5/12.

    Raises InvalidInput if leader_share is not in (0, 1) or exploration_floor not in [0, 1].

    Source: Russo (2016), Simple Bayesian Algorithms for Best Arm Identification, section 3.3
    (TTTS).
    """
    checks.open_unit(leader_share, "leader_share")
    best = probability_best(arms)
    if len(best) == 1:
        return with_floor(best, exploration_floor)
    best = np.maximum(best, _RESOLUTION)
    # 1 - a_j as the sum of the others keeps its digits when a_j is close to 1.
    others = best.sum() - best
    top = best.argmax()
    others[top] = np.delete(best, top).sum()
    odds = best / others
    shares: FloatArray = best * (leader_share + (1 - leader_share) * (odds.sum() - odds))
    shares[top] = best[top] * (leader_share + (1 - leader_share) * np.delete(odds, top).sum())
    return with_floor(shares / shares.sum(), exploration_floor)
