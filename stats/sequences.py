"""Confidence sequences for means and their differences: intervals that hold at every look.

A confidence sequence covers the truth at *all* looks at once with probability 1 - alpha. Looking,
stopping early and going on for longer than planned are free. The price is an interval about 1.55
times as wide as the fixed one at the sample size that it is `tuned_to`. That size has to be chosen
before the start.

`normal_sequence` is exact where the variance is known. The others plug in the sample variance and
are asymptotic: they need a burn-in, which is enforced here, not left to the caller. What goes wrong
without it is not the mean but the variance: a small arm that has not yet seen its rare or large
values claims to know its mean too well. Two measures help, both chosen by simulation (see
`benchmarks/calibrate_sequential.py`). First, each arm's variance is shrunk towards that of both
arms together by `SHRINKAGE_UNITS` pseudo-units, and raised if the arms differ in size. Second, no
interval is given before `ARM_UNITS_MIN` units per arm. A single arm has no other arm to borrow from
and needs `MEAN_UNITS_MIN`. For rewards within [0, 1] and proportions there are exact sequences in
`stats.bounded`.

What the guarantee does not cover: allocation that reacts to outcomes (use `stats.adaptive`),
metrics without a variance, and metrics so rare that the burn-in sees hardly any event in either
arm.

Sources: Robbins (1970); Howard et al. (2021), Annals of Statistics 49(2); Waudby-Smith, Arbour,
Sinha, Kennedy & Ramdas (2024), Annals of Statistics 52(6), Theorem 2.2. We depart from the last by
the two measures above, and by measuring time in *effective units* n_c n_t / (n_c + n_t). In this
time the difference of two means is a Brownian motion under any split, also a ramped one.
"""

import math
from typing import Final, assert_never

import msgspec
import numpy as np
import numpy.typing as npt

from stats import checks
from stats.eprocess import EValue
from stats.errors import InsufficientData
from stats.estimate import Alternative
from stats.interval import Interval
from stats.mixture import boundary, log_mixture, tuned
from stats.totals import FloatArray, MeanTotals

ARM_UNITS_MIN: Final = 100
MEAN_UNITS_MIN: Final = 2_000
SHRINKAGE_UNITS: Final = 1_000
# How far variances are raised, in relation to 1 / sqrt(n). See `raised_variance` and
# `shrunk_variances`.
_CAUTION: Final = 10.0
_MIRRORED: Final[dict[Alternative, Alternative]] = {
    "two-sided": "two-sided",
    "greater": "less",
    "less": "greater",
}


def effective_units(control_n: float, treatment_n: float) -> float:
    """Return n_c n_t / (n_c + n_t): the precision of a difference, in units of one arm alone.

    Worked by hand: 1,000 against 1,000 are 500; 950 against 50 are 47.5.
    Raises InvalidInput unless both are positive.
    """
    checks.positive(control_n, "control_n")
    checks.positive(treatment_n, "treatment_n")
    return control_n * (treatment_n / (control_n + treatment_n))


def radius(
    variance: npt.ArrayLike,
    time: npt.ArrayLike,
    *,
    alpha: float,
    tuned_to: float,
    alternative: Alternative = "two-sided",
) -> FloatArray:
    """Return half the width of the normal-mixture sequence of an estimate, elementwise.

    `variance` is that of the estimate at this look; `time` its sample size, in the same measure as
    `tuned_to` (units, or effective units). One-sided: the distance of the one bound.

    Worked by hand: variance 0.01 at time 100, tuned to 821.19, alpha 0.05: rho = 100, and
    0.1 sqrt((100 + 100) / 100 (log 2 + 2 log 20)) = 0.3656.
    """
    rho = tuned(tuned_to, alpha=alpha, alternative=alternative)
    units = np.asarray(time, dtype=float)
    limit = boundary(units, alpha=alpha, rho=rho, alternative=alternative)
    return np.asarray(np.sqrt(variance) * limit / np.sqrt(units))


def around(estimate: float, distance: float, alternative: Alternative) -> Interval:
    """Return the interval at this distance, infinite on a side that is not claimed."""
    match alternative:
        case "two-sided":
            return Interval(estimate - distance, estimate + distance)
        case "greater":
            return Interval(estimate - distance, math.inf)
        case "less":
            return Interval(-math.inf, estimate + distance)
        case _:
            assert_never(alternative)


def normal_sequence(
    estimate: float,
    variance: float,
    *,
    alpha: float,
    tuned_to: float,
    alternative: Alternative = "two-sided",
) -> Interval:
    """Return the sequence around a normal estimate whose variance at this look is *known*.

    It is tightest when that variance has fallen to `tuned_to`. It is exact from the first look, for
    a mean or a difference, with any split that does not react to outcomes.

    Worked by hand: estimate 0 with variance 1 / 100, tuned to 1 / 821.19: 0 -+ 0.3656.
    Raises InvalidInput unless both variances are positive and alpha is in (0, 1).
    """
    checks.finite(estimate, "estimate")
    checks.positive(variance, "variance")
    checks.positive(tuned_to, "tuned_to")
    return around(
        estimate,
        float(radius(variance, 1 / variance, alpha=alpha, tuned_to=1 / tuned_to, alternative=alternative)),
        alternative,
    )


