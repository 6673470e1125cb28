"""One-sided tests of two means for arms of unequal size, valid at every look.

A canary has a hundredth of the traffic. What is known too well is then not its mean but its
variance, and a two-sided sequence has to be careful on both sides (`stats.sequences` raises the
variance of the small arm by 10 / sqrt(n)). A one-sided claim has to be careful on one side only:

* that the treatment is *greater* is claimed wrongly where rare *small* values have not been seen
  yet; rare large ones raise mean and variance together, which protects;
* that it is *less*, where rare *large* values have not been seen yet.

So the variance is raised for a claim only where values far on the endangered side are possible:
further from the control's mean than `FAR_SDS` of its standard deviations. On both sides each arm's
spread is shrunk towards that of both by `sequences.SHRINKAGE_UNITS`, and the treatment's is never
taken to be less than its own.

With `relative` the comparison is that of log means (delta method): the effect is log(m_t / m_c),
the spread the coefficient of variation. A slower answer is slower by a factor, and so is its
spread: on this scale arms that differ by a factor have the same spread, and the test wants a
quarter fewer units.

Which of the two scales finds more harm sooner as harm grows depends on its direction. An increase
by a constant raises the log ratio and lowers the treatment's coefficient of variation, so the
evidence grows on both scales. A decrease by a constant raises that coefficient without a limit as
the mean comes near 0: on the log scale the evidence against an arm that falls to 0 vanishes. Only
the difference of means is monotone in both directions, because a shift changes no variance.

Asymptotic, from `sequences.ARM_UNITS_MIN` units per arm on; error rates by simulation are in
`benchmarks/rollouts.py`. It is not for allocation that reacts to outcomes, and not for rare events
(use `stats.sequential_counts`).

Sources: Waudby-Smith et al. (2024), Annals of Statistics 52(6), for the sequence; Johnson (1978),
JASA 73, for the correlation of mean and variance that the one-sided caution rests on. We depart
from both as said.
"""

import math
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np

from stats import checks, sequences
from stats.eprocess import EValue
from stats.errors import InsufficientData, InvalidInput
from stats.mixture import boundary, log_mixture
from stats.totals import FloatArray, MeanTotals

Claim = Literal["greater", "less"]

FAR_SDS: Final = 5.0
"""Standard deviations from the mean beyond which values can be missed.

These values are rare enough to be missed, and large enough to matter.
"""

_CAUTION: Final = 10.0


class ArmArrays(NamedTuple):
    """Units, means and sums of squared deviations of one arm, each of shape (..., strata)."""

    n: FloatArray
    mean: FloatArray
    m2: FloatArray


class ContrastArrays(NamedTuple):
    """Weighted means, effect, its variance for either claim, and time, each of shape (...)."""

    control: FloatArray
    treatment: FloatArray
    effect: FloatArray
    variance_greater: FloatArray
    variance_less: FloatArray
    time: FloatArray


def contrasts(
    control: ArmArrays, treatment: ArmArrays, *, relative: bool, bounds: tuple[float, float]
) -> ContrastArrays:
    """Return the comparison behind `OneSided.of`, elementwise; a case worked by hand is there.

    Every stratum has units of both arms, and together they have some spread; relative, means are
    positive.
    """
    strata = control.n.shape[-1]
    weight = control.n * (treatment.n / (control.n + treatment.n))
    time = weight.sum(axis=-1)
    share = weight / time[..., None]
    means = [(share * arm.mean).sum(axis=-1) for arm in (control, treatment)]
    units = [arm.n.sum(axis=-1) for arm in (control, treatment)]
    freedom = [n - strata for n in units]
    m2 = [arm.m2.sum(axis=-1) for arm in (control, treatment)]
    squares = [part / mean**2 for part, mean in zip(m2, means, strict=True)] if relative else m2
    borrowed = sequences.SHRINKAGE_UNITS * (squares[0] + squares[1]) / (freedom[0] + freedom[1])
    of_control, of_treatment = (
        (own + borrowed) / (n + sequences.SHRINKAGE_UNITS) for own, n in zip(squares, freedom, strict=True)
    )
    per_unit = [(share**2 / arm.n).sum(axis=-1) for arm in (control, treatment)]
    theirs, ours = of_control * per_unit[0], np.maximum(of_treatment, squares[1] / freedom[1]) * per_unit[1]
    raised = 1 + _CAUTION * np.abs(units[0] - units[1]) / (units[0] + units[1]) / np.sqrt(units[1])
    # Of the control alone: what the treatment does must not change how careful its own test is.
    far = FAR_SDS * np.sqrt(m2[0] / freedom[0])
    least = max(bounds[0], 0.0) if relative else bounds[0]
    return ContrastArrays(
        control=means[0],
        treatment=means[1],
        effect=np.log(means[1] / means[0]) if relative else means[1] - means[0],
        variance_greater=theirs + ours * np.where(means[0] - least > far, raised, 1.0),
        variance_less=theirs + ours * np.where(bounds[1] - means[0] > far, raised, 1.0),
        time=time,
    )


