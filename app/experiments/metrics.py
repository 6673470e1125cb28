"""Metrics: what is measured of a unit, and which direction is better. Pure."""

from typing import Annotated, Final, Literal

import msgspec

from app.core.text import Key
from stats.multiplicity import Role

REWARD: Final = "reward"
"""The key of the metric that every experiment has: the reward of its definition."""

ASSIGNMENTS: Final = "assignments"
"""The denominator that counts a unit's assignments."""

Direction = Literal["higher", "lower"]
"""Which values are better."""

Quantile = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Scale = tuple[float, float]
"""The least and the greatest value that a signal is expected to have."""


def check_scale(scale: Scale | None) -> None:
    """Raise ValueError unless its lower bound is below the upper one."""
    if scale is not None and not scale[0] < scale[1]:
        raise ValueError(
            f"range must have its lower bound below the upper one, got {scale[0]:g} and {scale[1]:g}"
        )


class Proportion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="proportion"):
    """The share of units with a `signal` above 0, among all units with one.

    `silence` is the value of an assignment whose horizon passed without it; null: nothing is known
    of it.
    """

    signal: Key
    silence: Literal[0, 1] | None = None


class Mean(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mean"):
    """The mean over units of `signal`: of the mean of a unit's values, or of their sum.

    `silence` is the value of an assignment whose horizon passed without it; null: nothing is known
    of it. Values beyond the bounds of `cap` are set to them (winsorised); null leaves a side open.
    The bounds are fixed before the start: bounds taken from the data would move between looks. With
    both of them the metric is known to lie within, and has exact intervals also where a bandit
    allocates.

    `range` is the scale that values are expected on, such as 1 to 10 of a judge. A value outside of
    it counts as it is, and is reported: in the answer to the feedback, by the signals of the
    experiment, and in its status.

    Raises ValueError unless each lower bound is below the upper one.
    """

    signal: Key
    cap: tuple[float | None, float | None] = (None, None)
    per_unit: Literal["mean", "sum"] = "mean"
    silence: float | None = None
    range: Scale | None = None

    @property
    def expected(self) -> tuple[float | None, float | None]:
        """Range of expected signal values: `range`, else a `cap` with both bounds, else any."""
        if self.range is not None:
            return self.range
        return self.cap if None not in self.cap else (None, None)

    def __post_init__(self) -> None:
        check_scale(self.range)
        _check_cap(self.cap)


class Ratio(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ratio"):
    """The sum over units of `numerator` by the sum over units of `denominator`: clicks per session.

    The denominator `assignments` is how many assignments a unit has: cost per request. An
    assignment whose horizon passed without one of the two signals counts 0 in it, if it has the
    other.

    A unit whose own ratio lies beyond the bounds of `cap` counts with a numerator that brings it to
    the bound (winsorised); null leaves a side open. The bounds are fixed before the start.

    Raises ValueError unless the lower bound is below the upper one.
    """

    numerator: Key
    denominator: Key
    cap: tuple[float | None, float | None] = (None, None)

    def __post_init__(self) -> None:
        _check_cap(self.cap)


def _check_cap(cap: tuple[float | None, float | None]) -> None:
    lower, upper = cap
    if lower is not None and upper is not None and not lower < upper:
        raise ValueError(f"cap must have its lower bound below the upper one, got {lower:g} and {upper:g}")


class QuantileOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="quantile"):
    """The `q`-quantile over units of the mean of a unit's values of `signal`: 0.95 of a latency.

    `range` as for a mean. Raises ValueError unless its lower bound is below the upper one.
    """

    signal: Key
    q: Quantile = 0.95
    range: Scale | None = None

    def __post_init__(self) -> None:
        check_scale(self.range)


Measure = Proportion | Mean | Ratio | QuantileOf


class Margin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The margin by which a metric may get worse, in its unit or as a share of the control's value."""

    size: Annotated[float, msgspec.Meta(gt=0)]
    relative: bool = False


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric and its part in the decision.

    *primary*: decides what is better. *secondary*: what else one wants to know, corrected for their
    number. *guardrail*: must not get worse by more than its margin; tested on its own, never
    corrected.

    Raises ValueError if a guardrail has no margin.
    """

    key: Key
    measure: Measure
    role: Role = "secondary"
    direction: Direction = "higher"
    margin: Margin | None = None

    def __post_init__(self) -> None:
        if self.role == "guardrail" and self.margin is None:
            raise ValueError(f"the guardrail {self.key!r} needs a margin: by how much it may get worse")

    @property
    def kind(self) -> str:
        """Kind of the metric: proportion, mean, ratio or quantile."""
        return str(self.measure.__struct_config__.tag)

    @property
    def reads_silence(self) -> bool:
        """Whether a horizon that passes without a signal tells something."""
        return isinstance(self.measure, Ratio) or getattr(self.measure, "silence", None) is not None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Range in which the value of every unit lies; None if it is unknown."""
        match self.measure:
            case Proportion():
                return 0.0, 1.0
            case Mean(cap=(float() as lower, float() as upper)):
                return lower, upper
            case _:
                return None