def raised_variance(variance: npt.ArrayLike, n: npt.ArrayLike) -> FloatArray:
    """Return the sample variance of one arm alone, raised by a share 10 / sqrt(n), elementwise.

    With skewed observations a low mean comes with a low variance; 22 % more at 2,000 units make up
    for that in rare events (0.005) and lognormal values (sigma 1.5), and vanish in the long run.

    Worked by hand: 1.1 times the variance at 10,000 units.
    """
    return np.asarray(np.asarray(variance) * (1 + _CAUTION / np.sqrt(n)))


def mean_sequence(
    totals: MeanTotals, *, alpha: float, tuned_to: float, alternative: Alternative = "two-sided"
) -> Interval:
    """Return an asymptotic confidence sequence for a mean, tightest at `tuned_to` units.

    "greater" gives a lower bound, "less" an upper one.
    Raises InsufficientData below MEAN_UNITS_MIN units or without any spread.
    """
    checks.n_at_least(totals.n, MEAN_UNITS_MIN, "units before the sequence is valid")
    if not totals.m2:
        raise InsufficientData("the observations have no spread, so nothing says how sure they make us")
    variance = raised_variance(totals.variance, totals.n) / totals.n
    distance = radius(variance, totals.n, alpha=alpha, tuned_to=tuned_to, alternative=alternative)
    return around(totals.mean, float(distance), alternative)


def shrunk_variances(
    control_n: npt.ArrayLike,
    control_m2: npt.ArrayLike,
    treatment_n: npt.ArrayLike,
    treatment_m2: npt.ArrayLike,
) -> tuple[FloatArray, FloatArray]:
    """Shrink the variances of a unit in control and treatment towards that of both, elementwise.

    The weight of the shrinkage is SHRINKAGE_UNITS units. If the arms differ in size, the variances
    are also raised by 10 / sqrt(n) times |n_c - n_t| / (n_c + n_t): a small arm with twice the rate
    of rare events borrows too small a variance.

    Worked by hand: 1,000 units with m2 0 and 1,000 with m2 1,998: together 1,998 / 1,998 = 1; the
    arms get (0 + 1,000) / 1,999 and (1,998 + 1,000) / 1,999.
    """
    n_c, n_t = np.asarray(control_n, dtype=float), np.asarray(treatment_n, dtype=float)
    m2_c, m2_t = np.asarray(control_m2, dtype=float), np.asarray(treatment_m2, dtype=float)
    borrowed = SHRINKAGE_UNITS * (m2_c + m2_t) / (n_c + n_t - 2)
    # Between arms of one size, skewness cancels out of the difference; the smaller an arm, the less
    # it does.
    imbalance = np.abs(n_c - n_t) / (n_c + n_t)
    of_control = (m2_c + borrowed) / (n_c - 1 + SHRINKAGE_UNITS)
    of_treatment = (m2_t + borrowed) / (n_t - 1 + SHRINKAGE_UNITS)
    return (
        np.asarray(of_control * (1 + _CAUTION * imbalance / np.sqrt(n_c))),
        np.asarray(of_treatment * (1 + _CAUTION * imbalance / np.sqrt(n_t))),
    )


class Contrast(msgspec.Struct, frozen=True):
    """Comparable means of control and treatment, their variances, and the time (precision).

    Make one with `Contrast.of`; a case worked by hand is there.
    """

    control_mean: float
    treatment_mean: float
    control_variance: float
    treatment_variance: float
    time: float

    @classmethod
    def of(cls, *strata: tuple[MeanTotals, MeanTotals]) -> "Contrast":
        """Compare totals (control, treatment) of one period, or of several with different splits.

        Each stratum is weighted by its effective units, so a ramp under a drifting baseline makes
        no difference where there is none within the strata (Simpson's paradox). The sum of
        effective units times difference is a Brownian motion in the sum of effective units. Strata
        in which an arm is empty say nothing and are left out.

        Worked by hand: strata 10 against 10 units with difference 1, and 30 against 30 with
        difference 2, have 5 and 15 effective units, together 20, and difference (5 + 30) / 20 =
        1.75.
        Raises InsufficientData below ARM_UNITS_MIN units in an arm, or if neither arm has any
        spread.
        """
        used = [stratum for stratum in strata if stratum[0].n and stratum[1].n]
        n = [sum(stratum[arm].n for stratum in used) for arm in (0, 1)]
        for units, name in zip(n, ("control", "treatment"), strict=True):
            checks.n_at_least(units, ARM_UNITS_MIN, f"{name} units before the sequence is valid")
        # Within strata, because a spread between them does not add to the error of the difference.
        # Each stratum costs a degree of freedom.
        m2 = [math.fsum(stratum[arm].m2 for stratum in used) for arm in (0, 1)]
        checks.n_at_least(min(n) - len(used), 1, "units beyond one per stratum")
        if not sum(m2):
            raise InsufficientData("the observations have no spread, so nothing says how sure they make us")
        unit_variances = shrunk_variances(n[0] - len(used) + 1, m2[0], n[1] - len(used) + 1, m2[1])
        weights = [effective_units(control.n, treatment.n) for control, treatment in used]
        time = math.fsum(weights)
        means, variances = [], []
        for arm in (0, 1):
            means.append(
                math.fsum(w * stratum[arm].mean for w, stratum in zip(weights, used, strict=True)) / time
            )
            per_unit = math.fsum(
                (w / time) ** 2 / stratum[arm].n for w, stratum in zip(weights, used, strict=True)
            )
            variances.append(float(unit_variances[arm]) * per_unit)
        return cls(means[0], means[1], variances[0], variances[1], time)

    def evalue(
        self, *, rho: float, alternative: Alternative, ratio: float = 1.0, shift: float = 0.0
    ) -> EValue:
        """Return the evidence against treatment = ratio * control + shift.

        One-sided, it is the evidence against all values beyond it.

        It reaches 1 / alpha exactly where the sequence at alpha, tuned by the same rho, excludes
        the null.
        """
        variance = self.treatment_variance + ratio**2 * self.control_variance
        z = (self.treatment_mean - ratio * self.control_mean - shift) / math.sqrt(variance)
        score = z * math.sqrt(self.time)
        return EValue(float(log_mixture(score, self.time, rho=rho, alternative=alternative)))


