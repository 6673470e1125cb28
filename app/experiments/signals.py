"""Signals that an experiment reads, and the values that it expects of them. Pure."""

from collections.abc import Iterable
from difflib import get_close_matches

import msgspec

from app.experiments import limits
from app.experiments.metrics import ASSIGNMENTS, Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.reward import Reward


class SignalUse(msgspec.Struct, frozen=True, array_like=True):
    """The values that an experiment expects of one signal.

    Values below `low` or above `high` are outside of the declared range; null leaves a side open.
    `needs_value`: it measures something, so that an event without a value is most likely a mistake.
    """

    low: float | None = None
    high: float | None = None
    needs_value: bool = False

    def excludes(self, value: float) -> bool:
        """Return whether a value is outside of the declared range."""
        return (self.low is not None and value < self.low) or (self.high is not None and value > self.high)


def signals_of_metrics(metrics: Iterable[Metric]) -> dict[str, SignalUse]:
    """Return the signals that metrics read.

    If several metrics read one signal, all their bounds hold.
    """
    uses: dict[str, SignalUse] = {}
    for metric in metrics:
        for name, use in _uses(metric):
            uses[name] = _both(uses[name], use) if name in uses else use
    return uses


def signals_of(reward: Reward, metrics: Iterable[Metric]) -> dict[str, SignalUse]:
    """Return the signals that the reward or a metric reads."""
    return with_reward(reward, signals_of_metrics(metrics))


def with_reward(reward: Reward, of_metrics: dict[str, SignalUse]) -> dict[str, SignalUse]:
    """Add the signals of the reward, with the ranges of their values.

    In a sum the range is that of the sum: a single value may be negative, but is not greater in
    size than both bounds. A signal with a catalogue value needs no value.
    """
    uses = dict(of_metrics)
    for name in reward.signals:
        use = _use_of_reward(reward, name)
        both = _both(uses[name], use) if name in uses else use
        uses[name] = msgspec.structs.replace(both, needs_value=use.needs_value)
    return uses


def _use_of_reward(reward: Reward, name: str) -> SignalUse:
    if reward.combine == "sum":
        size = max(abs(reward.range[0]), abs(reward.range[1]))
        return SignalUse(-size, size)
    part = reward.part(name)
    low, high = (0.0, None) if part.reference is not None else part.range or (None, None)
    return SignalUse(low, high, needs_value=part.is_measured and reward.default(name) is None)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is spelt most like `name`, or None."""
    if len(name) > limits.SUGGESTION_LENGTH_MAX:
        return None
    return next(iter(get_close_matches(name, sorted(known), n=1)), None)


def _uses(metric: Metric) -> Iterable[tuple[str, SignalUse]]:
    match metric.measure:
        case Proportion(signal=signal):
            return [(signal, SignalUse(0.0, 1.0))]
        case Mean(signal=signal, per_unit=per_unit, silence=silence) as mean:
            low, high = mean.expected
            return [(signal, SignalUse(low, high, needs_value=per_unit == "mean" and silence is None))]
        case QuantileOf(signal=signal, range=bounds):
            low, high = bounds or (None, None)
            return [(signal, SignalUse(low, high, needs_value=True))]
        case Ratio(numerator=numerator, denominator=denominator):
            names = [numerator] if denominator == ASSIGNMENTS else [numerator, denominator]
            return [(name, SignalUse()) for name in names]


def _both(first: SignalUse, second: SignalUse) -> SignalUse:
    lows = [use.low for use in (first, second) if use.low is not None]
    highs = [use.high for use in (first, second) if use.high is not None]
    return SignalUse(
        max(lows, default=None), min(highs, default=None), first.needs_value or second.needs_value
    )
