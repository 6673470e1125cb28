"""Intervals, and the credible interval of a proportion."""

import msgspec
from scipy import special

from stats import checks


class Interval(msgspec.Struct, frozen=True):
    """Bounds in the unit of what they bound."""

    lower: float
    upper: float


def beta_interval(alpha: float, beta: float, *, level: float = 0.95) -> Interval:
    """Return the equal-tailed credible interval of Beta(alpha, beta).

    Each tail holds `(1 - level) / 2`. The interval is a fixed-time statement about a posterior. It
    has no coverage guarantee under repeated looks.

    Worked by hand: Beta(1, 1) is uniform, so its 95 % interval is [0.025, 0.975].

    Raises InvalidInput if alpha or beta is not positive and finite, or level is not in (0, 1).
    """
    checks.positive(alpha, "alpha")
    checks.positive(beta, "beta")
    checks.open_unit(level, "level")
    tail = (1 - level) / 2
    # The upper bound as the complement of the mirrored lower one keeps its digits when it is close
    # to 1.
    lower = float(special.betaincinv(alpha, beta, tail))
    upper = 1 - float(special.betaincinv(beta, alpha, tail))
    return Interval(lower, upper)
