"""A/A tests: what chance alone does where the variants do not differ.

* `noise_floor` is the difference that chance alone makes in one metric.
* `MeasuredRate` is how often a rule decided on splits of the control's own units, with its exact
  interval.

A valid test decides in a share alpha of A/A tests, 5 % at 0.05. With heavy-tailed or rare metrics
and few units a t-test decides in 3 to 4 % (1 % at one event per arm), because its p-values are then
too large. That is caution, not a fault.
"""

import math

import msgspec
from scipy import special

from stats import checks
from stats.errors import InsufficientData
from stats.interval import Interval
from stats.proportions import exact_interval
from stats.totals import MeanTotals, ProportionTotals


class NoiseFloor(msgspec.Struct, frozen=True):
    """Difference between two halves of the same units that chance exceeds with probability alpha.

    `relative` is the difference as a share of the mean. It is None if the mean is 0.
    """

    absolute: float
    relative: float | None


def noise_floor(totals: MeanTotals, *, alpha: float = 0.05) -> NoiseFloor:
    """Return the noise floor of one metric at one look at halves of its units: z sd sqrt(4 / n).

    An observed effect below it says nothing. Everything scales with 1 / sqrt(n).

    Worked by hand: 10,000 units with mean 2 and sd 1: 1.96 * 0.02 = 0.0392, 1.96 % of the mean.
    Raises InsufficientData below 2 units or without any spread.
    """
    checks.open_unit(alpha, "alpha")
    if not totals.variance:
        raise InsufficientData("the observations have no spread, so nothing says how sure they make us")
    absolute = -float(special.ndtri(alpha / 2)) * math.sqrt(totals.variance * 4 / totals.n)
    return NoiseFloor(absolute, absolute / abs(totals.mean) if totals.mean else None)


class MeasuredRate(msgspec.Struct, frozen=True):
    """Share of replays in which a rule decided although nothing differed.

    The interval has 95 % confidence (Clopper & Pearson 1934).
    """

    decisions: int
    replays: int
    interval: Interval

    @classmethod
    def of(cls, decisions: int, replays: int) -> "MeasuredRate":
        """Return the rate with its interval.

        Raises InsufficientData without replays, InvalidInput unless 0 <= decisions <= replays.
        """
        return cls(decisions, replays, exact_interval(ProportionTotals(replays, decisions), alpha=0.05))

    @property
    def rate(self) -> float:
        """Decisions per replay."""
        return self.decisions / self.replays
