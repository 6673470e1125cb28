"""Composite rewards as the documentation describes them, in plain Python."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from app.experiments.reward import Reward


def score(name: str, value: float, reward: Reward) -> int:
    """Return the score of a value in nanos, rounded once."""
    part, exact = reward.part(name), Fraction(value)
    if part.calibration:
        points = [(Fraction(x), Fraction(y)) for x, y in part.calibration]
        share = points[0][1] if exact <= points[0][0] else points[-1][1]
        for (x0, y0), (x1, y1) in pairwise(points):
            if x0 < exact < x1:
                share = y0 + (exact - x0) / (x1 - x0) * (y1 - y0)
    elif part.reference is not None:
        share = Fraction(part.reference) / (Fraction(part.reference) + max(exact, Fraction(0)))
    else:
        assert part.range is not None
        low, high = map(Fraction, part.range)
        share = (exact - low) / (high - low)
    nanos = round(min(max(share, Fraction(0)), Fraction(1)) * 10**9)
    return 10**9 - nanos if part.weight < 0 else nanos


def composite_reward(reward: Reward, events: Sequence[tuple[str, int, float]]) -> int | None:
    """Return the reward, in nanos, of signals in time: (name, time, value). None: no reward."""
    newest: dict[str, tuple[tuple[int, float, int, int], str]] = {}
    for name, at, value in events:
        if name in reward.signals:
            fact = "thumbs" if name in {"thumbs_up", "thumbs_down"} else name
            row = (at, value, score(name, value, reward), reward.ranked.index(name)), name
            newest[fact] = max(newest.get(fact, row), row)
    if not newest or not set(reward.required) <= {name for name, _, _ in events}:
        return None
    rows = [(at, nanos, name) for (at, _, nanos, _), name in newest.values()]
    if reward.combine == "last":
        return max(rows)[1]
    if reward.combine == "max":
        return max(nanos for _, nanos, _ in rows)
    if reward.combine == "first":
        return min(rows, key=lambda row: reward.ranked.index(row[2]))[1]
    weights = {name: abs(Fraction(str(reward.part(name).weight))) for _, _, name in rows}
    mean = sum((weights[name] * nanos for _, nanos, name in rows), Fraction(0)) / sum(weights.values())
    return int(mean + Fraction(1, 2))
