"""Sample size, duration, power and detectable effect before an experiment starts.

An `Outcome` says how much units vary; a `Plan` how they are compared. The same plan answers for
units given an effect and power, for power given units, for the effect given both, and for weeks
given traffic. All are normal approximations of the tests in `stats.proportions` (score),
`stats.means` (Welch) and `stats.ratios`, checked by simulation.
"""

import math
from typing import Final, assert_never

import msgspec
from scipy import optimize, special

from stats import checks
from stats.errors import InvalidInput
from stats.proportions import restricted_proportions

UNITS_PER_DAY_MIN: Final = 10_000
"""Below it most effects that products make are out of reach of a test per unit within weeks."""

_UNITS_MAX: Final = 1e15
_ROUNDING: Final = 1e-11
"""How far a root may be off, relatively: not rounded up to one more unit."""


class ProportionOutcome(msgspec.Struct, frozen=True):
    """An outcome that succeeds with probability `baseline` under control.

    Raises InvalidInput unless `baseline` is in (0, 1).
    """

    baseline: float

    def __post_init__(self) -> None:
        checks.open_unit(self.baseline, "baseline")


class MeanOutcome(msgspec.Struct, frozen=True):
    """A number per unit with this standard deviation in both arms.

    Raises InvalidInput unless it is positive.
    """

    sd: float

    def __post_init__(self) -> None:
        checks.positive(self.sd, "sd")


class RatioOutcome(msgspec.Struct, frozen=True):
    """Numerator and denominator per unit, in mean, sd and correlation: what the delta method needs.

    Raises InvalidInput unless the denominator's mean and sds are positive, and correlation is in
    [-1, 1].
    """

    numerator_mean: float
    denominator_mean: float
    numerator_sd: float
    denominator_sd: float
    correlation: float

    def __post_init__(self) -> None:
        checks.finite(self.numerator_mean, "numerator_mean")
        checks.positive(self.denominator_mean, "denominator_mean")
        checks.positive(self.numerator_sd, "numerator_sd")
        checks.not_negative(self.denominator_sd, "denominator_sd")
        checks.closed_unit((self.correlation + 1) / 2, "(correlation + 1) / 2")

    @property
    def sd(self) -> float:
        """Standard deviation that one unit contributes to the error of the ratio.

        sqrt(var x - 2 R cov + R^2 var y) / mean y. Worked by hand: means 1 and 2, sds 1 and 1,
        correlation 0.5: R = 0.5, so sqrt(1 - 0.5 + 0.25) / 2 = 0.433.
        """
        ratio = self.numerator_mean / self.denominator_mean
        covariance = self.correlation * self.numerator_sd * self.denominator_sd
        variance = self.numerator_sd**2 - 2 * ratio * covariance + (ratio * self.denominator_sd) ** 2
        if variance <= 0:
            raise InvalidInput("a ratio that is the same for every unit needs no experiment")
        return math.sqrt(variance) / self.denominator_mean


Outcome = ProportionOutcome | MeanOutcome | RatioOutcome


class Plan(msgspec.Struct, frozen=True):
    """A plan to compare variants with the control, at a fixed horizon or sequentially.

    * `allocation`: share of each variant, control first, summing to 1. Each other variant is
      compared with the control, with Bonferroni's correction for their number. The smallest share
      decides.
    * `margin`: 0 is a two-sided test of a difference. A positive margin is one-sided
      non-inferiority: treatment - control is above -margin. Effects are then the true ones, usually
      0.
    * `inflation`: largest ratio of the units of the sequential design to those of a fixed test of
      the same alpha and power. It is 1 for a fixed test, about 1.03 for O'Brien-Fleming and 1.23
      for Pocock with 5 looks.
    * `variance_reduction`: share of variance that covariates remove, in [0, 1). For a proportion it
      applies to the adjusted difference.
    * `pair_correlation`: correlation, in (-1, 1), of the outcomes of one unit under two variants.
      None: each unit gets one variant. Otherwise the design is paired: each unit gets all of them,
      and the shares of the allocation have no effect.

    Raises InvalidInput for what is out of these ranges.
    """

    outcome: Outcome
    alpha: float
    power: float
    allocation: tuple[float, ...] = (0.5, 0.5)
    margin: float = 0.0
    inflation: float = 1.0
    variance_reduction: float = 0.0
    pair_correlation: float | None = None

    def __post_init__(self) -> None:
        checks.open_unit(self.alpha, "alpha")
        checks.open_unit(self.power, "power")
        if self.power <= self.alpha:
            raise InvalidInput(f"power must be above alpha, got {self.power:g} and {self.alpha:g}")
        for share in self.allocation:
            checks.open_unit(share, "a share of the allocation")
        if len(self.allocation) < 2 or abs(sum(self.allocation) - 1) > 1e-9:
            raise InvalidInput(f"allocation must have at least 2 shares that sum to 1, got {self.allocation}")
        checks.not_negative(self.margin, "margin")
        if not 1 <= self.inflation < math.inf:
            raise InvalidInput(f"inflation must be at least 1, got {self.inflation:g}")
        if not 0 <= self.variance_reduction < 1:
            raise InvalidInput(f"variance_reduction must be in [0, 1), got {self.variance_reduction:g}")
        if self.pair_correlation is not None and not -1 < self.pair_correlation < 1:
            raise InvalidInput(f"pair_correlation must be in (-1, 1), got {self.pair_correlation:g}")

    @property
    def comparisons(self) -> int:
        """Number of variants that are compared with the control."""
        return len(self.allocation) - 1


