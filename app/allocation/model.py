"""From an experiment's totals to its allocation. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from app.allocation.shares import shares
from app.assignment import bucketing
from app.experiments.model import Definition, PosteriorPolicy
from bandits.arms import BetaArms
from bandits.totals import ArmTotals
from stats.totals import RewardTotals

NANO: Final = 1_000_000_000


class VariantTotals(msgspec.Struct, frozen=True):
    """What the ledger knows of one variant, over all epochs. Rewards in nanos, so sums are exact."""

    assignments: int = 0
    rewards: int = 0
    censored: int = 0
    reward_sum: int = 0
    reward_square_sum: int = 0

    @property
    def pending(self) -> int:
        """Assignments whose horizon has not passed and that have no reward yet."""
        return self.assignments - self.rewards - self.censored

    @property
    def reward_totals(self) -> RewardTotals:
        """The sufficient statistics of rewards in [0, 1]."""
        return RewardTotals(self.rewards, self.reward_sum / NANO, self.reward_square_sum / NANO**2)


class AllocationPoint(msgspec.Struct, frozen=True):
    """One version of an experiment's allocation."""

    version: int
    epoch: int
    at: datetime
    weights: tuple[int, ...]
    contextual: bytes | None = None
    """Digest of the posterior that was published with the weights."""

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights as exact binary fractions that sum to 1."""
        return tuple(weight / bucketing.WHOLE for weight in self.weights)


def posteriors(definition: Definition, totals: Sequence[VariantTotals]) -> BetaArms:
    """The Beta posteriors of the variants' mean rewards.

    Under the policy's prior where that is a Beta prior, else under the uniform one.
    """
    rewards = [total.reward_totals for total in totals]
    policy = definition.policy
    if not isinstance(policy, PosteriorPolicy) or policy.family != "beta":
        return BetaArms.from_totals(rewards)
    return BetaArms.from_totals(rewards, prior_alpha=policy.prior.alpha, prior_beta=policy.prior.beta)


def allocate(definition: Definition, totals: Sequence[VariantTotals]) -> tuple[int, ...]:
    """The policy's weights in parts of 2**32, in the order of the variants. Equal totals, equal bits."""
    return bucketing.parts(shares(definition, arm_totals(totals)).shares.tolist())


def arm_totals(totals: Sequence[VariantTotals]) -> ArmTotals:
    """What a policy reads of them: rewards in [0, 1], and what is pending."""
    return ArmTotals.of([total.reward_totals for total in totals], [total.pending for total in totals])