class OneSided(msgspec.Struct, frozen=True):
    """An effect and its variance for either claim.

    The effect is log(treatment / control) or treatment - control.

    `time` is its precision in effective units. Make one with `OneSided.of`.
    """

    control_mean: float
    treatment_mean: float
    effect: float
    variance_greater: float
    variance_less: float
    time: float
    relative: bool

    @classmethod
    def of(
        cls,
        *strata: tuple[MeanTotals, MeanTotals],
        relative: bool,
        bounds: tuple[float, float] = (-math.inf, math.inf),
    ) -> "OneSided":
        """Compare totals (control, treatment) of one period, or of several with different splits.

        Strata are weighted by their effective units, as in `sequences.Contrast.of`. `bounds` are
        those of a single observation, as far as they are known; with `relative` the lower one is at
        least 0.

        Worked by hand: one stratum, 1,000 against 1,000 units, means 1 and 1.1, m2 999 and 999 *
        1.21, relative. The effect is log 1.1 = 0.0953. Both arms have a squared coefficient of
        variation of 1, so its variance is 1 / 1,000 + 1 / 1,000 and the time 500.
        Raises InsufficientData below ARM_UNITS_MIN units in an arm, if neither arm has any spread,
        or, relative, unless both means are positive.
        """
        used = [stratum for stratum in strata if stratum[0].n and stratum[1].n]
        for arm, name in ((0, "control"), (1, "treatment")):
            units = sum(stratum[arm].n for stratum in used)
            checks.n_at_least(units, sequences.ARM_UNITS_MIN, f"{name} units before the test is valid")
            checks.n_at_least(units - len(used), 1, "units beyond one per stratum")
        control, treatment = (
            ArmArrays(
                *(
                    np.array([float(getattr(stratum[arm], field)) for stratum in used])
                    for field in ("n", "mean", "m2")
                )
            )
            for arm in (0, 1)
        )
        with np.errstate(all="ignore"):
            found = contrasts(control, treatment, relative=relative, bounds=bounds)
        if relative and not min(found.control, found.treatment) > 0:
            raise InsufficientData("a mean is not positive, so nothing is relative to it")
        if not 0 < found.variance_greater < math.inf:
            raise InsufficientData("the observations have no spread, so nothing says how sure they make us")
        return cls(
            control_mean=float(found.control),
            treatment_mean=float(found.treatment),
            effect=float(found.effect),
            variance_greater=float(found.variance_greater),
            variance_less=float(found.variance_less),
            time=float(found.time),
            relative=relative,
        )

    def scaled(self, effect: float) -> float:
        """Return a relative effect r as log(1 + r), and an absolute effect unchanged."""
        if not self.relative:
            return effect
        if effect <= -1:
            raise InvalidInput(f"a positive mean cannot fall by {-effect:g} of its value")
        return math.log1p(effect)

    def unscaled(self, effect: float) -> float:
        """Return the inverse of `scaled`."""
        return math.expm1(min(effect, 700.0)) if self.relative else effect

    def variance(self, claim: Claim) -> float:
        """Return the variance of the effect for this claim."""
        return self.variance_greater if claim == "greater" else self.variance_less

    def evalue(self, null: float, claim: Claim, *, rho: float) -> EValue:
        """Return the evidence that the effect is greater (less) than `null`.

        `null` is on the scale of `effect`.

        Valid at every look against every effect up to (from) `null`.
        """
        z = (self.effect - null) / math.sqrt(self.variance(claim))
        return EValue(float(log_mixture(z * math.sqrt(self.time), self.time, rho=rho, alternative=claim)))

    def log_ratio(self, null: float, alternative: float, claim: Claim) -> float:
        """Return the log likelihood ratio of two named effects, for Wald's test.

        Worked by hand: effect 0.1 with variance 0.01, 0 against 0.1: (0.1 * 0.1 - 0.1^2 / 2) /
        0.01 = 0.5.
        """
        middle = (null + alternative) / 2
        return (alternative - null) * (self.effect - middle) / self.variance(claim)

    def bound(self, claim: Claim, *, alpha: float, rho: float) -> float:
        """Return the lower ("greater") or upper bound of the effect.

        `evalue` is 1 / alpha at the bound.
        """
        distance = float(boundary(self.time, alpha=alpha, rho=rho, alternative="greater"))
        distance *= math.sqrt(self.variance(claim) / self.time)
        return self.effect - distance if claim == "greater" else self.effect + distance
