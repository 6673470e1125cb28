"""The probability sample: systematic within each stratum, by hash alone. Pure.

The rates of a stratum's responses lie end to end on a line. Each interval [k, k + 1) of the line
holds one point, whose place is a hash of the experiment's salt, the stratum and k. A response is in
the sample if its own piece of the line holds a point.

So a stratum of n responses never gets more than n * rate + 1 items. At a rate of 1 / m it gets
n * rate items, give or take one. At other rates a piece that meets two points is one item, and its
inclusion probability says so. A rate may change at any response. Without the salt, the next item
cannot be predicted.

Source: Särndal, Swensson & Wretman (1992), Model Assisted Survey Sampling, sections 3.4 and 3.6. We
depart from systematic sampling: each interval has a point of its own instead of one random start,
so that a period in the traffic cannot meet the same place again and again.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final
from uuid import UUID

import msgspec

NANO: Final = 1_000_000_000


class Stratum(msgspec.Struct, frozen=True):
    """A variant and a segment of an experiment."""

    variant: int
    segment: str


class Progress(msgspec.Struct, frozen=True):
    """Progress of the sample in a stratum: `mass` is the sum of the rates, in nano."""

    responses: int = 0
    sampled: int = 0
    mass: int = 0


def step(progress: Progress, rate: float, salt: bytes, stratum: Stratum) -> tuple[Progress, float | None]:
    """Return the progress after one more response, and its inclusion probability if it is sampled.

    Worked by hand: at rate 0.4 and mass 0.8 the piece [0.8, 1.2) covers a fifth of two intervals
    each. It is sampled with probability 1 - 0.8 * 0.8 = 0.36.
    """
    length = min(NANO, max(0, round(rate * NANO)))
    begin, end = progress.mass, progress.mass + length
    chosen, missed = False, 1.0
    for interval, low, high in _pieces(begin, end):
        missed *= 1 - (high - low) / NANO
        chosen = chosen or low <= _point(salt, stratum, interval) < high
    after = Progress(progress.responses + 1, progress.sampled + chosen, end)
    return after, 1 - missed if chosen else None


def rank(salt: bytes, response_key: UUID) -> int:
    """Return the place of an item in the order of claims, a signed 64-bit hash.

    Reviewers take items by rank and not by age. So what is reviewed first is a random part of the
    sample, even if they never finish it.
    """
    return int.from_bytes(_hash(salt, b"rank", response_key.bytes), "big", signed=True)


def _pieces(begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield each interval that a piece of the line meets, and the part of it that it covers."""
    for interval in range(begin // NANO, -(-end // NANO)):
        start = interval * NANO
        yield interval, max(begin - start, 0), min(end - start, NANO)


def _point(salt: bytes, stratum: Stratum, interval: int) -> int:
    place = b"%d\0%b\0%d" % (stratum.variant, stratum.segment.encode(), interval)
    return int.from_bytes(_hash(salt, b"review sample", place), "big") % NANO


def _hash(salt: bytes, purpose: bytes, text: bytes) -> bytes:
    return blake2b(text, digest_size=8, key=salt, person=purpose[:16].ljust(16, b"\0")).digest()