def difference_sequence(
    contrast: Contrast, *, alpha: float, tuned_to: float, alternative: Alternative = "two-sided"
) -> Interval:
    """Return an asymptotic confidence sequence for mean(treatment) - mean(control).

    It holds under any split.

    `tuned_to` in effective units. Values adjusted for covariates (CUPED) may stand in for the
    observations. Not inferior by a margin: the lower bound of "greater" is above -margin.

    Worked by hand: see `radius`, with the sum of both variances.
    """
    variance = contrast.control_variance + contrast.treatment_variance
    distance = radius(variance, contrast.time, alpha=alpha, tuned_to=tuned_to, alternative=alternative)
    return around(contrast.treatment_mean - contrast.control_mean, float(distance), alternative)


def relative_difference_sequence(
    contrast: Contrast, *, alpha: float, tuned_to: float, alternative: Alternative = "two-sided"
) -> Interval:
    """Return an asymptotic confidence sequence for the relative difference.

    The relative difference is (mean(treatment) - mean(control)) / |mean(control)|. For a positive
    control it is mean(treatment) / mean(control) - 1. The sequence contains all ratios r for which
    the sequence of mean(treatment) - r mean(control) contains 0 (Fieller's argument). With k the
    radius per standard error, the bounds are the roots of (m_t - r m_c)^2 = k^2 (v_t + r^2 v_c).
    With a negative control both means change their sign first, and the bounds change places.

    Worked by hand: if v_c is negligible the bounds are (m_t -+ k sqrt(v_t)) / m_c - 1.
    Raises InsufficientData while the control's mean cannot be distinguished from 0.
    Source: Fieller (1954), JRSS B 16(2), applied to a sequence.
    """
    m_c, m_t = contrast.control_mean, contrast.treatment_mean
    if m_c < 0:
        mirrored = msgspec.structs.replace(contrast, control_mean=-m_c, treatment_mean=-m_t)
        found = relative_difference_sequence(
            mirrored, alpha=alpha, tuned_to=tuned_to, alternative=_MIRRORED[alternative]
        )
        return Interval(-found.upper, -found.lower)
    k = float(radius(1.0, contrast.time, alpha=alpha, tuned_to=tuned_to, alternative=alternative))
    square = m_c**2 - k**2 * contrast.control_variance
    if square <= 0:
        raise InsufficientData("the control's mean cannot yet be told from 0, so nothing is relative to it")
    middle = m_c * m_t / square
    distance = math.sqrt(max(middle**2 - (m_t**2 - k**2 * contrast.treatment_variance) / square, 0.0))
    return around(middle - 1, distance, alternative)


def units_to_tell(
    distance: float, sd: float, *, alpha: float, alternative: Alternative = "two-sided"
) -> float:
    """Return the effective units at which a sequence tuned to them has radius `distance`.

    Use them for `tuned_to`.

    Worked by hand: alpha 0.05 two-sided, distance = sd: y = 9.2119, rho = 1 / 8.2119, so the
    squared radius is y / 8.2119 (log y + 2 log 20) = 9.212: 9.2 effective units, against 3.84 for
    the fixed interval.
    Raises InvalidInput unless distance and sd are positive.
    """
    checks.positive(distance, "distance")
    checks.positive(sd, "sd")
    per_sd = float(radius(1.0, 1.0, alpha=alpha, tuned_to=1.0, alternative=alternative))
    return (per_sd * sd / distance) ** 2
