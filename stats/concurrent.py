"""Differences between arms under adaptive allocation, from logged propensities.

They are valid under any drift.

Each version of a policy is a randomised experiment of its own time: whatever the level of the
metric is then, an assignment goes to an arm with a known probability. With two arms, e the
probability of the treatment, A whether it was drawn and m any level, each assignment adds

    x = (A - e) (y - m),    with expectation e (1 - e) (mean of the treatment - mean of the control),

both means being those of the moment of the draw. So the sum of x over the sum of e (1 - e)
estimates a weighted average of the difference. Its weights depend on the allocation alone, so
drift, seasons and ramps common to both arms cancel out. The weights are those of Mantel and
Haenszel: near the smallest variance, and bounded, so a small e makes no unit count 1 / e times. The
sum of e (1 - e) is also the sample size in *effective units* n_c n_t / (n_c + n_t), the time in
which `stats.sequences` measures.

What has to be kept are joint totals of (y, 1 / propensity) per stratum and arm. A stratum holds
assignments whose shares are nearly the same (`strata_of_shares`); there are at most 65. Within a
stratum every assignment has its exact 1 / propensity. Only the weight e (1 - e) is common to the
stratum, which costs a little precision. With more than two arms the propensity of the drawn arm
does not give those of the others: strata are periods of time then (`strata_of_ages`).

| measure | how | why |
|---|---|---|
| variance of x | the larger of pooled and separate variances | rare values have not come yet in a small arm |
| burn-in | 100 units in each arm | sums are normal only in the limit |
| few events | `event_sequence`, for values within [0, 1] | no assumption of normality |

Guaranteed: for equal arms, under any drift, error rates stay below alpha (see the validity table).
Not guaranteed: a metric without a variance, and feedback that comes later for one arm than for the
other, until it has come. A treatment effect that changes is averaged with weights that follow the
allocation.

Sources: Robinson (1988), Econometrica 56(4), and Li, Morgan & Zaslavsky (2018), JASA 113(521), for
overlap weights; Hadad et al. (2021), PNAS 118(15), and Bibaut et al. (2021), NeurIPS, for weights
that stabilise the variance (`one_look`); Waudby-Smith et al. (2024), Annals of Statistics 52(6),
for the sequence; Fan, Grama & Liu (2015), Electronic Journal of Probability 20, for
`event_sequence`. We depart from them in estimating the level m from all units of the stratum, by a
part 1 / sqrt(n) of a standard error, and in pooling variances.
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import special

from stats import checks
from stats.adaptive import AdaptiveEstimate
from stats.bounded import gamma_boundary
from stats.errors import InsufficientData, InvalidInput
from stats.interval import Interval
from stats.mixture import tuned
from stats.ratios import ratio_parts
from stats.sequences import Contrast
from stats.totals import FloatArray, JointTotals, MeanTotals

IntArray = npt.NDArray[np.int64]

ARM_UNITS_MIN: Final = 100
EVENTS_MIN: Final = 20.0
"""Effective events from which the sum is taken as normal.

