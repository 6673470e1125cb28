"""Tails: logarithms of probabilities that are far too small for a double, and quantiles of counts.

scipy's distributions give log(0) = -inf below about 1e-308. A p-value of a large experiment gets
there, and two such results must still be ordered, combined and shown. Where scipy's own value is
not tiny it is used.
"""

import math
from bisect import bisect_left
from typing import Final

from scipy import special

_TINY: Final = 1e-280
_ITERATIONS_MAX: Final = 100_000


def log_normal_upper(z: float) -> float:
    """Return the logarithm of P(Z > z) of a standard normal."""
    return float(special.log_ndtr(-z))


def log_student_upper(t: float, degrees_of_freedom: float) -> float:
    """Return the logarithm of P(T > t) of Student's t; infinite degrees of freedom are the normal.

    For t > 0 it is half an incomplete beta function: P(T > t) = I_x(v/2, 1/2) / 2 with x = v /
    (v + t^2).
    """
    if math.isinf(degrees_of_freedom):
        return log_normal_upper(t)
    if t <= 0:
        return math.log(special.stdtr(degrees_of_freedom, -t))
    half = degrees_of_freedom / 2
    square = t * t / degrees_of_freedom
    return math.log(0.5) + log_beta_lower(half, 0.5, 1 / (1 + square), square / (1 + square))


def binomial_quantile(probability: float, n: int, p: float) -> int:
    """Return the smallest k with P(X <= k) >= probability of a Binomial(n, p), n at least 1.

    Worked by hand: of 10 throws of a coin 1 or fewer are heads with probability 11 / 1024, 2 or
    fewer with 56 / 1024: the quantile of 0.025 is 2.
    """
    return bisect_left(range(n), probability, key=lambda k: float(special.betaincc(k + 1, n - k, p)))


def binomial_upper_quantile(probability: float, n: int, p: float) -> int:
    """Return the smallest k with P(X > k) <= probability: with all digits of a small probability.

    Worked by hand: of 10 throws of a coin more than 8 are heads with probability 11 / 1024, more
    than 7 with 56 / 1024: the upper quantile of 0.025 is 8.
    """
    return bisect_left(range(n), -probability, key=lambda k: -float(special.betainc(k + 1, n - k, p)))


def log_chi_square_upper(x: float, degrees_of_freedom: float) -> float:
    """Return the logarithm of P(X > x) of a chi-square distribution.

    Where scipy's value underflows: the continued fraction of NIST DLMF 8.9.2, by Lentz's method.
    """
    a, half = degrees_of_freedom / 2, x / 2
    plain = float(special.gammaincc(a, half))
    if plain > _TINY:
        return math.log(plain)
    base = half + 1 - a
    value = upper = base
    lower = 0.0
    for step in range(1, _ITERATIONS_MAX):
        term, base = step * (a - step), base + 2
        lower = 1 / (base + term * lower)
        upper = base + term / upper
        value *= upper * lower
        if abs(upper * lower - 1) < 1e-15:
            break
    return a * math.log(half) - half - float(special.gammaln(a)) - math.log(value)


def log_f_upper(x: float, numerator: float, denominator: float) -> float:
    """Return log P(X > x) of an F distribution with these degrees of freedom, x >= 0."""
    if not x:
        return 0.0
    ratio = numerator / denominator * x
    return log_beta_lower(denominator / 2, numerator / 2, 1 / (1 + ratio), ratio / (1 + ratio))


def log_beta_lower(a: float, b: float, x: float, complement: float) -> float:
    """Return the logarithm of I_x(a, b), the lower tail of Beta(a, b) at x in (0, 1).

    `complement` is 1 - x with all its digits.

    Where scipy's value underflows: the continued fraction of NIST DLMF 8.17.22, evaluated by
    Lentz's method. It converges fast where x is well below the mean a / (a + b), and only there can
    the tail be so small.
    """
    below = special.betainc(a, b, x) if x < complement else special.betaincc(b, a, complement)
    plain = float(below)
    if plain > _TINY:
        return math.log(plain)
    front = a * math.log(x) + b * math.log(complement) - float(special.betaln(a, b)) - math.log(a)
    return front - math.log(_beta_fraction(a, b, x))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Return 1 + d_1 / (1 + d_2 / (1 + ...)), which divides the leading factor.

    d_2m = m (b-m) x / ((a+2m-1)(a+2m)) and d_2m+1 = -(a+m)(a+b+m) x / ((a+2m)(a+2m+1)).
    """
    value = upper = 1.0
    lower = 0.0
    for step in range(1, _ITERATIONS_MAX):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        lower = 1 / (1 + term * lower)
        upper = 1 + term / upper
        change = upper * lower
        value *= change
        if abs(change - 1) < 1e-15:
            break
    return value
