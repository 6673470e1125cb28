"""Sampling of responses: the chosen ones, and the probability of each. Pure.

Responses of one stratum (epoch and variant) that arrive within one window form a group. A group of
N keeps a reservoir: those with the least points, where the point of a response is a hash. When the
window closes, the n first of the reservoir are judged, so each of the N has the probability n / N.
As n is rounded up or down at random, the probability is exactly the planned one, also where the
planned number is below 1. All of it follows from hashes: the same responses in the same windows
give the same sample, in whatever order they arrive.

Flagged responses are strata of their own, with rate 1. They are judged at once, unless a budget
lowers their rate.

Source: Särndal, Swensson & Wretman (1992), Model Assisted Survey Sampling, sections 2.4 and 3.6
(bottom-n of random points is simple random sampling without replacement).
"""

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple
from uuid import UUID

from app.judging import limits

FLAGGED: Final = "flagged"
"""Beginning of the names of strata of flagged responses."""

_POINTS: Final = 2**63


class Draw(NamedTuple):
    """Number of a group that is judged, and the probability of each member of the group."""

    n: int
    probability: float


def salt_of(experiment_id: int, judge: str) -> bytes:
    """Return the salt of a judge in an experiment.

    All versions of a judge share it, so that rules with the same rate judge the same responses.
    """
    return blake2b(f"{experiment_id}/{judge}".encode(), digest_size=16, person=b"wald-judging").digest()


def point(salt: bytes, response_key: UUID) -> int:
    """Return the place of a response in the order of a reservoir, in [0, 2**63)."""
    return _hash(salt, b"point", response_key.bytes)


def coin(salt: bytes, group: str) -> float:
    """Return a number in [0, 1) that depends on the name of a group alone."""
    return _hash(salt, b"coin", group.encode()) / _POINTS


def is_repeated(judgement_id: UUID) -> bool:
    """Return whether a judgement is measured twice, to see how often the verdict flips.

    It depends on the id alone, so never on the verdict. The share is `REPEAT_RATE`.
    """
    return _hash(b"", b"repeat", judgement_id.bytes) < limits.REPEAT_RATE * _POINTS


class Stratum(NamedTuple):
    """Responses of one epoch and variant that are flagged, or that are not."""

    epoch: int
    variant: int
    flagged: bool

    @property
    def name(self) -> str:
        """Name by which it is stored."""
        return f"{FLAGGED}/{self.epoch}/{self.variant}" if self.flagged else f"{self.epoch}/{self.variant}"


def boosted(rate: float, variant: int, seen: Mapping[int, int], n_variants: int) -> float:
    """Return the rate of a variant, higher for a new one and for a small one, at most 1.

    `seen` has the eligible responses of each variant before this window. A variant with fewer than
    `NEW_VARIANT_RESPONSES` is new and gets the full boost, if others are not. A variant with less
    than an equal share gets the inverse of its part of that share, at most `BOOST_MAX`.

    Worked by hand: of 1,000 responses of two variants 250 are of the second. Its part of an equal
    share is 250 / 500, so its rate is twice the rule's.
    """
    total = sum(seen.values())
    mine = seen.get(variant, 0)
    if total < n_variants * limits.NEW_VARIANT_RESPONSES and total - mine < limits.NEW_VARIANT_RESPONSES:
        return rate  # everything is new
    if mine < limits.NEW_VARIANT_RESPONSES:
        boost = limits.BOOST_MAX
    else:
        boost = min(limits.BOOST_MAX, max(1.0, total / n_variants / mine))
    return min(1.0, rate * boost)


def draw(planned: float, n_group: int, *, coin: float, reservoir_max: int) -> Draw:
    """Return the draw of `planned` members, on average, from a group of `n_group`.

    Worked by hand: draw(2.25, 10, coin=0.8, reservoir_max=100) rounds 2.25 + 0.8 down to 3; each of
    the 10 has the probability 0.225.
    """
    expected = min(planned, float(n_group), float(reservoir_max))
    return Draw(math.floor(expected + coin), expected / n_group)


def chosen(points: Sequence[int], n: int) -> set[int]:
    """Return the positions of the `n` least points."""
    return set(sorted(range(len(points)), key=points.__getitem__)[:n])


def _hash(salt: bytes, person: bytes, content: bytes) -> int:
    digest = blake2b(content, digest_size=8, key=salt, person=person).digest()
    return int.from_bytes(digest, "big") >> 1
