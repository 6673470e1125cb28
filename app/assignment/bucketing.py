"""Draw of a variant from random bits or a unit, in integers, so that all languages agree.

Shares are whole parts of 2**32. A fresh draw compares 32 random bits with their cumulative sums. A
sticky draw is weighted rendezvous hashing by exponential clocks. Each variant's clock rings at
-ln(u) / weight, where u depends only on the unit and the variant. The first clock wins. P(variant)
is its weight. If weights change, a unit moves from i to j only if j's weight grew relative to i's.

Source: the minimum of independent exponentials; Schindelhauer & Schomaker (2005), "Weighted
distributed hash tables"; the finaliser of SplitMix64 from Steele, Lea & Flood (2014), OOPSLA.
"""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from hashlib import blake2b
from itertools import accumulate
from math import isfinite
from typing import Final

WHOLE: Final = 2**32
"""Number of parts of a share of 1."""

_MASK: Final = 2**64 - 1
_SCALE_BITS: Final = 72  # scale of -ln(u); its product with a weight fits 128 bits
_INDEX_BITS: Final = 10  # size of the table of logarithms


def parts(shares: Sequence[float]) -> tuple[int, ...]:
    """Round shares to whole parts of 2**32 that sum to exactly 2**32, by largest remainder.

    Shares are relative to their sum. Zero stays zero, and a positive share gets at least one part.
    Raises ValueError if a share is negative or not finite, or if no share is positive.
    """
    if not all(isfinite(share) and share >= 0 for share in shares) or not any(shares):
        raise ValueError(f"shares must be finite, >= 0 and not all 0; got {list(shares)}")
    exact = [Fraction(share) for share in shares]
    scale = WHOLE / sum(exact)
    quotas = [share * scale for share in exact]
    whole = [max(int(quota), int(quota > 0)) for quota in quotas]
    missing = WHOLE - sum(whole)
    if missing < 0:  # the largest share pays for shares that were raised to one part
        whole[whole.index(max(whole))] += missing
    else:
        by_remainder = sorted(range(len(whole)), key=lambda i: whole[i] - quotas[i])
        for index in by_remainder[:missing]:
            whole[index] += 1
    return tuple(whole)


def parts_near(shares: Sequence[float]) -> list[int]:
    """Round like `parts`, in a tenth of its time, shares whose sum is 1 up to rounding.

    The largest share gets all remaining parts. So a share differs from the exact one by less than
    K parts, while its propensity is still exact.
    """
    whole = [int(share * WHOLE) or int(share > 0) for share in shares]
    whole[whole.index(max(whole))] += WHOLE - sum(whole)
    return whole


def cumulative(weights: Sequence[int]) -> tuple[int, ...]:
    """Return the cumulative sums of weights. Raises ValueError if they do not sum to 2**32."""
    sums = tuple(accumulate(weights))
    if not sums or sums[-1] != WHOLE or min(weights) < 0:
        raise ValueError(f"weights must be >= 0 and sum to 2**32; got {list(weights)}")
    return sums


def draw(random32: int, cumulative: Sequence[int]) -> int:
    """Return the index at 32 random bits. Its probability is exactly its weight / 2**32."""
    return bisect_right(cumulative, random32)


def unit_hash(salt: bytes, unit: str) -> int:
    """Hash a unit to signed 64 bits: BLAKE2b of its UTF-8, keyed with the salt (up to 64 bytes)."""
    return int.from_bytes(blake2b(unit.encode(), digest_size=8, key=salt).digest(), "big", signed=True)


def part(share: float) -> int:
    """Return a share in whole parts of 2**32. The result is monotone in the share."""
    return round(share * WHOLE)


def layer_seed(layer: str) -> bytes:
    """Return the 32 bytes for `layer_point` that belong to a layer's key."""
    return blake2b(layer.encode(), digest_size=32, person=b"layer").digest()


def layer_point(seed: bytes, unit: str) -> int:
    """Return the unit's point in a layer, 0 to 2**32 - 1. It is the same for all experiments.

    These are 32 bits of the BLAKE2b of the unit's UTF-8, keyed with the layer's seed.
    """
    return int.from_bytes(blake2b(unit.encode(), digest_size=4, key=seed, person=b"unit").digest(), "big")


def variant_seed(salt: bytes, variant_key: str) -> int:
    """Return the 64 bits for `rendezvous` of a variant's key. Its position does not matter."""
    return int.from_bytes(
        blake2b(variant_key.encode(), digest_size=8, key=salt, person=b"variant").digest(), "big"
    )


def rendezvous(unit_hash: int, seeds: Sequence[int], weights: Sequence[int]) -> int:
    """Return the index whose clock rings first. At least one weight must be positive.

    A weight of zero never wins. A table of 1,024 logarithms and three terms of the series of
    -ln(1 - d) give -ln(u) with a relative error below 1e-9. So a variant's probability differs from
    its weight / 2**32 by less than 1e-8 of it.
    """
    winner, best, best_weight = -1, 0, 0
    for index, weight in enumerate(weights):
        if not weight:
            continue
        u = 2 * _mix(unit_hash & _MASK ^ seeds[index]) + 1  # out of 2**65: u is never 0 or 1
        # -ln(u) >= 1 - u, a bound that excludes most losers.
        if winner >= 0 and ((2**65 - u) << 7) * best_weight >= best * weight:
            continue
        clock = _minus_ln(u)
        if winner < 0 or clock * best_weight < best * weight:
            winner, best, best_weight = index, clock, weight
    return winner


def _mix(number: int) -> int:
    """Apply SplitMix64's finaliser, a bijection of 64 bits."""
    number = ((number ^ number >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ number >> 27) * 0x94D049BB133111EB) & _MASK
    return number ^ number >> 31


def _minus_ln(u: int) -> int:
    """Return -ln(u / 2**65) times 2**72, for odd u below 2**65."""
    zeros = 65 - u.bit_length()
    u <<= zeros
    index = u >> 54  # 1,024 to 2,047
    above = (index + 1) << 54
    d = ((above - u) << _SCALE_BITS) // above
    square = d * d >> _SCALE_BITS
    cube = square * d >> _SCALE_BITS
    return zeros * _LN2 + _TABLE[index - 1_024] + d + (square >> 1) + cube // 3


def _logarithms(guard_bits: int = 24) -> tuple[int, ...]:
    """Return -ln((1,025 + i) / 2,048) times 2**72, rounded, for i = 0 to 1,023, in integers."""
    unit = 1 << _SCALE_BITS + guard_bits
    size = 1 << _INDEX_BITS
    exact = [0]
    for number in range(2 * size - 1, size - 1, -1):
        exact.append(exact[-1] + _ln_ratio(number, unit))
    rounded = [(value + (1 << guard_bits - 1)) >> guard_bits for value in exact]
    return tuple(reversed(rounded))


def _ln_ratio(number: int, unit: int) -> int:
    """Return ln((number + 1) / number) times `unit`: the series of 2 atanh(1 / (2 number + 1))."""
    base = 2 * number + 1
    power, total, odd = unit // base, 0, 1
    while power:
        total += power // odd
        power //= base * base
        odd += 2
    return 2 * total


_LN2, *_TABLE = _logarithms()