For values within [0, 1] they are the variance of the sum.
"""

SHARE_STRATA: Final = 65
AGE_STRATA: Final = 128
_LOGIT_WIDTH: Final = 0.25
_AGES_PER_DOUBLING: Final = 4
# How many units the level and variance of a whole comparison count for in those of a stratum.
_SHRINKAGE_UNITS: Final = 100
# Within a stratum log-odds differ by at most `_LOGIT_WIDTH`, so shares differ by at most this
# factor.
_SPREAD: Final = math.exp(_LOGIT_WIDTH)


def strata_of_shares(shares: npt.ArrayLike) -> IntArray:
    """Return the strata, 0 to 64, of assignments with these shares of one of two arms.

    The result is elementwise.

    Strata are 1/4 wide in log-odds.

    Worked by hand: 1/2 has log-odds 0: stratum 32. 0.1 has -2.197, which is nearest to -9/4:
    stratum 23.
    Raises InvalidInput unless the shares are in [0, 1].
    """
    values = np.asarray(shares, dtype=float)
    if not ((values >= 0) & (values <= 1)).all():
        raise InvalidInput("shares must be between 0 and 1")
    half = SHARE_STRATA // 2
    places = np.clip(special.logit(values) / _LOGIT_WIDTH, -half, half)
    return np.asarray(half + np.rint(places).astype(np.int64))


def strata_of_ages(ages_s: npt.ArrayLike) -> IntArray:
    """Return the strata, 0 to 127, of assignments of this age in an epoch.

    The age is the time since the start of the epoch. The result is elementwise.

    Shares follow what is known, which grows with the time passed: there are four strata for each
    doubling.

    Worked by hand: 0 s and 1 s are stratum 0, 2 s is 4; a day is 65.
    Raises InvalidInput unless the ages are finite.
    """
    values = np.asarray(ages_s, dtype=float)
    if not np.isfinite(values).all():
        raise InvalidInput("ages must be finite")
    places = np.floor(np.log2(np.maximum(values, 1.0)) * _AGES_PER_DOUBLING)
    return np.asarray(np.minimum(places, AGE_STRATA - 1).astype(np.int64))


class ConcurrentArms(msgspec.Struct, frozen=True):
    """Two arms in one stratum, and `others`: how many units went to further arms meanwhile.

    The totals of an arm are joint totals of (y, 1 / p), p being the probability with which a unit
    was drawn. Make them with `drawn_alike`, or `JointTotals.from_observations`.

    Raises InvalidInput unless the totals have two values.
    """

    control: JointTotals
    treatment: JointTotals
    others: int = 0

    def __post_init__(self) -> None:
        checks.not_negative(self.others, "others")
        for arm in (self.control, self.treatment):
            if arm.dimension != 2:
                raise InvalidInput(f"needs totals of (value, 1 / propensity), got {arm.dimension} values")
            if arm.n and arm.mean[1] < 1:
                raise InvalidInput(f"1 / propensity must be at least 1, got a mean of {arm.mean[1]:g}")


def drawn_alike(totals: MeanTotals | JointTotals, *, propensity: float) -> JointTotals:
    """Return joint totals of (y, 1 / p), or of (values ..., 1 / p).

    All units were drawn with one probability.

    Worked by hand: one unit of 3 at 1/4 has means (3, 4) and no spread.
    """
    checks.positive(propensity, "propensity")
    checks.closed_unit(propensity, "propensity")
    means = (totals.mean,) if isinstance(totals, MeanTotals) else totals.mean
    comoments = (totals.m2,) if isinstance(totals, MeanTotals) else totals.comoments
    if not totals.n:
        return JointTotals.none(len(means) + 1)
    return JointTotals(totals.n, (*means, 1 / propensity), comoments + (0.0,) * (len(means) + 1))


class ArmArrays(msgspec.Struct, frozen=True):
    """Joint totals of (y, 1 / p) as arrays of shape (..., strata).

    Other axes are experiments or looks.

    `mean` and `weight` are the means of y and 1 / p; `m2`, `weighted` and `weight_m2` the
    co-moments.
    """

    n: FloatArray
    mean: FloatArray
    weight: FloatArray
    m2: FloatArray
    weighted: FloatArray
    weight_m2: FloatArray

    @classmethod
    def of(cls, arms: Sequence[JointTotals]) -> "ArmArrays":
        """Return arrays of shape (strata,)."""
        rows = np.array([(arm.n, *arm.mean, *arm.comoments) for arm in arms], dtype=float)
        return cls(*rows.reshape(-1, 6).T)

    def around(self, level: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return sums of (y - level) / p and (y - level)^2, and the mean of 1 / p^2.

        Each has shape (..., strata).
        """
        distance = self.mean - level
        return (
            self.weighted + self.n * self.weight * distance,
            self.m2 + self.n * distance**2,
            self.weight**2 + self.weight_m2 / np.maximum(self.n, 1),
        )


