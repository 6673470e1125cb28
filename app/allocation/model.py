"""Allocation of an experiment from its totals. Pure."""

from collections.abc import Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final, TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace

from app.allocation.forgetting import Learned, remembered
from app.allocation.metrics import Moments, metric_posteriors
from app.assignment import bucketing
from app.experiments.model import Definition, Experiment
from app.experiments.policies.rule import Evidence
from app.ledger.learning.model import LossSums
from bandits.allocation import Allocation, limited
from bandits.arms import BetaArms
from bandits.exp3 import LossTotals
from bandits.forgetting import warm_start
from bandits.identification import Winner
from bandits.totals import ArmTotals
from stats.totals import RewardTotals

NANO: Final = 1_000_000_000
_T = TypeVar("_T")


class VariantTotals(msgspec.Struct, frozen=True):
    """The ledger's totals of one variant over all epochs.

    Rewards are in nanos, so sums are exact.
    """

    assignments: int = 0
    rewards: int = 0
    censored: int = 0
    reward_sum: int = 0
    reward_square_sum: int = 0

    @property
    def pending(self) -> int:
        """Number of assignments without a reward whose horizon has not passed."""
        return self.assignments - self.rewards - self.censored

    @property
    def reward_totals(self) -> RewardTotals:
        """Sufficient statistics of rewards in [0, 1]."""
        return RewardTotals(self.rewards, self.reward_sum / NANO, self.reward_square_sum / NANO**2)