class Sample(msgspec.Struct, frozen=True):
    """Units of all variants together, and of each in the order of the allocation; rounded up.

    In a paired design each unit counts for all variants, and once in the total.
    """

    total: int
    per_variant: tuple[int, ...]


def sample_size(plan: Plan, effect: float) -> Sample:
    """Return the fewest units that detect the absolute `effect` with the plan's power.

    The effect is treatment - control.

    Worked by hand: 10 % against 11 %, alpha 0.05, power 0.8: (1.960 sqrt(2 * 0.105 * 0.895) + 0.842
    sqrt(0.09 + 0.0979))^2 / 0.01^2 = 14,751 per variant. One hundredth of an sd: 2 *
    (1.960 + 0.842)^2 / 0.01^2 = 156,978. The same as pairs with correlation 0.5: 2 (1 - 0.5)
    (1.960 + 0.842)^2 / 0.01^2 = 78,489 pairs.

    Raises InvalidInput if the effect leads outside [0, 1], or there is nothing to find: effect 0
    without a margin, or an effect at or below -margin; or more than 1e15 units would be needed.

    Source: Fleiss, Levin & Paik (2003), Statistical Methods for Rates and Proportions, eq. 4.14;
    Farrington & Manning (1990), Statistics in Medicine 9, for margins; Miettinen (1968), Biometrics
    24(2), for the power of McNemar's test of pairs.
    """
    _check_effect(plan, effect)
    least = _fixed_units(plan, effect)
    total = least * plan.inflation * (1 - _ROUNDING)
    if plan.pair_correlation is not None:
        pairs = max(math.ceil(total - 1e-6), 1)
        return Sample(pairs, (pairs,) * len(plan.allocation))
    per_variant = tuple(max(math.ceil(total * share - 1e-6), 1) for share in plan.allocation)
    return Sample(sum(per_variant), per_variant)


def power(plan: Plan, effect: float, units: float) -> float:
    """Return the probability of detecting `effect` with `units` of all variants together.

    It does not depend on `plan.power`. It is that of the comparison with the smallest share.
    Two-sided power counts both tails. Sequential designs have the power of a fixed test with
    units / inflation.

    Worked by hand: with 0 effect and no margin it is alpha.

    Raises InvalidInput unless units is positive and the effect stays inside [0, 1] for proportions.
    """
    checks.positive(units, "units")
    if effect or plan.margin:
        _check_proportion(plan, effect)
        return _power(plan, effect, units / plan.inflation)
    return plan.alpha / plan.comparisons


