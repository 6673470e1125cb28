"""Sample-ratio mismatch: whether assignments follow the probabilities that were logged for them.

All that is needed are the counts per arm in each period (policy version) in which the logged
probabilities were the same. Where every unit has its own probabilities, a period is one unit.
Counts of one period merge by `+`. Where periods are too many to keep, sums of counts and
probabilities will do: `ArmCounts.from_sums`.

Both tests hold under weights that move, also by a bandit: given its probabilities, each assignment
is a fresh draw.

* `chi_square` for one look that was planned.
* `evalue` for looking all the time. For a tilt w > 0 of one arm, probabilities p become q = p w /
  (1 + p_arm (w - 1)) there; the product of q / p over all assignments is a martingale under the
  logged probabilities, because p was known before each draw. Its average over arms and over a prior
  of w is too, and depends on the order of nothing. This replaces the Dirichlet mixture of Lindon &
  Malek (2020), arXiv 2011.03567, which is for probabilities that stay the same, and which would
  have to start again with every policy version.

Crossovers, units that were seen in more than one arm, are a proportion of all units:
`stats.bounded` has its sequence.

A mismatch says that the assignments, or their log, are broken; not how much. `deviations` says how
much. An alarm threshold of 0.001 or less for the fixed test, and of 0.01 for the sequential one, is
usual: Fabijan et al. (2019), KDD.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import special

from stats import checks, tails
from stats.eprocess import EValue
from stats.errors import InsufficientData, InvalidInput
from stats.totals import FloatArray

# Prior of log w: Cauchy, on a geometric grid. Mismatches of a few percent are the usual ones, and
# larger ones are found soon anyway.
_TYPICAL_TILT: Final = 0.02
_SIZES: Final = np.geomspace(0.002, 6.0, 64)
_TILTS: Final = np.concatenate([-_SIZES, _SIZES])
_PRIOR: Final = np.abs(_TILTS) / (1 + (_TILTS / _TYPICAL_TILT) ** 2)
_SMALLEST: Final = 5e-324


class ArmCounts(msgspec.Struct, frozen=True):
    """Assignments to each arm in a period, and the logged probabilities of the arms in it.

    Raises InvalidInput unless there are at least two arms, counts and probabilities match, none is
    negative, and the probabilities sum to 1 (to 1e-9).
    """

    counts: tuple[int, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.probabilities) or len(self.counts) < 2:
            raise InvalidInput("needs counts and probabilities of the same two or more arms")
        for count, probability in zip(self.counts, self.probabilities, strict=True):
            checks.not_negative(count, "count")
            checks.closed_unit(probability, "probability")
        if abs(math.fsum(self.probabilities) - 1) > 1e-9:
            raise InvalidInput(f"probabilities must sum to 1, got {math.fsum(self.probabilities):g}")

    @classmethod
    def from_sums(cls, counts: Sequence[int], probability_sums: Sequence[Fraction | int]) -> "ArmCounts":
        """Sum up assignments whose logged probabilities moved.

        They count as if each had been made with the mean of the probabilities. For any tilt w of an
        arm, this never overstates the evidence: log(1 + p (w - 1)) is concave in p. So the sum over
        the assignments, which `evalue` subtracts, is at most n times its value at the mean. For the
        same reason `chi_square` takes a larger covariance than the true one. So both stay valid.
        They lose power as far as probabilities moved, and none if they did not. Sums merge by `+`,
        for any number of versions. They do not show a leak of an arm that had a probability at
        other times.

        Worked by hand: one assignment at (0.2, 0.8) and one at (0.6, 0.4), both to the first arm:
        sums 0.8 and 1.2, means 0.4 and 0.6. The tilt w = 2 has evidence log(2 / 1.2) +
        log(2 / 1.6) = 0.734 exactly and 2 log(2 / 1.4) = 0.713 from the sums.

        Raises InsufficientData without assignments, InvalidInput unless the sums add up to their
        number.
        """
        n = sum(counts)
        checks.n_at_least(n, 1, "assignments")
        if any(total < 0 for total in probability_sums):
            raise InvalidInput("sums of probabilities must not be negative")
        return cls(tuple(counts), tuple(float(Fraction(total) / n) for total in probability_sums))

    def __add__(self, other: "ArmCounts") -> "ArmCounts":
        """Add assignments under the same probabilities. Raises InvalidInput if they are others."""
        if self.probabilities != other.probabilities:
            raise InvalidInput("only counts under the same probabilities can be added")
        added = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return ArmCounts(added, self.probabilities)


class ChiSquare(msgspec.Struct, frozen=True):
    """Pearson's statistic, its degrees of freedom, and the logarithm of its p-value."""

    statistic: float
    degrees_of_freedom: int
    log_p_value: float

    @property
    def p_value(self) -> float:
        """The p-value in (0, 1]. Below the smallest double it is that double: never 0."""
        return max(math.exp(self.log_p_value), _SMALLEST)


def _arrays(periods: Sequence[ArmCounts]) -> tuple[FloatArray, FloatArray]:
    """Return counts and probabilities, shape (periods, arms), without counts at probability 0."""
    if len({len(period.counts) for period in periods}) != 1:
        raise InvalidInput("needs at least one period, and the same arms in all of them")
    counts = np.array([period.counts for period in periods], dtype=float)
    probabilities = np.array([period.probabilities for period in periods], dtype=float)
    return np.where(probabilities > 0, counts, 0.0), probabilities


