"""What policies have learned besides the totals, in numbers for people. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from app.allocation.contextual import segment_arms, segmented
from app.allocation.forgetting import Learned, by_time
from app.assignment.bucketing import WHOLE
from app.experiments.policies import Policy, SegmentedThompsonPolicy
from app.experiments.policies.contextual import ContextualPolicy, LinearPolicy
from app.experiments.segments import segment_names
from app.ledger.learning.model import RewardSums, part_of_segment
from bandits.drift import detect
from bandits.features import Schema
from bandits.linear import LinearTotals
from bandits.logistic import LogisticTotals

_DRIFT_ALPHA: Final = 0.05


class VariantInSegment(msgspec.Struct, frozen=True):
    """One variant in a segment: rewards there, posterior mean with what other segments lend, and share."""

    variant: str
    rewards: int
    mean: float
    allocation: float


class SegmentBelief(msgspec.Struct, frozen=True):
    """One segment of `segmented_thompson`: the values of its attributes, and the variants in it."""

    segment: dict[str, str]
    variants: list[VariantInSegment]


class ModelBelief(msgspec.Struct, frozen=True):
    """What models of contexts rest on: their columns, the intercept included, and per variant the rewards.

    Rewards whose context did not fit the features are in no model. Of linear models besides: how many
    coefficients of a variant its rewards determine, the others being what the prior says, and the variance
    of rewards that the context does not explain.
    """

    columns: int
    rewards: dict[str, int]
    effective_columns: dict[str, float] | UnsetType = UNSET
    noise_variance: float | UnsetType = UNSET


class ChangedMean(msgspec.Struct, frozen=True):
    """A variant whose mean reward has changed, likeliest with the bucket that begins at `since`."""

    variant: str
    since: datetime


class DriftBelief(msgspec.Struct, frozen=True):
    """Whether means have changed in the buckets that the policy reads, by the evidence of each variant.

    A variant is called changed if its log evidence reaches the threshold. That some is although none has
    changed has a probability of at most 5 %: over all looks until the first bucket is forgotten, then at
    each look of its own.
    """

    changed: list[ChangedMean]
    log_evidence: dict[str, float]
    log_threshold: float


def drift_belief(policy: Policy, learned: Learned, variants: Sequence[str]) -> DriftBelief | UnsetType:
    """Whether there is something to forget; UNSET for policies that do not forget, and before any reward."""
    if policy.forgets is None or not learned:
        return UNSET
    starts, buckets = zip(*by_time(learned), strict=True)
    found = detect(buckets, alpha=_DRIFT_ALPHA)
    columns = zip(variants, found.changed.tolist(), found.since.tolist(), strict=True)
    return DriftBelief(
        [
            ChangedMean(variant, datetime.fromtimestamp(starts[since], UTC))
            for variant, changed, since in columns
            if changed and since < len(starts)  # else it comes after all that is known
        ],
        dict(zip(variants, found.log_evidence.tolist(), strict=True)),
        found.log_threshold,
    )


def segment_beliefs(
    policy: Policy, learned: Learned, variants: Sequence[str], active: Sequence[int]
) -> list[SegmentBelief] | UnsetType:
    """Of each segment, in the order of the declared values; UNSET for other policies."""
    if not isinstance(policy, SegmentedThompsonPolicy):
        return UNSET
    weights = segmented(policy, learned, len(variants), active).weights
    arms = segment_arms(policy, learned, len(variants))
    found = []
    for number, segment in enumerate(segment_names(policy.by)):
        sums = learned.get(part_of_segment(number), [RewardSums()] * len(variants))
        columns = zip(variants, sums, arms[number].mean.tolist(), weights[number], strict=True)
        rows = [
            VariantInSegment(variant, one.n, mean, weight / WHOLE)
            for variant, one, mean, weight in columns
            if isinstance(one, RewardSums)
        ]
        found.append(SegmentBelief(segment, rows))
    return found


def model_belief(policy: Policy, learned: Learned, variants: Sequence[str]) -> ModelBelief | UnsetType:
    """What the models of the variants rest on; UNSET for policies without."""
    if not isinstance(policy, ContextualPolicy):
        return UNSET
    rewards = {variant: _rows(one) for variant, one in zip(variants, learned.get("", ()), strict=True)}
    columns = Schema(policy.features).d
    linear = [one for one in learned.get("", ()) if isinstance(one, LinearTotals)]
    if not isinstance(policy, LinearPolicy) or len(linear) < len(variants):
        return ModelBelief(columns, rewards)
    posterior = policy.posterior(linear)
    effective = posterior.effective_parameters(linear).tolist()
    return ModelBelief(
        columns, rewards, dict(zip(variants, effective, strict=True)), float(posterior.noise_variance)
    )


def _rows(totals: object) -> int:
    match totals:
        case LinearTotals(n=n):
            return n
        case LogisticTotals(linear=linear):
            return linear.n
        case _:
            return 0