def minimum_detectable_effect(plan: Plan, units: float) -> float:
    """Return the smallest improvement that `units` of all variants detect with the plan's power.

    It is positive without a margin. With a margin it may be negative: it is the smallest true
    effect that is still shown not to be inferior. Raises InvalidInput if not even the largest
    possible effect would be found.
    """
    checks.positive(units, "units")
    fixed = units / plan.inflation
    match plan.outcome:
        case ProportionOutcome(baseline):
            highest = (1 - baseline) * (1 - 1e-9)
        case MeanOutcome() | RatioOutcome():
            highest = plan.outcome.sd
            while _power(plan, highest, fixed) < plan.power:
                highest *= 2
        case _:
            assert_never(plan.outcome)
    lowest = -plan.margin
    if isinstance(plan.outcome, ProportionOutcome):
        lowest = max(lowest, -plan.outcome.baseline * (1 - 1e-9))

    def missing(effect: float) -> float:
        return _power(plan, effect, fixed) - plan.power

    if missing(highest) < 0:
        raise InvalidInput(f"{units:g} units do not find even the largest possible effect")
    if missing(lowest) >= 0:
        return lowest
    return float(optimize.brentq(missing, lowest, highest, xtol=1e-300, rtol=1e-14, maxiter=500))


class Feasible(msgspec.Struct, frozen=True, tag="feasible"):
    """An experiment that fits the traffic.

    `weeks` are whole, so that every weekday counts equally. `days` is 7 times `weeks`.
    """

    sample: Sample
    weeks: int
    days: int


class TrafficTooLow(msgspec.Struct, frozen=True, tag="traffic_too_low"):
    """The experiment does not fit into the weeks allowed, or only by waiting long.

    `weeks` is what it would take; `detectable` the effect that the weeks allowed would find, None
    if none; `advice` says what to do instead, in sentences.
    """

    sample: Sample
    weeks: int
    detectable: float | None
    advice: tuple[str, ...]


def duration(
    plan: Plan,
    effect: float,
    *,
    units_per_day: float,
    exposure_share: float = 1.0,
    weeks_max: int = 8,
    relative_to: float | None = None,
) -> Feasible | TrafficTooLow:
    """Return how many whole weeks the units take.

    `exposure_share` of `units_per_day` *new* units enter. Units that come back are not new: give
    distinct units per day of a week's count, or the weeks are too few. With `relative_to` the
    advice gives effects as a share of it.

    Worked by hand: 2 * 14,751 units, and 80 % of 5,000 a day enter: 29,502 / 4,000 = 7.4 days, 2
    weeks.

    Raises InvalidInput as `sample_size`, or unless units_per_day is positive, exposure_share in
    (0, 1], weeks_max >= 1.
    """
    checks.positive(units_per_day, "units_per_day")
    checks.closed_unit(exposure_share, "exposure_share")
    checks.positive(exposure_share, "exposure_share")
    if weeks_max < 1:
        raise InvalidInput(f"weeks_max must be at least 1, got {weeks_max}")
    sample = sample_size(plan, effect)
    per_week = 7 * units_per_day * exposure_share
    weeks = max(1, math.ceil(sample.total / per_week - 1e-9))
    if weeks <= weeks_max:
        return Feasible(sample, weeks, 7 * weeks)
    try:
        detectable = minimum_detectable_effect(plan, weeks_max * per_week)
    except InvalidInput:
        detectable = None
    shown = None if detectable is None else f"{detectable:.3g}"
    if detectable is not None and relative_to:
        shown = f"{detectable / abs(relative_to):.3%} of the baseline"
    return TrafficTooLow(sample, weeks, detectable, _advice(plan, units_per_day, exposure_share, shown))


def _advice(
    plan: Plan, units_per_day: float, exposure_share: float, detectable: str | None
) -> tuple[str, ...]:
    advice = []
    if units_per_day < UNITS_PER_DAY_MIN:
        advice.append(
            f"{units_per_day:g} units a day are few for a test per unit (from {UNITS_PER_DAY_MIN:,} on): "
            "evaluate offline in weekly batches, with a judge and a few human labels."
        )
        advice.append(
            "Compare both variants on the same inputs: paired differences vary far less than units."
        )
    if detectable is not None:
        advice.append(f"In the weeks allowed an effect of {detectable} could be found: test bolder changes.")
    if exposure_share < 1:
        advice.append("Let more of the traffic into the experiment.")
    if plan.comparisons > 1:
        advice.append("Test fewer variants at a time.")
    if not plan.variance_reduction:
        advice.append("Use covariates from before the exposure, or a metric that varies less.")
    return tuple(advice)


def _check_effect(plan: Plan, effect: float) -> None:
    _check_proportion(plan, effect)
    if plan.margin and effect <= -plan.margin:
        raise InvalidInput(f"an effect of {effect:g} is inferior by the margin {plan.margin:g}")
    if not plan.margin and not effect:
        raise InvalidInput("an effect of 0 cannot be found: give an effect, or a margin for non-inferiority")