class AllocationPoint(msgspec.Struct, frozen=True):
    """One version of an experiment's allocation."""

    version: int
    epoch: int
    at: datetime
    weights: tuple[int, ...]
    contextual: bytes | None = None
    """Digest of the posterior that was published with the weights."""
    winner: Winner | None = None
    """Which variant `best_arm` has decided for."""
    wanted: int | None = None
    """Number of the publication for which it was computed."""

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights as exact binary fractions that sum to 1."""
        return tuple(weight / bucketing.WHOLE for weight in self.weights)


class Allocated(msgspec.Struct, frozen=True):
    """The result of a reallocation: an `AllocationPoint` without its time."""

    weights: tuple[int, ...]
    digest: bytes | None
    winner: Winner | None
    wanted: int

    def is_in_force(self, latest: AllocationPoint | None, epoch: int) -> bool:
        """Return whether the latest allocation is already this one."""
        mine = epoch, self.weights, self.digest, self.winner
        return latest is not None and mine == (latest.epoch, latest.weights, latest.contextual, latest.winner)


def posteriors(
    definition: Definition, totals: Sequence[VariantTotals], earlier: Sequence[VariantTotals] = ()
) -> BetaArms:
    """Return the Beta posteriors of the variants' mean rewards.

    The prior is the policy's, with its warm start, if that is a Beta prior, and else uniform.
    `earlier` is that of `allocate`.
    """
    return definition.policy.posteriors(_with_earlier(definition, arm_totals(totals), earlier))


def allocate(
    definition: Definition,
    totals: Sequence[VariantTotals],
    *,
    learned: Learned | None = None,
    earlier: Sequence[VariantTotals] = (),
    moments: Moments = MappingProxyType({}),
    now_s: float = 0.0,
) -> tuple[int, ...]:
    """Return the policy's weights in parts of 2**32, in the order of the variants.

    Equal totals give equal bits. Retired variants get 0; the policy does not see them.

    `learned` is what the policy learns beyond the totals. Without it, a policy that forgets reads
    the totals as if all were of the present. `earlier` are the totals of its warm start, if any,
    and `moments` those of other metrics. Only policies that forget read `now_s`, in seconds since
    the Unix epoch.
    """
    active, n_variants = definition.active, len(totals)
    if len(active) == 1:
        return only(active[0], n_variants)
    if len(active) < n_variants:
        learned = None if learned is None else {part: _at(active, sums) for part, sums in learned.items()}
        earlier = _at(active, earlier) if earlier else ()
        moments = {key: _at(active, of_variants) for key, of_variants in moments.items() if of_variants}
    whole = (learned or {}).get("", ())
    losses = [sums for sums in whole if isinstance(sums, LossSums)] or [LossSums()] * len(active)
    loss_totals = LossTotals(np.array([sums.losses / NANO for sums in losses]))
    read, forgetting = arm_totals(_at(active, totals)), definition.policy.forgets
    if forgetting is not None and learned is not None:
        read = remembered(forgetting, learned, read, now_s)
    read = _with_earlier(definition, read, earlier)
    metrics = metric_posteriors(definition.metrics, moments)
    allocation = definition.policy.allocate(Evidence(definition.setting, read, loss_totals, metrics))
    return scattered(bucketing.parts(allocation.shares.tolist()), active, n_variants)


def standing_winner(experiment: Experiment, latest: AllocationPoint | None) -> Winner | None:
    """Return the winner that `best_arm` declared in this epoch; None if there is none.

    A decision stands, also if rewards are revised. The readout makes it: see `analysis`.
    """
    if latest is None or latest.epoch != experiment.epoch or len(experiment.definition.active) == 1:
        return None
    return latest.winner


def shadow_weights(
    experiment: Experiment, totals: Sequence[VariantTotals], winner: Winner | None = None
) -> tuple[int, ...] | None:
    """Return what the shadow policy, if any, would serve from the same totals, in parts of 2**32.

    Everything goes to the winner that a `best_arm` shadow policy would have declared. It has no
    memory: revised rewards may take the decision back.
    """
    if experiment.definition.shadow_policy is None:
        return None
    if winner is not None:
        return only(winner.arm, len(totals))
    return allocate(replace(experiment.definition, policy=experiment.definition.shadow_policy), totals)


def scattered(weights: Sequence[int], active: Sequence[int], n_variants: int) -> tuple[int, ...]:
    """Return the weights of the active variants at their positions among all; the others get 0."""
    by_position = dict(zip(active, weights, strict=True))
    return tuple(by_position.get(index, 0) for index in range(n_variants))


def _at(positions: Sequence[int], values: Sequence[_T]) -> tuple[_T, ...]:
    return tuple(values[position] for position in positions)


def only(variant: int, n_variants: int) -> tuple[int, ...]:
    """Return the weights that give all traffic to one variant."""
    return tuple(bucketing.WHOLE * (index == variant) for index in range(n_variants))


def with_held(experiment: Experiment, weights: tuple[int, ...]) -> tuple[int, ...]:
    """Replace weights by the shares that a rollout holds.

    The other variants share the remainder in the policy's proportions. If the policy gives them
    nothing, the control gets the remainder. Held shares that sum to 1 leave nothing.
    """
    variants = experiment.definition.variants
    held = [experiment.held.get(variant.key) for variant in variants]
    if all(share is None for share in held):
        return weights
    free = [weight if share is None else 0 for weight, share in zip(weights, held, strict=True)]
    if not any(free):
        free = [int(variant.control and share is None) for variant, share in zip(variants, held, strict=True)]
    remainder = max(1 - sum(share or 0.0 for share in held), 0.0)
    total = sum(free)
    return bucketing.parts(
        [
            remainder * weight / total if share is None and total else share or 0.0
            for weight, share in zip(free, held, strict=True)
        ]
    )


def within_step(
    definition: Definition, target: tuple[int, ...], latest: AllocationPoint | None, wanted: int
) -> tuple[int, ...]:
    """Go from the allocation in force towards the target as far as `step_max` allows.

    There is one step for each publication that was wanted; computing the same one again changes
    nothing.
    """
    step_max = definition.policy.step_limit
    if step_max is None or latest is None or len(latest.weights) != len(target):
        return target
    if latest.wanted == wanted:
        return latest.weights
    allowed = limited(_allocation(latest.weights), _allocation(target), step_max=step_max)
    return bucketing.parts(allowed.shares.tolist())


def _allocation(weights: Sequence[int]) -> Allocation:
    return Allocation(np.array(weights) / bucketing.WHOLE)


def _with_earlier(definition: Definition, read: ArmTotals, earlier: Sequence[VariantTotals]) -> ArmTotals:
    """Add what the policy's warm start makes of earlier totals."""
    warm = definition.policy.starts_from
    if warm is None or not earlier:
        return read
    return read + warm_start(arm_totals(earlier), discount=warm.discount, n_max=warm.n_max)


def arm_totals(totals: Sequence[VariantTotals]) -> ArmTotals:
    """Return what a policy reads: rewards in [0, 1], and what is pending."""
    return ArmTotals.of([total.reward_totals for total in totals], [total.pending for total in totals])
