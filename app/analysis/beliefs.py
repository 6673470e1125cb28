"""What a policy that reads contexts has learned, in numbers for people. Pure."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from app.allocation.contextual import segment_arms, segmented
from app.allocation.forgetting import Learned
from app.assignment.bucketing import WHOLE
from app.experiments.model import ContextualPolicy, Policy, SegmentedThompsonPolicy
from app.experiments.segments import segment_names
from app.feedback.learning import RewardSums, part_of_segment
from bandits.features import Schema
from bandits.linear import LinearTotals
from bandits.logistic import LogisticTotals


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

    Rewards whose context did not fit the features are in no model.
    """

    columns: int
    rewards: dict[str, int]


def segment_beliefs(
    policy: Policy, learned: Learned, variants: Sequence[str]
) -> list[SegmentBelief] | UnsetType:
    """Of each segment, in the order of the declared values; UNSET for other policies."""
    if not isinstance(policy, SegmentedThompsonPolicy):
        return UNSET
    weights = segmented(policy, learned, len(variants)).weights
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
    return ModelBelief(Schema(policy.features).d, rewards)


def _rows(totals: object) -> int:
    match totals:
        case LinearTotals(n=n):
            return n
        case LogisticTotals(linear=linear):
            return linear.n
        case _:
            return 0
