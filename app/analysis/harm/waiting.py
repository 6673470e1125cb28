"""The amount of data that an answer needs if the effect stays the same. Pure."""

import math
from typing import Final

from scipy import optimize

from app.analysis.harm.question import Question
from stats import mixture

_FACTOR_MAX: Final = 1e9


def factor_to_answer(
    question: Question,
    worsening: float,
    margin: float,
    *,
    variance: tuple[float, float],
    time: float,
    rhos: tuple[float, float],
) -> float | None:
    """Return about how many times as much data proves harm or safety; None if no amount does."""
    distances = (worsening, margin - worsening)
    levels = (question.worse_level, question.within_level)
    factors = [
        _factor_to(distance, spread, time, level=level, rho=rho)
        for distance, spread, level, rho in zip(distances, variance, levels, rhos, strict=True)
    ]
    return min((factor for factor in factors if factor is not None), default=None)


def _factor_to(distance: float, variance: float, time: float, *, level: float, rho: float) -> float | None:
    """Return how many times as much data brings a bound within this distance of its estimate."""

    def excess(log_factor: float) -> float:
        later = time * math.exp(log_factor)
        limit = float(mixture.boundary(later, alpha=level, rho=rho, alternative="greater"))
        return limit * math.sqrt(variance * time) / later - distance

    farthest = math.log(_FACTOR_MAX)
    if distance <= 0 or excess(farthest) >= 0:
        return None
    return 1.0 if excess(0.0) <= 0 else math.exp(float(optimize.brentq(excess, 0.0, farthest)))
