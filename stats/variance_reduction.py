"""Narrower intervals from what is known before the treatment.

CUPED, regression adjustment and post-stratification.

Covariates must not be changed by the treatment: use values from before the exposure. Then adjusting is free
of bias for any coefficient; how much it gains is R^2 of the outcome on the covariates, and is reported.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from stats import checks
from stats.errors import InvalidInput
from stats.estimate import Estimate
from stats.means import mean_difference
from stats.stratification import Stratum, pooled, stratified_difference
from stats.totals import FloatArray, JointTotals, MeanTotals

_ROUNDING: Final = 1e-13
"""A spread that is a smaller part of the mean than this is what rounding leaves of a constant."""


class AdjustedDifference(msgspec.Struct, frozen=True):
    """An adjusted effect beside the unadjusted one of the same units."""

    effect: Estimate
    unadjusted: Estimate

    @property
    def variance_reduction(self) -> float:
        """The fraction of variance removed: 0.4 saves 40 % of the units. Negative if adjusting did harm."""
        return 1 - self.effect.variance / self.unadjusted.variance


def cuped(treatment: JointTotals, control: JointTotals) -> AdjustedDifference:
    """The difference of means of the outcome, less what the covariates explain.

    The totals hold the outcome first, then k >= 1 covariates. The coefficients, one set for both arms, are
    those of the regression within arms (arms centred apart, then pooled). A covariate that does not vary, or
    repeats others, changes nothing: without any that varies the effect is the unadjusted one, bit for bit.

    Worked by hand: units (outcome, covariate) (1, 0), (3, 2), (2, 1) against (0, 0), (2, 2), (4, 1): within
    arms the co-moments are 2 + 2 = 4 and the covariate's 2 + 2 = 4, so the coefficient is 1. Covariate means
    agree, so the effect stays 2 - 2 = 0, and the residuals are 1, 1, 1 against 0, 0, 3.

    Raises InsufficientData unless each arm has at least k + 2 units, or no spread is left; InvalidInput
    unless both totals have the same number of values, at least 2.

    Source: Deng, Xu, Kohavi & Walker (2013), WSDM, section 3. One coefficient for both arms is the most
    precise only with equal arms or effects that do not depend on the covariates: else see
    `regression_adjustment`. The coefficients are estimated from the same data; degrees of freedom lose k, and
    the remaining bias is of order 1/n.
    """
    _covariates(treatment, control)
    coefficients, k = fitted([treatment, control])
    unadjusted = _unadjusted(treatment, control)
    if not k:
        return AdjustedDifference(unadjusted, unadjusted)
    residuals = [residual_totals(arm, coefficients) for arm in (treatment, control)]
    value = residuals[0].mean - residuals[1].mean
    # The k identified coefficients are shared by both arms in proportion to their units.
    total = treatment.n + control.n
    parts = []
    for residual in residuals:
        freedom = residual.n - 1 - k * residual.n / total
        parts.append((residual.m2 / freedom / residual.n, freedom))
    return AdjustedDifference(Estimate.of_independent(value, parts), unadjusted)


def regression_adjustment(treatment: JointTotals, control: JointTotals) -> AdjustedDifference:
    """The difference of means adjusted by a regression within each arm.

    Both regressions are evaluated at the mean of all units: the coefficient of the treatment in ordinary
    least squares with all interactions of treatment and centred covariates. Asymptotically never less precise
    than the plain difference, whatever the allocation and however the effect depends on the covariates. The
    totals hold the outcome first, then k >= 1 covariates.

    The variance is that of the residuals in each arm plus that of evaluating at a sample mean of covariates
    when the arms' slopes differ: units are a sample from a population. (Lin's own sandwich leaves the second
    term out, because his units are the population.)

    Worked by hand: in the example of `cuped` the slopes are 1 and 1, and both covariate means are 1: effect
    0.

    Raises InsufficientData unless each arm has at least k + 2 units; InvalidInput as `cuped`.

    Source: Lin (2013), Annals of Applied Statistics 7(1); Negi & Wooldridge (2021), Econometric Reviews 40(5)
    for the second term.
    """
    _covariates(treatment, control)
    both = treatment + control
    centre = np.array(both.mean[1:])
    value = 0.0
    slopes: list[FloatArray] = []
    parts = []
    for arm, sign in ((treatment, 1.0), (control, -1.0)):
        slope, k = fitted([arm])
        residual = residual_totals(arm, slope)
        value += sign * (residual.mean + float(slope @ centre))
        freedom = arm.n - 1 - k
        parts.append((residual.m2 / freedom / arm.n, freedom))
        slopes.append(slope)
    unadjusted = _unadjusted(treatment, control)
    if not (slopes[0].any() or slopes[1].any()):
        return AdjustedDifference(unadjusted, unadjusted)
    difference = slopes[0] - slopes[1]
    within = both.covariance[1:, 1:]
    parts.append((max(float(difference @ within @ difference), 0.0) / both.n, both.n - 1))
    return AdjustedDifference(Estimate.of_independent(value, parts), unadjusted)


def post_stratification(strata: Sequence[Stratum]) -> AdjustedDifference:
    """The difference within strata of a covariate, averaged by their share of all units.

    For categories known before the exposure (country, plan), with the same allocation in all. Given the
    strata's sizes it is unbiased. Strata must be few and large: those with fewer than 2 units in an arm are
    left out, which changes the question, so merge them before.

    Worked by hand: two strata with effects 1 and 3 and 30 and 10 units give (30 * 1 + 10 * 3) / 40 = 1.5.

    Raises InsufficientData if no stratum can be compared.

    Source: Miratrix, Sekhon & Yu (2013), Journal of the Royal Statistical Society B 75(2).
    """
    together = pooled(strata)
    effect = stratified_difference(strata, weighting="sample-share").effect
    return AdjustedDifference(effect, mean_difference(together.treatment, together.control))


def _covariates(treatment: JointTotals, control: JointTotals) -> int:
    """How many there are, after checking that a regression on them is possible in each arm."""
    if treatment.dimension != control.dimension or treatment.dimension < 2:
        raise InvalidInput(
            f"needs an outcome and the same covariates in both arms, got {treatment.dimension} and "
            f"{control.dimension} values"
        )
    k = treatment.dimension - 1
    checks.n_at_least(min(treatment.n, control.n), k + 2, "units per arm")
    return k


def regression_coefficients(comoments: FloatArray) -> FloatArray:
    """Of the regression of the first value on the others, shape (k,); those not identified are shared out.

    `comoments` is a matrix of shape (1 + k, 1 + k), such as `JointTotals.matrix`, summed over arms and
    strata.

    Worked by hand: co-moments 8, 4; 4, 4 give 4 / 4 = 1.

    On the scale of correlations, so that covariates in different units are equally well conditioned.
    """
    return _solved(comoments)[0]


def fitted(cells: Sequence[JointTotals]) -> tuple[FloatArray, int]:
    """The coefficients within all cells (arms, strata), shape (k,), and how many of them are identified.

    The totals hold the outcome first, then k covariates. A covariate that varies in no cell, beyond what
    rounding leaves of a constant, has the coefficient 0; one that repeats others identifies nothing more.

    Worked by hand: covariates 1, 2 and 5, 5 with outcomes 2, 4: coefficients 2 and 0, one identified.
    """
    comoments: FloatArray = np.sum([cell.matrix for cell in cells], axis=0)
    n = sum(cell.n for cell in cells)
    largest = np.max([np.abs(cell.mean[1:]) for cell in cells], axis=0)
    constant = np.flatnonzero(np.diag(comoments)[1:] <= n * (_ROUNDING * largest) ** 2) + 1
    if constant.size:
        comoments = comoments.copy()
        comoments[constant] = comoments[:, constant] = 0.0
    return _solved(comoments)


def residual_totals(total: JointTotals, coefficients: FloatArray) -> MeanTotals:
    """Totals of (outcome - what the covariates explain), without spread where only rounding is left of it.

    Worked by hand: the units (1, 0) and (3, 1) with the coefficient 2 leave 1 and 1: mean 1, no spread.
    """
    residual = total.combine((1.0, *(-coefficients).tolist()))
    explained = residual.m2 <= _ROUNDING * total.comoments[0]
    return MeanTotals(residual.n, residual.mean, 0.0) if explained else residual


def _solved(comoments: FloatArray) -> tuple[FloatArray, int]:
    """Coefficients, and the rank of the covariates."""
    scale = np.sqrt(np.diag(comoments)[1:])
    scale = np.where(scale > 0, scale, 1.0)
    correlations = comoments[1:, 1:] / np.outer(scale, scale)
    solution, _, rank, _ = np.linalg.lstsq(correlations, comoments[1:, 0] / scale, rcond=1e-10)
    coefficients: FloatArray = solution / scale
    return coefficients, int(rank)


def _unadjusted(treatment: JointTotals, control: JointTotals) -> Estimate:
    return mean_difference(treatment.value(0), control.value(0))
