"""From what a policy that reads contexts learned to what servers decide by. Pure.

Of linear models the posterior, factorised; of segments the weights in each.

Equal totals give equal bits on equal machines: the linear algebra is that of the numpy in use.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np

from app.allocation.forgetting import Learned
from app.assignment import bucketing
from app.assignment.snapshot import PublishedContextual, PublishedSegments
from app.experiments.model import (
    ContextualPolicy,
    LinearPolicy,
    LinUcbPolicy,
    LogisticTsPolicy,
    SegmentedThompsonPolicy,
)
from app.experiments.segments import segment_count
from app.ledger.learning.model import PolicyTotals, RewardSums, part_of_segment
from app.ledger.rewards.model import NANO
from bandits.arms import BetaArms
from bandits.contextual import LinearArms
from bandits.linear import LinearPosterior, LinearTotals, disjoint, hybrid
from bandits.logistic import LogisticTotals, logistic
from bandits.segments import partially_pooled
from bandits.thompson import thompson
from stats.totals import RewardTotals

_DIGEST_BYTES: Final = 16


def materialised(policy: ContextualPolicy, learned: Sequence[PolicyTotals]) -> PublishedContextual:
    """What servers need to decide in any context. Raises InvalidInput if the totals are not the policy's."""
    arms = _arms(policy, learned)
    ucb = isinstance(policy, LinUcbPolicy)
    upper = np.triu_indices(arms.means.shape[1])
    return PublishedContextual(
        rule="ucb" if ucb else "thompson",
        features=policy.features,
        exploration_floor=policy.exploration_floor,
        on_bad_context=policy.on_bad_context,
        width=policy.width if isinstance(policy, LinUcbPolicy) else 0.0,
        means=arms.means.astype("<f8").tobytes(),
        factors=arms.factors[:, *upper].astype("<f8").tobytes(),
    )


def linear_posterior(policy: ContextualPolicy, totals: Sequence[LinearTotals]) -> LinearPosterior:
    """What a policy with linear models believes of the variants."""
    together = isinstance(policy, LinearPolicy) and policy.hybrid
    return hybrid(totals) if together else disjoint(totals)


def segmented(policy: SegmentedThompsonPolicy, learned: Learned, n_variants: int) -> PublishedSegments:
    """The weights in every segment, from the rewards in all of them."""
    floor = policy.exploration_floor
    weights = [
        tuple(bucketing.parts(thompson(arms, exploration_floor=floor).shares.tolist()))
        for arms in segment_arms(policy, learned, n_variants)
    ]
    return PublishedSegments(by=policy.by, weights=tuple(weights))


def segment_arms(policy: SegmentedThompsonPolicy, learned: Learned, n_variants: int) -> tuple[BetaArms, ...]:
    """The posteriors of the variants in each segment, drawn together as far as segments agree."""
    nothing = [RewardSums()] * n_variants
    totals = []
    for number in range(segment_count(policy.by)):
        sums = learned.get(part_of_segment(number), nothing)
        found = [one for one in sums if isinstance(one, RewardSums)]
        totals.append([RewardTotals(one.n, one.sum / NANO, one.square_sum / NANO**2) for one in found])
    return partially_pooled(totals).segments


def digest(by_context: PublishedContextual | PublishedSegments | None) -> bytes | None:
    """Differs where anything differs that servers decide by."""
    if by_context is None:
        return None
    return blake2b(msgspec.msgpack.encode(by_context), digest_size=_DIGEST_BYTES).digest()


def _arms(policy: ContextualPolicy, learned: Sequence[PolicyTotals]) -> LinearArms:
    if isinstance(policy, LogisticTsPolicy):
        return logistic([one for one in learned if isinstance(one, LogisticTotals)]).arms()
    linear = [one for one in learned if isinstance(one, LinearTotals)]
    return linear_posterior(policy, linear).arms()
