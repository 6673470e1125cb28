"""From what a contextual policy learned to what servers decide by: the posterior, factorised. Pure.

Equal totals give equal bits on equal machines: the linear algebra is that of the numpy in use.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np

from app.assignment.snapshot import PublishedContextual
from app.experiments.model import ContextualPolicy, LinearPolicy, LinUcbPolicy, LogisticTsPolicy
from app.feedback.learning import PolicyTotals
from bandits.contextual import LinearArms
from bandits.linear import LinearTotals, disjoint, hybrid
from bandits.logistic import LogisticTotals, logistic

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


def digest(contextual: PublishedContextual | None) -> bytes | None:
    """Differs where anything differs that servers decide by."""
    if contextual is None:
        return None
    return blake2b(msgspec.msgpack.encode(contextual), digest_size=_DIGEST_BYTES).digest()


def _arms(policy: ContextualPolicy, learned: Sequence[PolicyTotals]) -> LinearArms:
    if isinstance(policy, LogisticTsPolicy):
        return logistic([one for one in learned if isinstance(one, LogisticTotals)]).arms()
    linear = [one for one in learned if isinstance(one, LinearTotals)]
    together = isinstance(policy, LinearPolicy) and policy.hybrid
    return (hybrid(linear) if together else disjoint(linear)).arms()
