"""Numbers about what policies learned in addition to the totals. Pure."""

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
    """One variant in a segment: its rewards, its posterior mean and its share there."""

    variant: str
    rewards: int
    mean: float
    allocation: float


class SegmentBelief(msgspec.Struct, frozen=True):
    """One segment of `segmented_thompson`: the values of its attributes, and the variants in it."""

    segment: dict[str, str]
    variants: list[VariantInSegment]


class ModelBelief(msgspec.Struct, frozen=True):
    """The data of models of contexts: their columns with the intercept, and the rewards per variant.

    Rewards whose context did not fit the features are in no model. `effective_columns`, of linear models, is
    how many coefficients of a variant its rewards determine; the prior determines the others.
    `noise_variance` is the variance of rewards that the context does not explain.
    """

    columns: int
    rewards: dict[str, int]
    effective_columns: dict[str, float] | UnsetType = UNSET
    noise_variance: float | UnsetType = UNSET


class ChangedMean(msgspec.Struct, frozen=True):
    """A variant whose mean reward has changed, most likely in the bucket that begins at `since`."""

    variant: str
    since: datetime


class DriftBelief(msgspec.Struct, frozen=True):
    """The variants whose means changed in the buckets that the policy reads, and the evidence of each.

    A variant has changed if its log evidence reaches the threshold. A false change of any variant has a
    probability of at most 5 %: over all looks until the first bucket is forgotten, then at each look.
    """

    changed: list[ChangedMean]
    log_evidence: dict[str, float]
    log_threshold: float


def drift_belief(policy: Policy, learned: Learned, variants: Sequence[str]) -> DriftBelief | UnsetType:
    """Return the drift of means; UNSET for policies that do not forget, and before any reward."""
    if policy.forgets is None or not learned:
        return UNSET
    starts, buckets = zip(*by_time(learned), strict=True)
    drift = detect(buckets, alpha=_DRIFT_ALPHA)
    columns = zip(variants, drift.changed.tolist(), drift.since.tolist(), strict=True)
    return DriftBelief(
        [
            ChangedMean(variant, datetime.fromtimestamp(starts[since], UTC))
            for variant, changed, since in columns
            if changed and since < len(starts)  # a later bucket has no data yet
        ],
        dict(zip(variants, drift.log_evidence.tolist(), strict=True)),
        drift.log_threshold,
    )


def segment_beliefs(
    policy: Policy, learned: Learned, variants: Sequence[str], active: Sequence[int]
) -> list[SegmentBelief] | UnsetType:
    """Return the belief about each segment, in the declared order; UNSET for other policies."""
    if not isinstance(policy, SegmentedThompsonPolicy):
        return UNSET
    weights = segmented(policy, learned, len(variants), active).weights
    arms = segment_arms(policy, learned, len(variants))
    beliefs = []
    for number, segment in enumerate(segment_names(policy.by)):
        sums = learned.get(part_of_segment(number), [RewardSums()] * len(variants))
        columns = zip(variants, sums, arms[number].mean.tolist(), weights[number], strict=True)
        rows = [
            VariantInSegment(variant, rewards.n, mean, weight / WHOLE)
            for variant, rewards, mean, weight in columns
            if isinstance(rewards, RewardSums)
        ]
        beliefs.append(SegmentBelief(segment, rows))
    return beliefs


def model_belief(policy: Policy, learned: Learned, variants: Sequence[str]) -> ModelBelief | UnsetType:
    """Return the data of the models of the variants; UNSET for policies without models."""
    if not isinstance(policy, ContextualPolicy):
        return UNSET
    rewards = {variant: _rows(totals) for variant, totals in zip(variants, learned.get("", ()), strict=True)}
    columns = Schema(policy.features).d
    linear = [totals for totals in learned.get("", ()) if isinstance(totals, LinearTotals)]
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
