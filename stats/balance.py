"""Evidence that a covariate from before the exposure has different means in the two arms.

A covariate from before the exposure cannot depend on the arm. If it does, it was measured after the
exposure, or units were not assigned at random. Adjusting an effect for it (CUPED) then takes a part
of the effect away.
"""

import math
from collections.abc import Sequence
from typing import Final

from scipy import special

from stats.eprocess import EValue
from stats.mixture import tuned
from stats.sequences import ARM_UNITS_MIN, Contrast
from stats.totals import MeanTotals

_TUNED_TO: Final = (100.0, 1_600.0, 25_600.0, 409_600.0, 6_553_600.0)
"""Effective units at which the parts of the mixture are strongest.

Several are needed because the final number of units is unknown.
"""
_ROUNDING: Final = 1e-13
_APART: Final = 1e-9


def balance_evalue(strata: Sequence[tuple[MeanTotals, MeanTotals]]) -> EValue:
    """Return the evidence that a covariate's means differ between (control, treatment).

    The evidence is valid at every look.

    Strata are periods with a constant split, as for `stats.sequences.Contrast`. The result is the
    mean of five e-values, each strongest at a different number of units. The mean is an e-value
    too, and its logarithm is at most log(5) below that of the best one. A covariate that is
    constant in each arm, with different constants, is certain evidence: no random assignment sorts
    units by it.

    Worked by hand: arms of 1,000 units with variance 1 have means that differ by 0.2. The standard
    error is sqrt(2 / 1,000) = 0.0447, so z = 4.47. At 500 effective units and rho = 12.2, the part
    tuned to 100 has the logarithm 4.47^2 / 2 * 500 / 512.2 - log(512.2 / 12.2) / 2 = 7.9.

    Raises InsufficientData below ARM_UNITS_MIN units in an arm, or if the covariate does not vary
    at all.

    Asymptotic, as `Contrast`. Source: Robbins (1970) for each part.
    """
    if _sorted_by(strata):
        return EValue(math.inf)
    pairs = [(_unrounded(control), _unrounded(treatment)) for control, treatment in strata]
    if _sorted_by(pairs):
        return EValue(math.inf)
    contrast = Contrast.of(*pairs)
    parts = [
        contrast.evalue(rho=tuned(units, alpha=0.05), alternative="two-sided").log_value
        for units in _TUNED_TO
    ]
    return EValue(float(special.logsumexp(parts)) - math.log(len(parts)))


def _sorted_by(strata: Sequence[tuple[MeanTotals, MeanTotals]]) -> bool:
    """Return whether arms with enough units and no spread have different means, beyond rounding."""
    used = [stratum for stratum in strata if stratum[0].n and stratum[1].n]
    if min((sum(stratum[arm].n for stratum in used) for arm in (0, 1)), default=0) < ARM_UNITS_MIN:
        return False
    apart = [abs(control.mean - treatment.mean) > _APART * abs(control.mean) for control, treatment in used]
    return not any(arm.m2 for stratum in used for arm in stratum) and any(apart)


def _unrounded(total: MeanTotals) -> MeanTotals:
    """Drop what rounding leaves of the spread of a constant."""
    rounded = total.m2 <= total.n * (_ROUNDING * total.mean) ** 2
    return MeanTotals(total.n, total.mean, 0.0) if rounded else total
