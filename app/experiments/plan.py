"""The analysis plan of an experiment, fixed before its start. Pure."""

from itertools import pairwise
from typing import Annotated, Literal

import msgspec

from app.core.text import Key
from app.experiments import limits
from stats.group_sequential import Spending
from stats.multiplicity import Correction

Probability = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Units = Annotated[int, msgspec.Meta(ge=1, le=10**12)]


class AlwaysValid(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="always_valid"
):
    """Intervals that hold at all looks together, tightest when about `expected_units` have come."""


class FixedHorizon(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fixed_horizon"
):
    """One look, when `expected_units` have come.

    Intervals before and after are not valid, and say so.
    """


class GroupSequential(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="group_sequential"
):
    """Planned looks at these fractions of `expected_units`, with alpha spending.

    Raises ValueError unless the looks increase, by `LOOK_STEP_MIN` at least, and end with 1.
    """

    looks: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    spending: Spending = "obrien-fleming"

    def __post_init__(self) -> None:
        if not self.looks or self.looks[-1] != 1 or self.looks[0] <= 0:
            raise ValueError(f"looks must be positive and end with 1, got {self.looks}")
        if any(later - earlier < limits.LOOK_STEP_MIN for earlier, later in pairwise(self.looks)):
            raise ValueError(f"looks must increase by at least {limits.LOOK_STEP_MIN:g}, got {self.looks}")


Estimator = AlwaysValid | FixedHorizon | GroupSequential


class Segments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Segments of units that are analysed separately, by the attribute's first value of a unit.

    Any other value, and none, is the segment `other`.
    """

    attribute: Key
    values: tuple[str, ...]


class AnalysisPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules of decision: the estimator and its error rates.

    `alpha` is the error of all primary metrics together over all variants, again that of all
    secondary ones under `correction`, and that of each guardrail and variant. `minimum_effect` is
    the smallest effect on the primary metric that matters, in its own unit; it only says how long
    to wait. `expected_units` (of all variants together) tunes the always-valid intervals and is the
    horizon of the other two.

    `covariates` are numeric context attributes, known before the assignment, that take variance
    away from means (CUPED). `crossovers` says whether a unit that gets several variants within one
    epoch is left out, or counts for the `first`.

    `aa`: all variants are the same thing, so that a difference between them is a fault of the
    set-up.
    """

    alpha: Probability = 0.05
    estimator: Estimator = msgspec.field(default_factory=AlwaysValid)
    correction: Correction = "benjamini-hochberg"
    minimum_effect: Annotated[float, msgspec.Meta(gt=0)] | None = None
    expected_units: Units = 10_000
    segments: Segments | None = None
    covariates: tuple[Key, ...] = ()
    crossovers: Literal["exclude", "first"] = "exclude"
    aa: bool = False
