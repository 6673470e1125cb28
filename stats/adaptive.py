"""Inference on a bandit's arms: the allocation reacted to outcomes, propensities are logged.

The average of an arm is biased then (an arm that started badly is not given the chance to recover),
and its usual interval does not cover. What was logged makes up for it: with propensity e of the arm
and a prediction m made before the period, each assignment, to whichever arm, has the score

    m + [this arm] (reward - m) / e,

whose expectation is the arm's mean, whatever happened before (AIPW). With m = 0 it is IPW.

What has to be kept is one `ArmPeriod` per arm and period (policy version): sums that merge, in
which every event adds what `ArmPeriod.event` says. Per event the *pre-draw propensity of the arm it
was assigned to* is needed; working it out later, from a policy as it was then, is not the same.

Weights (Hadad et al.'s h): "uniform" counts all assignments alike: unbiased, but with a wide and
skewed error where propensities were small. "propensity" weights an assignment with the square root
of the arm's propensity in its period (their constant-allocation scheme): the error is normal in the
limit and smaller, with a small bias in small samples.

For intervals at every look:
* rewards within [0, 1] whose mean does not drift: `stats.bounded.bounded_sequence` of the arm's
  plain totals is exact under any allocation, because its time is the arm's own count.
* normal rewards of known variance: `stats.sequences.normal_sequence` of the arm's mean, in the same
  way.
* `importance_sequence`, exact for rewards within [0, 1] and any propensities, also where the arm's
  mean drifts: it covers the average, over all assignments so far, of what the arm would have given.
* a difference of two arms, which needs no bounds and also holds under drift: `stats.concurrent`.

Sources: Hadad, Hirshberg, Zhan, Wager & Athey (2021), PNAS 118(15), eq. 5, 10 and 18; Howard et al.
(2021), Annals of Statistics 49(2); Waudby-Smith, Wu, Ramdas, Karampatziakis & Mineiro (2022), arXiv
2210.10768, for the lower bound that needs no bound on 1 / e. We depart from Hadad et al. in
predicting by the mean of earlier periods, not observations.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import numpy as np
from scipy import special

from stats import checks
from stats.bounded import gamma_boundary
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Alternative
from stats.interval import Interval
from stats.mixture import tuned
from stats.totals import FloatArray, MeanTotals

Weights = Literal["uniform", "propensity"]
"""How assignments are weighted; see above."""

Scores = Literal["aipw", "ipw"]
"""Whether scores have the arm's earlier mean for a prediction (AIPW), or none (IPW)."""

ESTIMATE_PULLS_MIN: Final = 50
# How far an arm's variance is raised, in relation to 1 / sqrt(its pulls). See `estimates`.
_CAUTION: Final = 3.0
_SAME_SHARE: Final = 1e-9


