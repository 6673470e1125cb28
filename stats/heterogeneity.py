"""Effects per declared segment: whether they differ, and what each one is.

The largest of many segment effects is large partly by luck. Partial pooling moves every segment
towards the common effect, by as much as its own error warrants; the interaction test says whether
the segments differ at all. Segments are declared before the start and are not changed by the
treatment.
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from scipy import optimize

from stats import checks, tails
from stats.estimate import Estimate, HypothesisTest
from stats.totals import FloatArray

UNITS_MIN: Final = 30
"""Units per arm that a segment needs at one planned look.

With fewer units, means are too far from normal.
"""


class PartialPooling(msgspec.Struct, frozen=True):
    """Effects of segments, pooled as far as they agree.

    `between_variance` is the variance of the true effects, in the square of the metric's unit.
    `common` is their mean. `segments` has the shrunken effect of each segment, in order.
    `interaction` is the test that all true effects are equal.
    """

    between_variance: float
    common: Estimate
    segments: tuple[Estimate, ...]
    interaction: HypothesisTest

    @property
    def inconsistency(self) -> float:
        """I^2 in [0, 1): the share of the observed variation that is not chance.

        I^2 = max(0, 1 - (k - 1) / Q).
        """
        freedom = len(self.segments) - 1
        q = self.interaction.statistic
        return max(0.0, 1 - freedom / q) if q > 0 else 0.0


def interaction_test(effects: Sequence[Estimate]) -> HypothesisTest:
    """Test whether the true effects of independent segments are all equal.

    Q = sum w (y - common)^2 with w = 1 / variance. With known variances Q is chi-square with k - 1
    degrees of freedom (Cochran). Estimated variances have degrees of freedom: then Q / (k - 1),
    divided by 1 + 2 (k - 2) / (k^2 - 1) S, is F with k - 1 and (k^2 - 1) / (3 S) degrees of freedom
    (Welch), where S = sum (1 - w / sum w)^2 / df. Give each effect the variance that it has if the
    variants do not differ (pooled over both): where a small arm and its variance err together, the
    test otherwise rejects far too often. Segments need `UNITS_MIN` units per arm, and proportions
    enough events (`stats.sequential_counts.rare`).

    Worked by hand: effects 0 and 2 with standard errors 1 have the common effect 1 and Q = 2, p =
    0.157. With 10 degrees of freedom each, S = 2 / 4 / 10 = 0.05, so F = 2 with 1 and 20 degrees,
    p = 0.173.

    Raises InsufficientData with fewer than 2 segments.

    Source: Cochran (1954), Biometrics 10(1); Welch (1951), Biometrika 38(3-4).
    """
    k = len(effects)
    checks.n_at_least(k, 2, "segments")
    y, variance = _arrays(effects)
    weight = 1 / variance
    q = float(weight @ (y - _mean(y, weight)) ** 2)
    freedom = np.array([effect.degrees_of_freedom for effect in effects])
    uncertainty = float(((1 - weight / weight.sum()) ** 2 / freedom).sum())
    if not uncertainty:
        return HypothesisTest(q, min(tails.log_chi_square_upper(q, k - 1), 0.0))
    f = q / (k - 1) / (1 + 2 * (k - 2) / (k**2 - 1) * uncertainty)
    return HypothesisTest(q, min(tails.log_f_upper(f, k - 1, (k**2 - 1) / (3 * uncertainty)), 0.0))


def partial_pooling(effects: Sequence[Estimate]) -> PartialPooling:
    """Shrink the effect of each segment towards the common one.

    The method is empirical Bayes with normal random effects. With variance t^2 between segments, a
    segment of variance v keeps the share b = t^2 / (t^2 + v) of its own effect. Its squared error
    is b v + (1 - b)^2 var(common): that the common effect is estimated counts, that t^2 is
    estimated does not. With few segments (below about 5) or t^2 estimated as 0, intervals are
    therefore too short; the segments' unpooled intervals never are.

    Worked by hand: effects 0 and 4 with standard errors 1 have the sample variance 8, so t^2 = 8 -
    1 = 7, b = 7/8, the common effect 2, and the segments 0.25 and 3.75.

    Raises InsufficientData with fewer than 2 segments.

    Source: Viechtbauer (2005), Journal of Educational and Behavioral Statistics 30(3) for REML;
    Raudenbush & Bryk (1985), ibid. 10(2) for the shrunken effects.
    """
    interaction = interaction_test(effects)
    y, variance = _arrays(effects)
    between = _restricted_maximum_likelihood(y, variance)
    weight = 1 / (between + variance)
    common = Estimate(_mean(y, weight), math.sqrt(1 / float(weight.sum())))
    kept = between * weight
    shrunken = kept * y + (1 - kept) * common.value
    error = np.sqrt(kept * variance + (1 - kept) ** 2 * common.variance)
    segments = tuple(Estimate(float(value), float(se)) for value, se in zip(shrunken, error, strict=True))
    return PartialPooling(between, common, segments, interaction)


def _arrays(effects: Sequence[Estimate]) -> tuple[FloatArray, FloatArray]:
    return np.array([effect.value for effect in effects]), np.array([effect.variance for effect in effects])


def _mean(y: FloatArray, weight: FloatArray) -> float:
    return float(weight @ y / weight.sum())


def _restricted_maximum_likelihood(y: FloatArray, variance: FloatArray) -> float:
    """Return the variance between segments with the greatest restricted likelihood.

    The slope of the likelihood is 0 there, or the variance is 0.
    """
    scale = float(variance.min())

    def slope(between: float) -> float:
        weight = scale / (between * scale + variance)
        residual = (y - _mean(y, weight)) ** 2 / scale
        return float(weight**2 @ residual - weight.sum() + weight @ weight / weight.sum())

    if slope(0.0) <= 0:
        return 0.0
    highest = 1.0
    while slope(highest) > 0:
        highest *= 2
    return scale * float(optimize.brentq(slope, 0.0, highest, xtol=1e-14, rtol=1e-12))