class Weighted(msgspec.Struct, frozen=True):
    """Sums per stratum, of shape (..., strata), from which every estimate of a comparison follows.

    `h` is e (1 - e), or p_c p_t / (p_c + p_t) with more arms; `n` all assignments; `level` m;
    `control` and `treatment` the sums of (y - m) / p; `pooled` the variance of y around m in both
    arms together; `control_squares` and `treatment_squares` the sums of (y - m)^2 / p^2.
    """

    h: FloatArray
    n: FloatArray
    level: FloatArray
    control: FloatArray
    treatment: FloatArray
    pooled: FloatArray
    control_squares: FloatArray
    treatment_squares: FloatArray
    control_share: FloatArray
    treatment_share: FloatArray


def _shares(control: ArmArrays, treatment: ArmArrays, others: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the probability of each arm in each stratum, or 0 if it is not known.

    It is the harmonic mean of the logged probabilities. With two arms, the shares of both follow
    from every unit. With more arms, an arm without units has an unknown share.
    """
    n_c, n_t = control.n, treatment.n
    with np.errstate(divide="ignore", invalid="ignore"):
        p_c = np.where(n_c > 0, 1 / control.weight, 0.0)
        p_t = np.where(n_t > 0, 1 / treatment.weight, 0.0)
        of_two = np.clip((n_t * p_t + n_c * (1 - p_c)) / (n_c + n_t), 0.0, 1.0)
    two = (others == 0) & (n_c + n_t > 0)
    return np.where(two, 1 - of_two, p_c), np.where(two, of_two, p_t)


def weighted(control: ArmArrays, treatment: ArmArrays, others: FloatArray) -> Weighted:
    """Return the sums per stratum; `others` has the shape of the arrays.

    A stratum in which a share is not known has weight 0. Levels and variances of strata are shrunk
    towards those of all units by 100 units.
    """
    p_c, p_t = _shares(control, treatment, others)
    with np.errstate(divide="ignore", invalid="ignore"):
        h = np.where((p_c > 0) & (p_t > 0), p_c * p_t / (p_c + p_t), 0.0)
    n = control.n + treatment.n
    units = np.maximum(n.sum(axis=-1), 1.0)[..., None]
    total = control.n * control.mean + treatment.n * treatment.mean
    everywhere = total.sum(axis=-1)[..., None] / units
    level = (total + _SHRINKAGE_UNITS * everywhere) / (n + _SHRINKAGE_UNITS)
    surplus_c, squares_c, factor_c = control.around(level)
    surplus_t, squares_t, factor_t = treatment.around(level)
    squares = squares_c + squares_t
    pooled = squares + _SHRINKAGE_UNITS * squares.sum(axis=-1)[..., None] / units
    return Weighted(
        h=h,
        n=n + others,
        level=level,
        control=surplus_c,
        treatment=surplus_t,
        pooled=pooled / (n + _SHRINKAGE_UNITS),
        control_squares=squares_c * factor_c,
        treatment_squares=squares_t * factor_t,
        control_share=p_c,
        treatment_share=p_t,
    )


class Moments(msgspec.Struct, frozen=True):
    """A weighted comparison of shape (...): both means, their variances and `information`.

    `information` is the sum of g n.
    """

    control_mean: FloatArray
    treatment_mean: FloatArray
    control_variance: FloatArray
    treatment_variance: FloatArray
    information: FloatArray

    @property
    def difference(self) -> FloatArray:
        """The difference of the means."""
        return np.asarray(self.treatment_mean - self.control_mean)

    @property
    def variance(self) -> FloatArray:
        """The variance of the difference."""
        return np.asarray(self.control_variance + self.treatment_variance)


def moments(found: Weighted, *, stabilised: bool = False) -> Moments:
    """Return both means and their variances.

    The weight of an assignment in a stratum is g = h, or sqrt(h).

    The variance of a difference is the larger of two. The first is the sum of g^2 n pooled
    (1 / p_c + 1 / p_t): before the outcomes all of it is known except one variance for both arms.
    The second is the sum of g^2 (y - m)^2 / p^2 over both arms. The second is far too small if a
    small arm has not yet seen its rare values. The first may be too small if the arms differ in
    spread.
    """
    g = np.sqrt(found.h) if stabilised else found.h
    information = (g * found.n).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        level = (g * found.n * found.level).sum(axis=-1) / information
        means = [
            level + (g * surplus).sum(axis=-1) / information for surplus in (found.control, found.treatment)
        ]
        each = [np.where(share > 0, 1 / share, 0.0) for share in (found.control_share, found.treatment_share)]
        alike = [(g**2 * found.n * found.pooled * one).sum(axis=-1) for one in each]
        apart = [(g**2 * one).sum(axis=-1) for one in (found.control_squares, found.treatment_squares)]
        larger = alike[0] + alike[1] >= apart[0] + apart[1]
        variances = [np.where(larger, a, b) / information**2 for a, b in zip(alike, apart, strict=True)]
    return Moments(means[0], means[1], variances[0], variances[1], information)


def _arrays(strata: Sequence[ConcurrentArms]) -> tuple[ArmArrays, ArmArrays, FloatArray]:
    others = np.array([one.others for one in strata], dtype=float)
    return (
        ArmArrays.of([one.control for one in strata]),
        ArmArrays.of([one.treatment for one in strata]),
        others,
    )


def _checked(strata: Sequence[ConcurrentArms], least: int) -> Weighted:
    """Raise InsufficientData below `least` units in an arm, or where no stratum has both."""
    for name in ("control", "treatment"):
        checks.n_at_least(sum(getattr(one, name).n for one in strata), least, f"{name} units")
    found = weighted(*_arrays(strata))
    if not (found.h * found.n).sum() > 0:
        raise InsufficientData(
            "no period has units of both variants, so nothing was compared at the same time"
        )
    return found


def contrast(strata: Sequence[ConcurrentArms], *, arm_units_min: int = ARM_UNITS_MIN) -> Contrast:
    """Return means and variances for the methods of `stats.sequences`.

    The time is in effective units. A sequence needs `ARM_UNITS_MIN` units in each arm; a forecast
    may do with less.

    Worked by hand: one stratum, shares 1/2, 200 units of control with mean 0 and m2 200, and 200 of
    the treatment with mean 1 and m2 200: h = 1/4, 100 effective units, difference 1. The level is
    1/2 and the pooled variance 1 + 1/4, so the variance of the difference is 1.25 / 100. Raises
    InsufficientData below `arm_units_min` units in an arm, without a stratum that has both, or
    without spread.
    """
    compared = moments(_checked(strata, arm_units_min))
    if not compared.variance > 0:
        raise InsufficientData("the observations have no spread, so nothing says how sure they make us")
    return Contrast(
        float(compared.control_mean),
        float(compared.treatment_mean),
        float(compared.control_variance),
        float(compared.treatment_variance),
        float(compared.information),
    )


def comparable(strata: Sequence[ConcurrentArms]) -> tuple[float, float]:
    """Return the means of control and treatment, weighted alike over strata.

    Raises InsufficientData without a stratum that has both.
    """
    found = moments(_checked(strata, 1))
    return float(found.control_mean), float(found.treatment_mean)


def one_look(strata: Sequence[ConcurrentArms]) -> AdaptiveEstimate:
    """Return the difference for one planned look, weighted by sqrt(e (1 - e)).

    Each assignment then has the same variance, known before its draw, so the error is normal in the
    limit whatever the policy did (Hadad et al., 2021). With weights e (1 - e) it is not: the sample
    size depends on the outcomes. `contrast` is for looking repeatedly.

    Worked by hand: one stratum: the same difference and variance as `contrast`.
    Raises as `contrast`.
    """
    found = moments(_checked(strata, ARM_UNITS_MIN), stabilised=True)
    if not found.variance > 0:
        raise InsufficientData("the observations have no spread, so nothing says how sure they make us")
    return AdaptiveEstimate(float(found.difference), math.sqrt(float(found.variance)))


def few_events(strata: Sequence[ConcurrentArms]) -> bool:
    """Return whether values within [0, 1] need `event_sequence`: below EVENTS_MIN or ARM_UNITS_MIN.

    The variance of the sum of x is about the effective number of events, if these are rare.

    Worked by hand: 100 effective units at a rate of 1/2 have variance 25, at a rate of 0.1 they
    have 9.
    """
    arms = ArmArrays.of([one.control for one in strata]), ArmArrays.of([one.treatment for one in strata])
    if min(arm.n.sum() for arm in arms) < ARM_UNITS_MIN:
        return True
    found = moments(weighted(*_arrays(strata)))
    return not float(found.variance * found.information**2) >= EVENTS_MIN


def event_sequence(strata: Sequence[ConcurrentArms], *, alpha: float, tuned_to: float) -> Interval:
    """Return a confidence sequence for the difference of values within [0, 1].

    It is valid from the first unit on.

    Each x is at least -c, c being the largest of (1 - m) h / p_c and m h / p_t, so the
    empirical-Bernstein supermartingale of `stats.bounded` bounds their sum from above, in units of
    c; from below likewise. `tuned_to`, in effective units, only says where it is tightest.

    Worked by hand: without units, or without a stratum that has both arms: [-1, 1].
    Raises InvalidInput if the sums do not come from values within [0, 1].
    """
    checks.open_unit(alpha, "alpha")
    checks.positive(tuned_to, "tuned_to")
    for arm in (arm for stratum in strata for arm in (stratum.control, stratum.treatment) if arm.n):
        mean = arm.mean[0]
        if not 0 <= mean <= 1 or arm.comoments[0] > arm.n * mean * (1 - mean) * (1 + 1e-9) + 1e-9:
            raise InvalidInput("the totals do not come from values within [0, 1]")
    found = weighted(*_arrays(strata))
    information = float((found.h * found.n).sum())
    if not information > 0:
        return Interval(-1.0, 1.0)
    difference = float((found.h * (found.treatment - found.control)).sum()) / information
    deviation = float((found.h**2 * (found.control_squares + found.treatment_squares)).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        to_c = np.where(found.h > 0, found.h / found.control_share, 0.0) * _SPREAD
        to_t = np.where(found.h > 0, found.h / found.treatment_share, 0.0) * _SPREAD
    falls = float(np.maximum(to_c * (1 - found.level), to_t * found.level).max())
    rises = float(np.maximum(to_t * (1 - found.level), to_c * found.level).max())
    expected = tuned_to * max(deviation / information, 1e-9)
    lower, upper = (
        scale * _distance(deviation / scale**2, expected / scale**2, alpha=alpha / 2) / information
        for scale in (falls, rises)
    )
    return Interval(max(difference - lower, -1.0), min(difference + upper, 1.0))


def _distance(deviation: float, expected: float, *, alpha: float) -> float:
    rho = tuned(expected, alpha=alpha, alternative="greater")
    return gamma_boundary(deviation, alpha=alpha, rho=max(rho, 1e-3))


def linearised(strata: Sequence[tuple[JointTotals, JointTotals, int]]) -> list[ConcurrentArms]:
    """Return strata of a ratio, from joint totals of (numerator, denominator, 1 / p) of both arms.

    With R the ratio of all units together and D their mean denominator, each unit has the value R +
    (numerator - R denominator) / D: the difference of its means is that of the ratios (delta
    method).

    Worked by hand: units (1, 1) and (1, 3): R = 1/2 and D = 2, so they have 1/2 + 1/4 and 1/2 -
    1/4.
    Raises as `stats.ratios.ratio_parts`; InsufficientData without units.
    """
    known = [arm for *arms, _ in strata for arm in arms if arm.n]
    if not known:
        raise InsufficientData("no unit has a value")
    together = JointTotals.merged(known)
    r, d = ratio_parts(together).mean, together.mean[1]
    return [ConcurrentArms(_linear(c, r, d), _linear(t, r, d), others) for c, t, others in strata]


def _linear(totals: JointTotals, r: float, d: float) -> JointTotals:
    if not totals.n:
        return JointTotals.none(2)
    (x, y, w), (xx, yx, yy, wx, wy, ww) = totals.mean, totals.comoments
    spread = max((xx - 2 * r * yx + r * r * yy) / d**2, 0.0)
    return JointTotals(totals.n, (r + (x - r * y) / d, w), (spread, (wx - r * wy) / d, ww))