class ArmPeriod(msgspec.Struct, frozen=True):
    """Sums over the pulls of one arm in a period of constant policy; e is a pull's propensity.

    `assigned` counts assignments to *any* arm, `propensity` is the arm's share in the period, known
    at its start (only `Weights` use it; single propensities may differ by context). Only
    assignments whose reward is known, or will never be (then with the declared default), belong in
    it: leaving out slow rewards of one arm biases every estimator.

    Raises InvalidInput unless all is finite and not negative where it cannot be, propensity in
    (0, 1].
    """

    assigned: int
    propensity: float
    pulls: int = 0
    weight: float = 0.0
    weight_squares: float = 0.0
    reward: float = 0.0
    reward_weight_squares: float = 0.0
    reward_squares: float = 0.0

    def __post_init__(self) -> None:
        checks.positive(self.propensity, "propensity")
        checks.closed_unit(self.propensity, "propensity")
        for name in ("pulls", "weight", "weight_squares", "reward_squares"):
            checks.not_negative(getattr(self, name), name)
        checks.finite(self.reward, "reward")
        checks.finite(self.reward_weight_squares, "reward_weight_squares")
        if self.pulls > self.assigned:
            raise InvalidInput(f"an arm cannot have {self.pulls} of {self.assigned} assignments")

    @classmethod
    def event(cls, reward: float | None, *, propensity: float, share: float) -> "ArmPeriod":
        """Return what one assignment adds to the sums of this arm.

        If the assignment went to another arm, `reward` is None.

        Worked by hand: reward 1 at propensity 1/4 adds weight 4, weight_squares 16, reward 4, the
        others 16.
        """
        if reward is None:
            return cls(1, share)
        checks.positive(propensity, "propensity")
        checks.closed_unit(propensity, "propensity")
        w = 1 / propensity
        return cls(1, share, 1, w, w * w, w * reward, w * w * reward, w * w * reward * reward)

    @classmethod
    def constant(cls, assigned: int, propensity: float, rewards: MeanTotals) -> "ArmPeriod":
        """Return the sums from plain totals if all propensities in the period were the same."""
        checks.positive(propensity, "propensity")
        w, total = 1 / propensity, rewards.n * rewards.mean
        squares = rewards.m2 + total * rewards.mean
        n = rewards.n
        return cls(assigned, propensity, n, n * w, n * w * w, total * w, total * w * w, squares * w * w)

    def __add__(self, other: "ArmPeriod") -> "ArmPeriod":
        """Add assignments of the same period. Raises InvalidInput if the shares differ."""
        if abs(self.propensity - other.propensity) > _SAME_SHARE:
            raise InvalidInput("only sums of the same period can be added")
        return ArmPeriod(
            self.assigned + other.assigned,
            self.propensity,
            self.pulls + other.pulls,
            self.weight + other.weight,
            self.weight_squares + other.weight_squares,
            self.reward + other.reward,
            self.reward_weight_squares + other.reward_weight_squares,
            self.reward_squares + other.reward_squares,
        )


class AdaptiveEstimate(msgspec.Struct, frozen=True):
    """An estimate and its standard error, valid at one planned look under adaptive allocation."""

    value: float
    standard_error: float

    def interval(self, *, alpha: float) -> Interval:
        """Return the normal interval. It is not valid for repeated looks."""
        checks.open_unit(alpha, "alpha")
        distance = -float(special.ndtri(alpha / 2)) * self.standard_error
        return Interval(self.value - distance, self.value + distance)


