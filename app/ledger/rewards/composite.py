"""Composite rewards: each signal gets a score, and scores are combined. Pure.

A score is a whole number of billionths ("nano"), and a weight a whole number of millionths. So
weighted means are quotients of whole numbers, and do not depend on the order of signals.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.experiments.catalogue import CATALOGUE
from app.experiments.reward import Reward

NANO: Final = 1_000_000_000
_WEIGHT_PARTS: Final = 1_000_000

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Score(NamedTuple):
    """Rule that turns the values of one signal of a composite reward into scores in nanos.

    `points` are the calibration's values and scores. Without them, a `reference` above 0 halves the
    score; else the score is the place of the value between `low` and `high`. `weight` is in
    millionths; below 0 the score is turned around. `rank` orders signals for `first`. Of all
    signals with one `fact`, only the newest counts.
    """

    low: float
    high: float
    reference: float
    points: tuple[tuple[float, float], ...]
    weight: int
    rank: int
    fact: str

    def of(self, values: Floats) -> Integers:
        """Return the scores of values, in nanos."""
        if self.points:
            shares = _interpolated(values, self.points)
        elif self.reference:
            shares = self.reference / (self.reference + np.maximum(values, 0.0))
        else:
            shares = (values - self.low) / (self.high - self.low)
        scores = np.rint(np.clip(shares, 0.0, 1.0) * NANO).astype(np.int64)
        return NANO - scores if self.weight < 0 else scores


def scores_of(reward: Reward) -> dict[str, Score]:
    """Return how each signal of a composite reward is scored, by its name."""
    rank = {name: number for number, name in enumerate(reward.ranked)}
    return {name: _score(reward, name, rank[name]) for name in reward.signals}


def _score(reward: Reward, name: str, rank: int) -> Score:
    part, kind = reward.part(name), CATALOGUE.get(name)
    low, high = part.range or (0.0, 1.0)
    opposite = None if kind is None else kind.replaces
    return Score(
        low=low,
        high=high,
        reference=part.reference or 0.0,
        points=part.calibration,
        weight=round(part.weight * _WEIGHT_PARTS),
        rank=rank,
        fact=min(name, opposite) if opposite in reward.signals and opposite is not None else name,
    )


class Composing(NamedTuple):
    """The signals of composite rewards, in the order of their owners.

    `pair` is the position in `scores` of each signal. `combine` has the rule of each owner, at the
    owner's number.
    """

    owner: Integers
    at_us: Integers
    value: Floats
    pair: Integers
    scores: Sequence[Score]
    combine: NDArray[Any]


def composed(signals: Composing) -> tuple[Integers, Integers]:
    """Return the owners that have signals, and the reward of each in nanos.

    Each fact counts once, with its newest value; of values with one time the greatest.
    """
    owner, at_us, pair = signals.owner, signals.at_us, signals.pair
    score = np.empty(len(owner), np.int64)
    for number, rule in enumerate(signals.scores):
        chosen = pair == number
        score[chosen] = rule.of(signals.value[chosen])
    weight = np.array([abs(rule.weight) for rule in signals.scores], np.int64)[pair]
    rank = np.array([rule.rank for rule in signals.scores], np.int64)[pair]
    names = {fact: number for number, fact in enumerate(dict.fromkeys(rule.fact for rule in signals.scores))}
    fact = np.array([names[rule.fact] for rule in signals.scores], np.int64)[pair]
    # The last row of each owner and fact, in an order that depends on the values alone.
    order = np.lexsort((rank, score, signals.value, at_us, fact, owner))
    ends = np.ones(len(order), np.bool_)
    ends[:-1] = (owner[order[1:]] != owner[order[:-1]]) | (fact[order[1:]] != fact[order[:-1]])
    kept = order[ends]
    owner, at_us, score, weight, rank = owner[kept], at_us[kept], score[kept], weight[kept], rank[kept]
    owners, starts = np.unique(owner, return_index=True)
    if not len(owners):
        return owners, np.empty(0, np.int64)
    weights = np.add.reduceat(weight, starts)
    mean = (np.add.reduceat(weight * score, starts) + weights // 2) // weights
    by_time = np.lexsort((score, at_us, owner))
    last = score[by_time[np.append(starts[1:], len(owner)) - 1]]
    first = score[np.lexsort((rank, owner))[starts]]
    greatest = np.maximum.reduceat(score, starts)
    combine = signals.combine[owners]
    return owners, np.select(
        [combine == "mean", combine == "last", combine == "first"], [mean, last, first], greatest
    )


def _interpolated(values: Floats, points: Sequence[tuple[float, float]]) -> Floats:
    """Return the scores of values between the points, and the outer scores beyond them.

    Each element is computed alone, so a score does not depend on what else is in the batch.
    """
    x, y = (np.array(column) for column in zip(*points, strict=True))
    at = np.clip(np.searchsorted(x, values, side="right") - 1, 0, len(x) - 2)
    share = (np.clip(values, x[0], x[-1]) - x[at]) / (x[at + 1] - x[at])
    scores: Floats = y[at] + share * (y[at + 1] - y[at])
    return scores
