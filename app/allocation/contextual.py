"""Posteriors of models and weights of segments, by which servers decide in a context. Pure.

Equal totals give equal bits on equal machines: the linear algebra is that of the installed numpy.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np

from app.allocation.forgetting import Learned
from app.assignment import bucketing
from app.assignment.snapshot import PublishedContextual, PublishedSegments
from app.experiments.policies import PolicyRule, SegmentedThompsonPolicy
from app.experiments.policies.contextual import ContextualPolicy
from app.experiments.segments import segment_count
from app.ledger.learning.model import PolicyTotals, RewardSums, part_of_segment
from app.ledger.rewards.model import NANO
from bandits.arms import BetaArms
from bandits.segments import partially_pooled
from bandits.thompson import thompson
from stats.totals import RewardTotals

_DIGEST_BYTES: Final = 16


def decided_by(
    policy: PolicyRule, learned: Learned, n_variants: int
) -> PublishedContextual | PublishedSegments | None:
    """Return what servers decide by in a context; None: the policy reads no contexts."""
    match policy:
        case ContextualPolicy():
            return materialised(policy, learned[""])
        case SegmentedThompsonPolicy():
            return segmented(policy, learned, n_variants)
        case _:
            return None


def materialised(policy: ContextualPolicy, learned: Sequence[PolicyTotals]) -> PublishedContextual:
    """Return a posterior, factorised.

    Raises InvalidInput if the totals are not of the policy's model.
    """
    arms = policy.posterior(learned).arms()
    upper = np.triu_indices(arms.means.shape[1])
    return PublishedContextual(
        rule=policy.decision,
        features=policy.features,
        exploration_floor=policy.exploration_floor,
        on_bad_context=policy.on_bad_context,
        width=policy.deviations,
        means=arms.means.astype("<f8").tobytes(),
        factors=arms.factors[:, *upper].astype("<f8").tobytes(),
    )


def segmented(policy: SegmentedThompsonPolicy, learned: Learned, n_variants: int) -> PublishedSegments:
    """Return the weights in every segment, from the rewards in all of them."""
    floor = policy.exploration_floor
    weights = [
        tuple(bucketing.parts(thompson(arms, exploration_floor=floor).shares.tolist()))
        for arms in segment_arms(policy, learned, n_variants)
    ]
    return PublishedSegments(by=policy.by, weights=tuple(weights))


def segment_arms(policy: SegmentedThompsonPolicy, learned: Learned, n_variants: int) -> tuple[BetaArms, ...]:
    """Return the posteriors of the variants in each segment, pooled as far as segments agree."""
    nothing = [RewardSums()] * n_variants
    totals = []
    for number in range(segment_count(policy.by)):
        sums = learned.get(part_of_segment(number), nothing)
        found = [one for one in sums if isinstance(one, RewardSums)]
        totals.append([RewardTotals(one.n, one.sum / NANO, one.square_sum / NANO**2) for one in found])
    return partially_pooled(totals).segments


def digest(by_context: PublishedContextual | PublishedSegments | None) -> bytes | None:
    """Return a digest of what servers decide by."""
    if by_context is None:
        return None
    return blake2b(msgspec.msgpack.encode(by_context), digest_size=_DIGEST_BYTES).digest()
