"""Narrower intervals from what is known before the treatment: CUPED and regression adjustment.

Covariates must not be changed by the treatment: use values from before the exposure. Then adjusting
is free of bias for any coefficient; how much it gains is R^2 of the outcome on the covariates, and
is reported.
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from stats import checks
from stats.errors import InvalidInput
from stats.estimate import Estimate
from stats.means import mean_difference
from stats.totals import FloatArray, JointTotals, MeanTotals

_ROUNDING: Final = 1e-13
"""A spread that is a smaller part of the mean than this is what rounding leaves of a constant."""


class CovariateAdjustment(msgspec.Struct, frozen=True):
    """CUPED adjustment for covariates, with coefficients common to all variants and strata.

    `centre` is the mean of the covariates over all units; `caution` is how much wider the
    residuals' spread is taken, because the coefficients were fitted to the same units. Totals hold
    the outcome first, then k covariates. Make one with `CovariateAdjustment.fit`.

    Source: Deng, Xu, Kohavi & Walker (2013), WSDM, section 3. One coefficient for all variants is
    the most precise only with equal arms or effects that do not depend on the covariates: else see
    `regression_adjustment`. The coefficients are estimated from the same data; degrees of freedom
    lose k, and the remaining bias is of order 1/n.
    """

    coefficients: tuple[float, ...]
    centre: tuple[float, ...]
    caution: float

    @classmethod
    def fit(cls, cells: Sequence[JointTotals]) -> "CovariateAdjustment | None":
        """Fit the coefficients within all cells (variants, strata); None if no covariate varies.

        Worked by hand: units (outcome, covariate) are (1, 0), (3, 2), (2, 1) and (0, 0), (2, 2),
        (4, 1). Within cells the co-moments are 2 + 2 = 4 and the covariate's 2 + 2 = 4, so the
        coefficient is 1. Both cells have the covariate mean 1, so their means stay 2 and 2; the
        residuals are 1, 1, 1 and 0, 0, 3.

        Raises InsufficientData unless a degree of freedom is left beyond the coefficients.
        """
        slopes, identified = _fitted(cells)
        if not identified:
            return None
        together = sum(cells[1:], cells[0])
        freedom = sum(max(cell.n - 1, 0) for cell in cells)
        checks.n_at_least(freedom - identified, 1, "units beyond those that the covariates take")
        return cls(tuple(slopes.tolist()), together.mean[1:], freedom / (freedom - identified))

    def apply(self, totals: JointTotals) -> MeanTotals:
        """Return totals of (outcome - what the covariates explain), on the scale of the outcome."""
        residual = _residual_totals(totals, np.array(self.coefficients))
        if not residual.n:
            return residual
        shift = math.fsum(slope * x for slope, x in zip(self.coefficients, self.centre, strict=True))
        return MeanTotals(residual.n, residual.mean + shift, residual.m2 * self.caution)


class AdjustedDifference(msgspec.Struct, frozen=True):
    """An adjusted effect beside the unadjusted one of the same units."""

    effect: Estimate
    unadjusted: Estimate

    @property
    def variance_reduction(self) -> float:
        """Fraction of variance removed: 0.4 saves 40 % of the units.

        It is negative if adjusting did harm.
        """
        return 1 - self.effect.variance / self.unadjusted.variance


def regression_adjustment(treatment: JointTotals, control: JointTotals) -> AdjustedDifference:
    """Return the difference of means adjusted by a regression within each arm.

    Both regressions are evaluated at the mean of all units: the coefficient of the treatment in
    ordinary least squares with all interactions of treatment and centred covariates. Asymptotically
    never less precise than the plain difference, whatever the allocation and however the effect
    depends on the covariates. The totals hold the outcome first, then k >= 1 covariates.

    The variance is that of the residuals in each arm plus that of evaluating at a sample mean of
    covariates when the arms' slopes differ: units are a sample from a population. (Lin's own
    sandwich leaves the second term out, because his units are the population.)

    Worked by hand: in the example of `CovariateAdjustment.fit` the slopes are 1 and 1, and both
    covariate means are 1: effect 0.

    Raises InsufficientData unless each arm has at least k + 2 units; InvalidInput unless both
    totals have the same number of values, at least 2.

    Source: Lin (2013), Annals of Applied Statistics 7(1); Negi & Wooldridge (2021), Econometric
    Reviews 40(5) for the second term.
    """
    if treatment.dimension != control.dimension or treatment.dimension < 2:
        raise InvalidInput(
            f"needs an outcome and the same covariates in both arms, got {treatment.dimension} and "
            f"{control.dimension} values"
        )
    checks.n_at_least(min(treatment.n, control.n), treatment.dimension + 1, "units per arm")
    both = treatment + control
    centre = np.array(both.mean[1:])
    value = 0.0
    slopes: list[FloatArray] = []
    parts = []
    for arm, sign in ((treatment, 1.0), (control, -1.0)):
        slope, k = _fitted([arm])
        residual = _residual_totals(arm, slope)
        value += sign * (residual.mean + float(slope @ centre))
        freedom = arm.n - 1 - k
        parts.append((residual.m2 / freedom / arm.n, freedom))
        slopes.append(slope)
    unadjusted = mean_difference(treatment.value(0), control.value(0))
    if not (slopes[0].any() or slopes[1].any()):
        return AdjustedDifference(unadjusted, unadjusted)
    difference = slopes[0] - slopes[1]
    within = both.covariance[1:, 1:]
    parts.append((max(float(difference @ within @ difference), 0.0) / both.n, both.n - 1))
    return AdjustedDifference(Estimate.of_independent(value, parts), unadjusted)


def _fitted(cells: Sequence[JointTotals]) -> tuple[FloatArray, int]:
    """Return the coefficients within all cells, shape (k,), and the number identified.

    Cells are arms and strata.

    The totals hold the outcome first, then k covariates. A covariate that varies in no cell, beyond
    what rounding leaves of a constant, has the coefficient 0; one that repeats others identifies
    nothing more.

    Worked by hand: covariates 1, 2 and 5, 5 with outcomes 2, 4: coefficients 2 and 0, one
    identified.
    """
    comoments: FloatArray = np.sum([cell.matrix for cell in cells], axis=0)
    n = sum(cell.n for cell in cells)
    largest = np.max([np.abs(cell.mean[1:]) for cell in cells], axis=0)
    constant = np.flatnonzero(np.diag(comoments)[1:] <= n * (_ROUNDING * largest) ** 2) + 1
    if constant.size:
        comoments = comoments.copy()
        comoments[constant] = comoments[:, constant] = 0.0
    return _solved(comoments)


def _residual_totals(total: JointTotals, coefficients: FloatArray) -> MeanTotals:
    """Return totals of the outcome minus what the covariates explain.

    The spread is 0 if only rounding is left of it.

    Worked by hand: the units (1, 0) and (3, 1) with the coefficient 2 leave 1 and 1: mean 1, no
    spread.
    """
    residual = total.combine((1.0, *(-coefficients).tolist()))
    explained = residual.m2 <= _ROUNDING * total.comoments[0]
    return MeanTotals(residual.n, residual.mean, 0.0) if explained else residual


def _solved(comoments: FloatArray) -> tuple[FloatArray, int]:
    """Return the coefficients and the rank of the covariates."""
    scale = np.sqrt(np.diag(comoments)[1:])
    scale = np.where(scale > 0, scale, 1.0)
    correlations = comoments[1:, 1:] / np.outer(scale, scale)
    solution, _, rank, _ = np.linalg.lstsq(correlations, comoments[1:, 0] / scale, rcond=1e-10)
    coefficients: FloatArray = solution / scale
    return coefficients, int(rank)