def zero_weight_leaks(periods: Sequence[ArmCounts]) -> tuple[int, ...]:
    """Count assignments to each arm while its probability was 0: one proves a fault.

    The two tests leave these out; a single one would make any of them certain, and hide what else
    is wrong.
    """
    _arrays(periods)
    return tuple(
        sum(period.counts[arm] for period in periods if period.probabilities[arm] == 0)
        for arm in range(len(periods[0].counts))
    )


def deviations(periods: Sequence[ArmCounts]) -> tuple[float, ...]:
    """Return the observed over expected assignments of each arm, less 1: the size of a mismatch.

    Worked by hand: 5,100 and 4,900 at 50/50: +0.02 and -0.02. An arm that was never to be drawn has
    deviation 0.
    Raises InsufficientData without assignments.
    """
    counts, probabilities = _arrays(periods)
    if not counts.sum():
        raise InsufficientData("needs at least 1 assignment, has 0")
    expected = (counts.sum(axis=1, keepdims=True) * probabilities).sum(axis=0)
    observed = counts.sum(axis=0)
    return tuple(float(o / e - 1) if e else 0.0 for o, e in zip(observed, expected, strict=True))


def absence_p_values(periods: Sequence[ArmCounts]) -> tuple[float, ...]:
    """Return how likely the absence of each arm is: the product of 1 - p over all assignments.

    1 for arms with assignments. Valid at every look: the indicator that an arm was not drawn,
    divided by this product, is a martingale under the logged probabilities. With means of moving
    probabilities (`ArmCounts.from_sums`) the product is no smaller than the true one. It finds an
    arm that gets no units long before `evalue`, which is made for small tilts.

    Worked by hand: no unit among 20 at a share of 1/3: (2/3)^20 = 3.0e-4.
    """
    counts, probabilities = _arrays(periods)
    per_period, per_arm = counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(divide="ignore"):
        log_missed = np.where(per_period[:, None] > 0, np.log1p(-probabilities), 0.0)
    # Not by a matrix product: 0 assignments at the probability 1 must be 0.
    total = np.where(per_period[:, None] > 0, per_period[:, None] * log_missed, 0.0).sum(axis=0)
    return tuple(np.where(per_arm == 0, np.exp(total), 1.0).tolist())


def chi_square(periods: Sequence[ArmCounts]) -> ChiSquare:
    """Test at one planned look, exact in the first two moments under moving probabilities.

    With O the counts over all periods, E their expectation and V = sum over periods of n (diag(p) -
    p p'), the statistic is (O - E)' V^+ (O - E). With one period that is Pearson's statistic.

    Worked by hand: 821,588 against 815,482 at 50/50: 6,106^2 / 1,637,070 = 22.77, p = 1.8e-6.
    Raises InsufficientData if an arm's expected count is below 5, the usual limit of the
    approximation.
    """
    counts, probabilities = _arrays(periods)
    n = counts.sum(axis=1)
    expected = n @ probabilities
    used = probabilities.max(axis=0) > 0
    if used.sum() < 2 or expected[used].min() < 5:
        raise InsufficientData("needs two arms with at least 5 expected assignments each")
    surplus = (counts.sum(axis=0) - expected)[used]
    p = probabilities[:, used]
    covariance = np.diag(expected[used]) - np.einsum("v,vi,vj->ij", n, p, p)
    # Standardised, so that an arm with few assignments is not taken for a direction without
    # variance.
    scale = np.sqrt(expected[used])
    standard = covariance / np.outer(scale, scale)
    degrees = int(np.linalg.matrix_rank(standard, tol=1e-9, hermitian=True))
    if not degrees:
        raise InsufficientData("every assignment was certain, so nothing can be tested")
    z = surplus / scale
    statistic = float(z @ np.linalg.pinv(standard, rcond=1e-9, hermitian=True) @ z)
    return ChiSquare(statistic, degrees, min(tails.log_chi_square_upper(statistic, degrees), 0.0))


def log_tilt_mixture(counts: npt.ArrayLike, probabilities: npt.ArrayLike) -> FloatArray:
    """Return the log of the e-process, shape (...).

    Counts have shape (..., periods, arms), probabilities (periods, arms).

    Worked by hand: the tilt w = 2 of one of two arms at 50/50: its assignments count (2/3) /
    (1/2) = 4/3 each, the other's 2/3.

    Of an array of counts, 128 times its memory is needed meanwhile.
    """
    observed, p = np.asarray(counts, dtype=float), np.asarray(probabilities, dtype=float)
    per_period, per_arm = observed.sum(axis=-1), observed.sum(axis=-2)
    shared = np.full(per_period.shape[:-1], -np.inf)
    log_prior = np.log(_PRIOR / _PRIOR.sum()) - math.log(p.shape[-1])
    for arm in range(p.shape[-1]):
        expected = np.log1p(np.multiply.outer(p[:, arm], np.expm1(_TILTS)))
        likelihood = per_arm[..., arm, None] * _TILTS - per_period @ expected
        shared = np.logaddexp(shared, special.logsumexp(likelihood + log_prior, axis=-1))
    return shared


def evalue(periods: Sequence[ArmCounts]) -> EValue:
    """Return the evidence that the assignments do not follow the logged probabilities.

    The evidence is valid at every look.

    Without assignments it is 1 (no evidence). Leaks are left out: see `zero_weight_leaks`.
    """
    return EValue(float(log_tilt_mixture(*_arrays(periods))))
