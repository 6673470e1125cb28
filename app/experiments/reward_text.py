"""Descriptions of rewards for people. Pure."""

from typing import Final

from app.experiments.reward import Combine, Reward, RewardSignal

_SIGNALS_SHOWN: Final = 8
_COMBINED: Final[dict[Combine, str]] = {
    "last": "the last of",
    "sum": "the sum of",
    "max": "the greatest of",
    "mean": "the weighted mean of those present of",
    "first": "the first present of",
}


def reward_in_words(reward: Reward) -> str:
    """Return one sentence that says how a reward is computed.

    Worked by hand: `the last of thumbs_up (1) and thumbs_down (0) within 1 h, on the scale 0 to 1;
    silence does not count`.
    """
    names = reward.ranked if reward.combine == "first" else tuple(reward.signals)
    signals = [f"{name} ({_signal(reward.signals[name])})" for name in names[:_SIGNALS_SHOWN]]
    if len(names) > _SIGNALS_SHOWN:
        signals.append(f"{len(names) - _SIGNALS_SHOWN} more")
    combined = f"{_COMBINED[reward.combine]} {_listed(signals)}" if len(names) > 1 else signals[0]
    numbers = any(not isinstance(worth, RewardSignal) for worth in reward.signals.values())
    scale = f", on the scale {reward.range[0]:g} to {reward.range[1]:g}" if numbers else ""
    needs = f"; needs {_listed(reward.required)}" if reward.required else ""
    return f"{combined} within {duration(reward.horizon_s)}{scale}{needs}; silence {silence(reward)}"


def silence(reward: Reward) -> str:
    """Return what an assignment without signals counts."""
    return "does not count" if reward.silence is None else f"counts as {reward.silence:g}"


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that it fills."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def _signal(worth: float | RewardSignal) -> str:
    if not isinstance(worth, RewardSignal):
        return f"{worth:g}"
    parts = [f"weight {worth.weight:g}"] if worth.weight != 1 else []
    if worth.calibration:
        parts.append("calibrated")
    elif worth.reference is not None:
        parts.append(f"half at {worth.reference:,g}")
    elif worth.range is not None:
        parts.append(f"{worth.range[0]:g} to {worth.range[1]:g}")
    return ", ".join(parts) or "weight 1"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
