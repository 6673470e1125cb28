"""Posteriors of models and weights of segments, by which servers decide in a context. Pure.

Equal totals give equal bits on equal machines: the linear algebra is that of the installed numpy.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np

from app.allocation.forgetting import Learned
from app.allocation.model import scattered
from app.assignment import bucketing
from app.assignment.snapshot import PublishedContextual, PublishedSegments
from app.experiments.policies import PolicyRule, SegmentedThompsonPolicy
from app.experiments.policies.contextual import ContextualPolicy
from app.experiments.segments import segment_count
from app.ledger.learning.model import PolicyTotals, RewardSums, part_of_segment
from app.ledger.rewards.composite import NANO
from bandits.arms import BetaArms
from bandits.segments import partially_pooled
from bandits.thompson import thompson
from stats.totals import RewardTotals

_DIGEST_BYTES: Final = 16


def decided_by(
    policy: PolicyRule, learned: Learned, n_variants: int, active: Sequence[int] | None = None
) -> PublishedContextual | PublishedSegments | None:
    """Return what servers decide by in a context; None: the policy reads no contexts.

    `active` are the positions of the variants that are served, by default all.
    """
    match policy:
        case ContextualPolicy():
            return materialised(policy, learned[""], active)
        case SegmentedThompsonPolicy():
            return segmented(policy, learned, n_variants, active)
        case _:
            return None


def materialised(
    policy: ContextualPolicy, learned: Sequence[PolicyTotals], active: Sequence[int] | None = None
) -> PublishedContextual:
    """Return the posterior of the active variants, factorised.

    Hybrid models also learn from retired variants. Raises InvalidInput if the totals are not of
    the policy's model.
    """
    arms = policy.posterior(learned).arms()
    rows = list(range(len(arms.means)) if active is None else active)
    means, factors = arms.means[rows], arms.factors[rows]
    upper = np.triu_indices(means.shape[1])
    return PublishedContextual(
        rule=policy.decision,
        features=policy.features,
        exploration_floor=policy.exploration_floor,
        on_bad_context=policy.on_bad_context,
        width=policy.deviations,
        means=means.astype("<f8").tobytes(),
        factors=factors[:, *upper].astype("<f8").tobytes(),
        retired=tuple(position for position in range(len(arms.means)) if position not in rows),
    )


def segmented(
    policy: SegmentedThompsonPolicy, learned: Learned, n_variants: int, active: Sequence[int] | None = None
) -> PublishedSegments:
    """Return the weights in every segment, from the rewards in all of them; retired variants get 0."""
    rows, weights = list(range(n_variants) if active is None else active), []
    for arms in segment_arms(policy, learned, n_variants):
        served = BetaArms(arms.alpha[rows], arms.beta[rows])
        shares = thompson(served, exploration_floor=policy.exploration_floor).shares.tolist()
        weights.append(scattered(bucketing.parts(shares), rows, n_variants))
    return PublishedSegments(by=policy.by, weights=tuple(weights))


def segment_arms(policy: SegmentedThompsonPolicy, learned: Learned, n_variants: int) -> tuple[BetaArms, ...]:
    """Return the posteriors of the variants in each segment, pooled as far as segments agree."""
    nothing = [RewardSums()] * n_variants
    totals = []
    for number in range(segment_count(policy.by)):
        sums = learned.get(part_of_segment(number), nothing)
        rewards = [arm for arm in sums if isinstance(arm, RewardSums)]
        totals.append([RewardTotals(arm.n, arm.sum / NANO, arm.square_sum / NANO**2) for arm in rewards])
    return partially_pooled(totals).segments


def digest(by_context: PublishedContextual | PublishedSegments | None) -> bytes | None:
    """Return a digest of what servers decide by."""
    if by_context is None:
        return None
    return blake2b(msgspec.msgpack.encode(by_context), digest_size=_DIGEST_BYTES).digest()