def _check_proportion(plan: Plan, effect: float) -> None:
    checks.finite(effect, "effect")
    if not isinstance(plan.outcome, ProportionOutcome):
        return
    baseline, treated = plan.outcome.baseline, plan.outcome.baseline + effect
    if not 0 <= treated <= 1:
        raise InvalidInput(f"baseline + effect must be in [0, 1], got {treated:g}")
    if plan.pair_correlation is not None:
        spread = math.sqrt(baseline * (1 - baseline) * treated * (1 - treated))
        both = baseline * treated + plan.pair_correlation * spread
        if not max(0.0, baseline + treated - 1) - _ROUNDING <= both <= min(baseline, treated) + _ROUNDING:
            raise InvalidInput(
                f"pair_correlation must be possible for rates of {baseline:g} and {treated:g}, "
                f"got {plan.pair_correlation:g}"
            )


def _fixed_units(plan: Plan, effect: float) -> float:
    """Return the real number of units at which the power is reached exactly by a fixed test."""

    def missing(log_units: float) -> float:
        return _power(plan, effect, math.exp(log_units)) - plan.power

    highest = math.log(_UNITS_MAX)
    if missing(highest) < 0:
        raise InvalidInput(f"an effect of {effect:g} would need more than {_UNITS_MAX:g} units")
    lowest = math.log(1e-9)
    if missing(lowest) >= 0:
        return math.exp(lowest)  # an effect so large that any unit shows it
    return math.exp(float(optimize.brentq(missing, lowest, highest, xtol=1e-14, rtol=1e-14)))


def _power(plan: Plan, effect: float, units: float) -> float:
    """Return the power of a fixed test for the comparison with the smallest share."""
    control = units * plan.allocation[0]
    treatment = units * min(plan.allocation[1:])
    null_error, error = _errors(plan, effect, treatment, control)
    alpha = plan.alpha / plan.comparisons
    if plan.margin:
        critical = -float(special.ndtri(alpha)) * null_error
        return float(special.ndtr((effect + plan.margin - critical) / error))
    critical = -float(special.ndtri(alpha / 2)) * null_error
    return float(special.ndtr((effect - critical) / error) + special.ndtr((-effect - critical) / error))


def _errors(plan: Plan, effect: float, treatment: float, control: float) -> tuple[float, float]:
    """Return the standard errors of the difference: that of the test's null, and the true one."""
    kept = 1 - plan.variance_reduction
    if plan.pair_correlation is not None:
        null, true = _pair_variances(plan, effect, plan.pair_correlation)
        pairs = control / plan.allocation[0]
        return math.sqrt(null * kept / pairs), math.sqrt(true * kept / pairs)
    match plan.outcome:
        case ProportionOutcome(baseline):
            p = baseline + effect
            true = p * (1 - p) / treatment + baseline * (1 - baseline) / control
            if not plan.variance_reduction:
                # Proportions a large sample would show, made to differ by the null.
                share = control / (treatment + control)
                expected = ((1 - share) * p, (1 - share) * (1 - p))
                theirs = (share * baseline, share * (1 - baseline))
                q, r = restricted_proportions(expected, theirs, -plan.margin)
                null = q * (1 - q) / treatment + r * (1 - r) / control
            else:
                null = true
        case MeanOutcome() | RatioOutcome():
            null = true = plan.outcome.sd**2 * (1 / treatment + 1 / control)
        case _:
            assert_never(plan.outcome)
    return math.sqrt(null * kept), math.sqrt(true * kept)


def _pair_variances(plan: Plan, effect: float, correlation: float) -> tuple[float, float]:
    """Return the variances of one pair's difference: that of the test's null, and the true one."""
    match plan.outcome:
        case ProportionOutcome(baseline):
            control = baseline * (1 - baseline)
            treatment = (baseline + effect) * (1 - baseline - effect)
            true = control + treatment - 2 * correlation * math.sqrt(control * treatment)
            # McNemar's test takes its variance from the share of discordant pairs.
            return (true if plan.margin else true + effect**2), true
        case MeanOutcome() | RatioOutcome():
            true = 2 * plan.outcome.sd**2 * (1 - correlation)
            return true, true
        case _:
            assert_never(plan.outcome)
