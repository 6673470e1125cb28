"""Greedy choice of the best average, with a part of the traffic set aside for exploration."""

from bandits.allocation import Allocation, greatest, with_floor
from bandits.totals import ArmTotals, FloatArray
from stats import checks


def epsilon_greedy(totals: ArmTotals, *, epsilon: float) -> Allocation:
    """Give 1 - epsilon to the arm with the best average, and split epsilon evenly over all arms.

    Arms without a reward come first and share evenly. Regret grows linearly, at epsilon times the
    mean gap.

    Worked by hand: averages 0.2 and 0.3, epsilon 0.1: shares 0.05 and 0.95.

    Raises InvalidInput if epsilon is not in [0, 1].

    Source: Sutton & Barto (2018), Reinforcement Learning, section 2.2.
    """
    return with_floor(_best_average(totals), epsilon)


def decreasing_epsilon(totals: ArmTotals, *, c: float = 5.0, gap: float) -> Allocation:
    """Explore with epsilon = min(1, c K / (gap^2 t)) after t pulls, including pending ones.

    Regret is logarithmic if `gap` is at most the true gap between the best arm and the next; the
    proof needs c > 5. A gap that is too large may leave the wrong arm in front for very long.

    Worked by hand: two arms, 1,000 pulls, c = 5, gap = 0.2: epsilon = 10 / (0.04 x 1,000) = 0.25.

    Raises InvalidInput if c is not positive or gap not in (0, 1).

    Source: Auer, Cesa-Bianchi & Fischer (2002), Machine Learning 47, figure 3 and theorem 3.
    """
    checks.positive(c, "c")
    checks.open_unit(gap, "gap")
    pulls = float((totals.n + totals.pending).sum())
    epsilon = min(1.0, c * totals.n_arms / (gap**2 * max(pulls, 1.0)))
    return with_floor(_best_average(totals), epsilon)


def _best_average(totals: ArmTotals) -> FloatArray:
    unknown = totals.n == 0
    return greatest(unknown if unknown.any() else totals.mean)
