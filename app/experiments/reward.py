"""Rewards: rules that turn the signals of one assignment into one number. Pure."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, cast

import msgspec

from app.core.limits import HORIZON_S_MAX
from app.core.text import Key
from app.experiments import limits
from app.experiments.catalogue import CATALOGUE, SignalKind
from app.experiments.policies.rule import Share

RewardValue = Annotated[float, msgspec.Meta(ge=-limits.REWARD_VALUE_MAX, le=limits.REWARD_VALUE_MAX)]
Combine = Literal["last", "sum", "max", "mean", "first"]
Scale = tuple[RewardValue, RewardValue]

UNIT_SCALE: Final = (0.0, 1.0)
SIGNED_SCALE: Final = (-1.0, 1.0)


class RewardSignal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One signal of a composite reward, and how its value becomes a score in [0, 1].

    * `range` maps its lower end to 0 and its upper end to 1. Values outside of it are refused.
    * `reference` is for an amount that costs, such as latency: 0 scores 1, the reference scores
      0.5, and larger amounts approach 0.
    * `calibration` has points of a monotone map, [value, score], with straight lines between them
      and the outer scores beyond them. It takes the place of the map of `range`.

    `weight` is the part of the score in a weighted mean. If it is negative, the score is turned
    around, and counts with the size of the weight. `value` stands for the value of an event
    without one.
    """

    weight: Annotated[float, msgspec.Meta(ge=-limits.REWARD_WEIGHT_MAX, le=limits.REWARD_WEIGHT_MAX)] = 1.0
    value: RewardValue | None = None
    range: Scale | None = None
    reference: Annotated[float, msgspec.Meta(gt=0, le=limits.REWARD_VALUE_MAX)] | None = None
    calibration: tuple[tuple[RewardValue, Share], ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether the signal measures something, so that an event without a value says nothing."""
        scaled = self.range is not None or self.reference is not None or bool(self.calibration)
        return scaled and self.value is None

    def completed(self, kind: SignalKind | None, scale: Scale) -> "RewardSignal":
        """Return the signal with what it lacks of the range and value of its kind.

        An event without a kind gets `scale`. An amount on an open scale stays incomplete.
        """
        if self.range is not None or self.reference is not None:
            return self
        if kind is None:
            if self.calibration:
                return self
            happened = 1.0 if self.value is None else self.value
            return msgspec.structs.replace(self, range=scale, value=happened)
        value = kind.value if self.value is None and not self.calibration else self.value
        return msgspec.structs.replace(self, range=kind.scale, value=value)


class Reward(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rule that turns the signals of one assignment into one number in [0, 1].

    `signals` maps the name of a signal to a number or to a `RewardSignal`. A number is the
    catalogue value of the signal, on the scale of `range`; a value sent with the signal replaces
    it. `range` is [0, 1], or [-1, 1] if a number is negative, unless it is given.

    `combine` takes the `last` value by time, the `sum` or the `max` of the current values, or their
    weighted `mean`. `first` takes the value of the first signal that is there, in `order`, which by
    default is the order of `signals`. The result is clipped to `range` and scaled to [0, 1]. While
    one of the `required` signals is missing, there is no reward.

    Signals later than `horizon_s` after the assignment do not count. `silence` is the reward (in
    [0, 1]) of an assignment without signals at its horizon; null: censored.
    """

    signals: dict[Key, RewardValue | RewardSignal] = msgspec.field(
        default_factory=lambda: {"thumbs_up": 1.0, "thumbs_down": 0.0}
    )
    combine: Combine = "last"
    range: Scale = None  # type: ignore[assignment]  # filled in below; null is refused
    horizon_s: Annotated[float, msgspec.Meta(gt=0, le=HORIZON_S_MAX)] = 3_600.0
    silence: Share | None = None
    order: tuple[Key, ...] = ()
    required: tuple[Key, ...] = ()

    def __post_init__(self) -> None:
        if cast("Scale | None", self.range) is None:
            numbers = (worth for worth in self.signals.values() if not isinstance(worth, RewardSignal))
            scale = SIGNED_SCALE if any(number < 0 for number in numbers) else UNIT_SCALE
            msgspec.structs.force_setattr(self, "range", scale)

    @property
    def is_composite(self) -> bool:
        """Whether each signal has a score of its own before scores are combined."""
        parts = any(isinstance(worth, RewardSignal) for worth in self.signals.values())
        return parts or self.combine in {"mean", "first"}

    @property
    def ranked(self) -> tuple[str, ...]:
        """Names of the signals, the first one that counts first."""
        return self.order or tuple(self.signals)

    def part(self, name: str) -> RewardSignal:
        """Return how the signal with this name is scored."""
        worth = self.signals[name]
        if not isinstance(worth, RewardSignal):
            return RewardSignal(value=worth, range=self.range)
        scaled = worth.range is not None or worth.reference is not None or worth.calibration
        return worth if scaled else msgspec.structs.replace(worth, range=self.range)

    def default(self, name: str) -> float | None:
        """Return the value of an event without one; None if it needs one."""
        worth = self.signals[name]
        if not isinstance(worth, RewardSignal):
            return worth
        return None if worth.is_measured else 1.0 if worth.value is None else worth.value

    def bounds(self, name: str) -> tuple[float | None, float | None]:
        """Return the range of the values that a signal may have; null leaves a side open."""
        if self.combine == "sum":
            return None, None
        part = self.part(name)
        return (None, None) if part.range is None else part.range

    def completed(self, declared: Mapping[str, SignalKind]) -> "Reward":
        """Return the reward with the ranges and values of the declared kinds or the catalogue.

        The result holds all that rewards depend on, so a later catalogue does not change them.
        """
        signals = {
            name: worth.completed(declared.get(name) or CATALOGUE.get(name), self.range)
            if isinstance(worth, RewardSignal)
            else worth
            for name, worth in self.signals.items()
        }
        return self if signals == self.signals else msgspec.structs.replace(self, signals=signals)