class ArmArrays(msgspec.Struct, frozen=True):
    """`ArmPeriod`s in time order as arrays of shape (..., periods).

    Other axes are separate histories.
    """

    assigned: FloatArray
    propensity: FloatArray
    pulls: FloatArray
    weight: FloatArray
    weight_squares: FloatArray
    reward: FloatArray
    reward_weight_squares: FloatArray
    reward_squares: FloatArray

    @classmethod
    def of(cls, periods: Sequence[ArmPeriod]) -> "ArmArrays":
        """Return the arrays of records in time order."""
        names = cls.__struct_fields__
        return cls(*(np.array([getattr(p, name) for p in periods], dtype=float) for name in names))

    def prediction(self, first_guess: float, scores: Scores = "aipw") -> FloatArray:
        """Return the arm's weighted mean reward before each period.

        It is `first_guess` while there is no reward, and 0 for IPW. Raises InvalidInput unless
        `first_guess` is finite.
        """
        checks.finite(first_guess, "first_guess")
        if scores == "ipw":
            return np.zeros_like(self.weight)
        weight = np.cumsum(self.weight, axis=-1) - self.weight
        reward = np.cumsum(self.reward, axis=-1) - self.reward
        return np.where(weight > 0, reward / np.where(weight > 0, weight, 1), first_guess)

    def score_sums(self, m: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Sum of the AIPW scores and of their squares in each period, predicting `m`.

        Worked by hand: 2 assignments, one to the arm with reward 1 at propensity 1/2, m = 0.5:
        scores 0.5 and 1.5.
        """
        surplus = self.reward - m * self.weight
        squares = self.reward_squares - 2 * m * self.reward_weight_squares + m**2 * self.weight_squares
        return self.assigned * m + surplus, self.assigned * m**2 + 2 * m * surplus + squares

    def period_weights(self, weights: Weights) -> FloatArray:
        """Return the weight h of an assignment in each period."""
        return np.ones_like(self.propensity) if weights == "uniform" else np.sqrt(self.propensity)


def estimates(
    arm: ArmArrays, *, weights: Weights, first_guess: float, scores: Scores = "aipw"
) -> tuple[FloatArray, FloatArray]:
    """Return the arm's mean and its variance, of shape (...), from arrays (..., periods).

    Q = sum h score / sum h and V = sum h^2 (score - Q)^2 / (sum h)^2 over assignments. We raise V
    by a share 3 / sqrt(pulls). An arm that has not yet seen its rare rewards has too small a V, and
    a bandit pulls that arm seldom. With 2,000 assignments and a rate of 0.1, the correction raises
    the coverage of the difference from 0.925 to 0.936.
    """
    h = arm.period_weights(weights)
    total, squares = arm.score_sums(arm.prediction(first_guess, scores))
    norm = (h * arm.assigned).sum(axis=-1)
    value = (h * total).sum(axis=-1) / norm
    spread = squares - 2 * value[..., None] * total + value[..., None] ** 2 * arm.assigned
    caution = 1 + _CAUTION / np.sqrt(np.maximum(arm.pulls.sum(axis=-1), 1.0))
    return value, np.asarray(caution * (h**2 * spread).sum(axis=-1) / norm**2)


def differences(
    control: ArmArrays,
    treatment: ArmArrays,
    *,
    weights: Weights,
    first_guess: float,
    scores: Scores = "aipw",
) -> tuple[FloatArray, FloatArray]:
    """Return treatment - control and its variance, both of shape (...).

    The variance includes the covariance of their scores.
    """
    value_c, variance_c = estimates(control, weights=weights, first_guess=first_guess, scores=scores)
    value_t, variance_t = estimates(treatment, weights=weights, first_guess=first_guess, scores=scores)
    m_c, m_t = (arm.prediction(first_guess, scores) for arm in (control, treatment))
    # An assignment goes to one arm only, so at most one of its two scores differs from the
    # prediction.
    d_c, d_t = m_c - value_c[..., None], m_t - value_t[..., None]
    surplus_c = control.reward - m_c * control.weight
    surplus_t = treatment.reward - m_t * treatment.weight
    products = control.assigned * d_c * d_t + surplus_c * d_t + surplus_t * d_c
    h_c, h_t = control.period_weights(weights), treatment.period_weights(weights)
    norm = (h_c * control.assigned).sum(axis=-1) * (h_t * treatment.assigned).sum(axis=-1)
    covariance = (h_c * h_t * products).sum(axis=-1) / norm
    return value_t - value_c, np.maximum(variance_c + variance_t - 2 * covariance, 0.0)


def _enough(periods: Sequence[ArmPeriod], pulls_min: int) -> None:
    checks.n_at_least(sum(period.pulls for period in periods), pulls_min, "pulls of the arm")


def _paired(control: Sequence[ArmPeriod], treatment: Sequence[ArmPeriod]) -> tuple[ArmArrays, ArmArrays]:
    if [period.assigned for period in control] != [period.assigned for period in treatment]:
        raise InvalidInput("control and treatment must have the same periods, with the same assignments")
    return ArmArrays.of(control), ArmArrays.of(treatment)


def _estimate(value: FloatArray, variance: FloatArray) -> AdaptiveEstimate:
    if not variance > 0:
        raise InsufficientData("the scores have no spread, so nothing says how sure they make us")
    return AdaptiveEstimate(float(value), math.sqrt(float(variance)))


def adaptive_mean(
    periods: Sequence[ArmPeriod],
    *,
    weights: Weights = "propensity",
    first_guess: float = 0.5,
    scores: Scores = "aipw",
) -> AdaptiveEstimate:
    """Estimate the arm's mean reward from its periods in time order.

    `first_guess` is the reward expected before the first one is observed.

    Worked by hand: one period has 400 assignments, 200 to the arm at propensity 1/2, half of them
    with reward 1. The first guess is 1/2. The scores 1/2, 1/2, 3/2, -1/2 occur in equal parts: mean
    1/2, error sqrt(1/2 / 400 (1 + 3 / sqrt(200))). By IPW the scores are 2, 0, 0, 0: the mean is
    the same, and the error is larger by sqrt(3/2).
    Raises InsufficientData below ESTIMATE_PULLS_MIN pulls, or if the scores have no spread.
    """
    _enough(periods, ESTIMATE_PULLS_MIN)
    return _estimate(
        *estimates(ArmArrays.of(periods), weights=weights, first_guess=first_guess, scores=scores)
    )


def adaptive_difference(
    control: Sequence[ArmPeriod],
    treatment: Sequence[ArmPeriod],
    *,
    weights: Weights = "propensity",
    first_guess: float = 0.5,
    scores: Scores = "aipw",
) -> AdaptiveEstimate:
    """Estimate the treatment's mean reward minus the control's.

    Both arms must have the same periods in time order.

    Raises as `adaptive_mean`; InvalidInput if the periods are not the same.
    """
    _enough(control, ESTIMATE_PULLS_MIN)
    _enough(treatment, ESTIMATE_PULLS_MIN)
    arrays = _paired(control, treatment)
    return _estimate(*differences(*arrays, weights=weights, first_guess=first_guess, scores=scores))


def importance_sequence(
    periods: Sequence[ArmPeriod],
    *,
    alpha: float,
    tuned_to: float,
    expected_variance: float,
    alternative: Alternative = "two-sided",
) -> Interval:
    """Return an exact confidence sequence for an arm whose rewards are within [0, 1].

    It holds for any propensities.

    x = [this arm] reward / e is unbiased and not negative, so it lies at most 1 below any
    prediction in [0, 1]: the empirical-Bernstein bound of `stats.bounded` applies from below with
    scale 1, however small e was. From above the same is done with 1 - reward. `expected_variance`
    is that of x, about (mean of 1 / e) times the mean squared reward; with `tuned_to`, in
    assignments, it only sets where the sequence is tightest.

    Worked by hand: no assignments: [0, 1].
    Raises InvalidInput if the sums do not come from rewards within [0, 1].
    """
    checks.open_unit(alpha, "alpha")
    checks.positive(expected_variance, "expected_variance")
    side = alpha / 2 if alternative == "two-sided" else alpha
    rho = tuned(tuned_to * expected_variance, alpha=side, alternative="greater")
    arm = ArmArrays.of(periods)
    n = float(arm.assigned.sum())
    if not n:
        return Interval(0.0, 1.0)
    slack = 1e-9 * (1 + float(arm.weight_squares.sum()))
    gained, lost = arm.reward, arm.weight - arm.reward
    if min(gained.min(), lost.min(), (arm.reward_weight_squares - arm.reward_squares).min()) < -slack:
        raise InvalidInput("the sums do not come from rewards within [0, 1]")
    lost_squares = arm.weight_squares - 2 * arm.reward_weight_squares + arm.reward_squares
    lower = _lower_bound(gained, arm.reward_squares, arm.assigned, alpha=side, rho=rho)
    upper = 1 - _lower_bound(lost, lost_squares, arm.assigned, alpha=side, rho=rho)
    return Interval(
        0.0 if alternative == "less" else max(lower, 0.0),
        1.0 if alternative == "greater" else min(upper, 1.0),
    )


def _lower_bound(
    x: FloatArray, squares: FloatArray, assigned: FloatArray, *, alpha: float, rho: float
) -> float:
    """Return the lower bound of the mean of importance-weighted values.

    `x` and `squares` are their sums and sums of squares per period.
    """
    seen = np.cumsum(assigned) - assigned
    prediction = np.clip((0.5 + np.cumsum(x) - x) / (1 + seen), 0.0, 1.0)
    deviation = float((squares - 2 * prediction * x + assigned * prediction**2).sum())
    n = float(assigned.sum())
    return (float(x.sum()) - gamma_boundary(max(deviation, 0.0), alpha=alpha, rho=rho)) / n
