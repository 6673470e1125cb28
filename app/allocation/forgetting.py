"""Totals of a policy that forgets, from rewards by time. Pure.

Shares are a function of the totals by bucket and of the present bucket. They do not change within a
bucket.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from app.experiments.policies.forgetting import Discount, Window
from app.ledger.learning.model import PolicyTotals, RewardSums, part_of_bucket
from bandits.forgetting import discounted, windowed
from bandits.totals import ArmTotals
from stats.totals import RewardTotals

Learned = Mapping[str, Sequence[PolicyTotals]]
"""What a policy learned, by part, in the order of the variants."""

_NANO: Final = 1_000_000_000


def first_part(forgetting: Discount | Window, now_s: float) -> str:
    """Return the oldest part that counts at `now_s`, in seconds since the Unix epoch."""
    newest = int(now_s) // forgetting.bucket_s
    return part_of_bucket((newest - forgetting.buckets_max + 1) * forgetting.bucket_s)


def next_bucket_s(forgetting: Discount | Window, learned: Learned, now_s: float) -> int | None:
    """Return when time alone changes what is remembered; None: nothing is remembered."""
    if not any(totals.n for sums in learned.values() for totals in sums):
        return None
    return (int(now_s) // forgetting.bucket_s + 1) * forgetting.bucket_s


def by_time(learned: Learned) -> list[tuple[int, ArmTotals]]:
    """Return the start of each bucket, in seconds since the Unix epoch, and its sums, oldest first."""
    return [(int(part), _arms(learned[part])) for part in sorted(learned)]


def remembered(forgetting: Discount | Window, learned: Learned, plain: ArmTotals, now_s: float) -> ArmTotals:
    """Return totals as of the bucket of `now_s`, or of a newer bucket if clocks differ.

    `plain` gives what is pending. All rewards of a bucket have the same discount.
    """
    sums = dict(by_time(learned))
    present = max([int(now_s) // forgetting.bucket_s, *(start // forgetting.bucket_s for start in sums)])
    zeros = np.zeros(plain.n_arms)
    nothing = ArmTotals(zeros, zeros, zeros, zeros)
    numbers = range(present - forgetting.buckets_max + 1, present + 1)
    buckets = [sums.get(number * forgetting.bucket_s, nothing) for number in numbers]
    if isinstance(forgetting, Discount):
        factor = 2.0 ** (-forgetting.bucket_s / forgetting.half_life_s)
        return replace(discounted(buckets, factor=factor), pending=plain.pending)
    return replace(windowed(buckets, last=forgetting.buckets_max), pending=plain.pending)


def _arms(learned: Sequence[PolicyTotals]) -> ArmTotals:
    return ArmTotals.of(
        [
            RewardTotals(sums.n, sums.sum / _NANO, sums.square_sum / _NANO**2)
            for sums in learned
            if isinstance(sums, RewardSums)
        ]
    )
