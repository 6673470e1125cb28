"""One effect from several strata, such as the epochs of an experiment whose allocation changed.

Within a stratum both arms met the same conditions in the same proportions, so their difference
there is fair. Pooling the arms first and comparing afterwards is not. If a canary ramps from 1 % to
25 % while the common baseline drifts, the pooled arms met different mixtures of days. They may even
differ in the wrong direction (Simpson's paradox). Here effects are taken within strata, then
averaged.

| weighting | of stratum | when |
|---|---|---|
| `mantel-haenszel` | n_t n_c / (n_t + n_c) | near the smallest variance, and independent of outcomes |
| `sample-share` | n_t + n_c | the average effect on all who came, if effects differ between strata |
"""

from collections.abc import Sequence
from typing import Literal, assert_never

import msgspec

from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.totals import MeanTotals

Weighting = Literal["mantel-haenszel", "sample-share"]


class Stratum(msgspec.Struct, frozen=True):
    """A stratum with both arms of a comparison.

    For proportions, use `ProportionTotals.moments`.
    """

    treatment: MeanTotals
    control: MeanTotals

    @property
    def n(self) -> int:
        """The units of both arms."""
        return self.treatment.n + self.control.n


class StratifiedDifference(msgspec.Struct, frozen=True):
    """The averaged effect, the weights of the strata, and how many units could not be compared.

    Weights sum to 1 and stand in the order of the strata.
    """

    effect: Estimate
    weights: tuple[float, ...]
    n_left_out: int


def stratified_difference(strata: Sequence[Stratum], *, weighting: Weighting) -> StratifiedDifference:
    """Return the weighted average over strata of treatment - control.

    The variance is the sum of squared weights times the variance within each stratum. Strata where
    an arm has fewer than 2 units have no comparison of their own. They get weight 0, and
    `n_left_out` counts their units. Weights from counts are as good as fixed in advance when
    allocation does not depend on outcomes *within* a stratum. If it does (a bandit inside an
    epoch), use the estimators for adaptive data.

    Worked by hand: 10 of 10 against 80 of 100, and 5 of 50 against 1 of 20 have differences 0.2 and
    0.05, and n_t n_c / n = 9.09 and 14.29: (9.09 * 0.2 + 14.29 * 0.05) / 23.38 = 0.108. Pooled, the
    treatment's 15 of 60 is far *below* the control's 81 of 120.

    Raises InsufficientData if no stratum can be compared, or there is no spread in any.

    Source: Cochran (1954), Biometrics 10(4), section 8 (weights); Cochran (1977), Sampling
    Techniques, eq. 5.7.
    """
    compared = [min(stratum.treatment.n, stratum.control.n) >= 2 for stratum in strata]
    if not any(compared):
        raise InsufficientData("no stratum has two units in each arm")
    raw = [
        _weight(stratum, weighting) if usable else 0.0
        for stratum, usable in zip(strata, compared, strict=True)
    ]
    total = sum(raw)
    weights = tuple(weight / total for weight in raw)
    value = 0.0
    parts: list[tuple[float, float]] = []
    for stratum, weight in zip(strata, weights, strict=True):
        if weight:
            value += weight * (stratum.treatment.mean - stratum.control.mean)
            arms = (stratum.treatment, stratum.control)
            parts.extend((weight**2 * arm.variance / arm.n, arm.n - 1) for arm in arms)
    left_out = sum(stratum.n for stratum, usable in zip(strata, compared, strict=True) if not usable)
    return StratifiedDifference(Estimate.of_independent(value, parts), weights, left_out)


def pooled(strata: Sequence[Stratum]) -> Stratum:
    """Merge both arms over all strata. Do not compare them if the allocation changed."""
    return Stratum(
        sum((stratum.treatment for stratum in strata), MeanTotals()),
        sum((stratum.control for stratum in strata), MeanTotals()),
    )


def _weight(stratum: Stratum, weighting: Weighting) -> float:
    treatment, control = stratum.treatment, stratum.control
    match weighting:
        case "mantel-haenszel":
            return treatment.n * (control.n / stratum.n)
        case "sample-share":
            return stratum.n
        case _:
            assert_never(weighting)
