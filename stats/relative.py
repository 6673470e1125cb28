"""Relative differences (treatment - control) / |control|: what "3 % better" may claim.

For a positive control this is treatment / control - 1. Dividing by the size keeps the sign of the
difference for a negative control too: -10.2 against -10 is 2 % less.

The control's mean is itself uncertain, so dividing an interval of the difference by it is too
narrow. When the control's mean is not clearly away from 0 no bounded interval can have its coverage
(Gleser & Hwang 1987), and these methods refuse instead of giving one.
"""

import math

from scipy import optimize, special

from stats import checks
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.interval import Interval
from stats.totals import ProportionTotals


def fieller_interval(treatment: Estimate, control: Estimate, *, alpha: float) -> Interval:
    """Return the interval of (treatment - control) / |control|.

    It is exact for normal means of known variance. It contains all ratios r for which treatment - r
    control is not significantly different from 0. The two estimates are independent.

    Worked by hand: 12 and 10, each with standard error 1, at a quantile of 2. The equation is
    (100 - 4) r^2 - 240 r + 140 = 0, so r = (240 -+ sqrt(240^2 - 4 * 96 * 140)) / 192 = 0.927, 1.573
    and the interval is [-0.073, 0.573].

    With a negative control both values change their sign first, and the bounds change places.

    Raises InsufficientData if the control's own interval contains 0: the set is then unbounded, and
    dividing has no answer at this alpha. Raises InvalidInput if control is 0: a share of it means
    nothing.

    Source: Fieller (1954), Journal of the Royal Statistical Society B 16(2). Degrees of freedom are
    Satterthwaite's at the estimated ratio, which is our approximation.
    """
    checks.open_unit(alpha, "alpha")
    if control.value < 0:
        mirrored = fieller_interval(-treatment, -control, alpha=alpha)
        return Interval(-mirrored.upper, -mirrored.lower)
    if not control.value:
        raise InvalidInput("a difference relative to 0 means nothing: control must not be 0")
    ratio = treatment.value / control.value
    scaled = Estimate.of_independent(
        0.0,
        [
            (treatment.variance, treatment.degrees_of_freedom),
            (ratio**2 * control.variance, control.degrees_of_freedom),
        ],
    )
    square = scaled.quantile(alpha / 2) ** 2
    # In units of the control's mean, so that no scale overflows.
    error, spread = treatment.variance / control.value**2, control.variance / control.value**2
    leading = 1 - square * spread
    if leading <= 0:
        raise InsufficientData(
            "the control is not distinguishable from 0: the relative difference is unbounded"
        )
    root = math.sqrt(max(ratio**2 - leading * (ratio**2 - square * error), 0.0))
    return Interval((ratio - root) / leading - 1, (ratio + root) / leading - 1)


def risk_ratio_interval(treatment: ProportionTotals, control: ProportionTotals, *, alpha: float) -> Interval:
    """Return the score interval of treatment / control - 1 for two proportions.

    It is also right for few successes. It contains all ratios that Pearson's chi-square does not
    reject, with the most likely proportions that have the ratio.

    Worked by hand: 0 of n against 1 of 1 is the ratio 0, so the lower bound is -1.

    Raises InsufficientData if an arm is empty, or the control has no success: there is then no
    upper bound (`stats.proportions.score_interval` still answers).

    Source: Koopman (1984), Biometrics 40(2).
    """
    checks.open_unit(alpha, "alpha")
    checks.n_at_least(min(treatment.n, control.n), 1, "units per arm")
    if not control.successes:
        raise InsufficientData("the control has no success: the relative difference has no upper bound")
    quantile = -float(special.ndtri(alpha / 2))
    # Without a success in the treatment the estimate is 0, whose logarithm is far below any bound.
    successes = treatment.successes or 1e-9
    estimate = math.log(successes / treatment.n) - math.log(control.mean)

    def bound(direction: float) -> float:
        def excess(distance: float) -> float:
            ratio = math.exp(estimate + direction * distance)
            return -direction * _ratio_score(treatment, control, ratio) - quantile

        farthest = 1.0
        while excess(farthest) < 0:
            farthest *= 2
        distance = optimize.brentq(excess, 0.0, farthest, xtol=1e-15, rtol=1e-12)
        return math.expm1(estimate + direction * float(distance))

    return Interval(bound(-1.0) if treatment.successes else -1.0, bound(1.0))


def _ratio_score(treatment: ProportionTotals, control: ProportionTotals, ratio: float) -> float:
    """Return Koopman's standardised distance from the ratio of the arms' proportions."""
    a = (treatment.n + control.n) * ratio
    b = ratio * (treatment.n + control.successes) + treatment.successes + control.n
    c = treatment.successes + control.successes
    # The smaller root of a q^2 - b q + c, in the form that loses no digits.
    q = min(2 * c / (b + math.sqrt(max(b * b - 4 * a * c, 0.0))), 1.0)
    p = min(ratio * q, 1.0)
    ours, theirs = treatment.successes - treatment.n * p, control.successes - control.n * q
    square = 0.0
    for residual, n, share in ((ours, treatment.n, p), (theirs, control.n, q)):
        if residual:
            spread = n * share * (1 - share)
            square += residual**2 / spread if spread > 0 else 0.0
    return math.copysign(math.sqrt(square), ours - theirs)
