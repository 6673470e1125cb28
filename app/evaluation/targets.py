"""The policy under evaluation: what it would have served in each row of the log. Pure.

A policy that learns must not be judged on the rows it learned from, or it is praised for its luck. So rows
are split into `FOLDS` parts, by turns; what the policy would have served in the rows of one part, it decides
from the other four.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.allocation.contextual import segmented
from app.allocation.forgetting import Learned
from app.allocation.model import NANO, VariantTotals, allocate
from app.assignment.bucketing import WHOLE
from app.core.choices import explained
from app.core.errors import FieldError, InvalidInput, UnprocessableInput
from app.experiments.checks import check
from app.experiments.model import (
    ConstrainedThompsonPolicy,
    Definition,
    FixedPolicy,
    Policy,
    SegmentedThompsonPolicy,
    Share,
    warm_start_of,
)
from app.experiments.segments import segment_number
from app.ledger.learning.model import RewardSums, part_of_segment
from bandits import contextual
from bandits.arms import FloatArray
from bandits.contextual import LinearArms
from bandits.features import UNIT, Boolean, ContextError, IntArray, Numeric, Schema
from bandits.linear import LinearTotals, disjoint, hybrid
from bandits.logistic import LogisticTotals, logistic

Mask = NDArray[np.bool_]

FOLDS: Final = 5


class Rows(NamedTuple):
    """Rewarded assignments in the order of the units' hashes, which is a random one; arrays of shape (n,).

    `rewards` are in nanos, `contexts` have the `attributes` of a policy.
    """

    units: IntArray
    arms: IntArray
    rewards: IntArray
    propensities: FloatArray
    contexts: Sequence[Mapping[str, Any]]

    @property
    def folds(self) -> IntArray:
        """The part that each row belongs to."""
        return np.arange(len(self.arms)) % FOLDS


class LinTs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="lin_ts"):
    """Linear Thompson sampling. Hybrid arms share what they have in common, disjoint ones do not."""

    sharing: Literal["disjoint", "hybrid"] = "disjoint"
    exploration_floor: Share = 0.05


class LinUcb(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="lin_ucb"):
    """Linear upper confidence bounds, `width` standard deviations above the mean."""

    sharing: Literal["disjoint", "hybrid"] = "disjoint"
    width: Annotated[float, msgspec.Meta(ge=0)] = 1.5
    exploration_floor: Share = 0.05


class LogisticTs(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="logistic_ts"
):
    """Logistic Thompson sampling, for rewards of 0 and 1."""

    exploration_floor: Share = 0.05


Contextual = LinTs | LinUcb | LogisticTs
Target = Policy | Contextual
_CONTEXTUAL: Final = {"lin_ts", "lin_ucb", "logistic_ts"}


def target(policy: str | Mapping[str, Any], definition: Definition, schema: Schema | None) -> Target:
    """The policy that a request names or spells out, if it fits the experiment.

    `fixed` alone is an even split; variants that its weights leave out get nothing.

    Raises InvalidInput naming the field.
    """
    spelled = {"kind": policy} if isinstance(policy, str) else dict(policy)
    if spelled.get("kind") in _CONTEXTUAL:
        if schema is None:
            raise InvalidInput(f"is required: {spelled['kind']} reads contexts", field="schema")
        contextual_policy: Contextual = _converted(spelled, Contextual)
        return contextual_policy
    if spelled.get("kind") == "fixed":
        spelled["weights"] = _weights(spelled.get("weights"), definition)
    chosen: Policy = _converted(spelled, Policy)
    if isinstance(chosen, ConstrainedThompsonPolicy):
        raise InvalidInput("is not evaluated: it reads other metrics than the reward", field="policy.kind")
    check(msgspec.structs.replace(definition, policy=chosen))
    if warm_start_of(chosen):
        raise InvalidInput("is not evaluated: the log is all that is read", field="policy.warm_start")
    return chosen


def vectors(schema: Schema, rows: Rows) -> IntArray:
    """Contexts in fixed point, shape (n, d).

    Text, which is all that `GET /assign` can send, is read as what its feature declares.

    Raises UnprocessableInput naming the feature that a context does not fit.
    """
    declared = {feature.name: feature for feature in schema.features}
    found = np.empty((len(rows.arms), schema.d), np.int64)
    try:
        for row, context in enumerate(rows.contexts):
            read = {name: _read(value, declared[name]) for name, value in context.items() if name in declared}
            found[row] = schema.vector_fixed(read)
    except ContextError as error:
        raise UnprocessableInput(str(error), field=f"schema.features.{error.feature}") from error
    return found


def shares(chosen: Target, definition: Definition, rows: Rows, contexts: IntArray) -> FloatArray:
    """What the policy would have given each variant in each row, shape (n, variants)."""
    found = np.empty((len(rows.arms), len(definition.variants)))
    for fold in range(FOLDS):
        judged = rows.folds == fold
        others = ~judged
        if isinstance(chosen, LinTs | LinUcb | LogisticTs):
            of_arms = [others & (rows.arms == arm) for arm in range(len(definition.variants))]
            arms = _posterior(chosen, [(contexts[own], rows.rewards[own] / NANO) for own in of_arms])
            decide = _decision(chosen, arms)
            found[judged] = np.array([decide(x) for x in contexts[judged] / UNIT])
        elif isinstance(chosen, SegmentedThompsonPolicy):
            numbers = np.array([segment_number(chosen.by, context) for context in rows.contexts], np.int64)
            learned = _learned(rows, others, numbers, len(definition.variants))
            published = segmented(chosen, learned, len(definition.variants))
            found[judged] = np.array(published.weights)[numbers[judged]] / WHOLE
        else:
            described = msgspec.structs.replace(definition, policy=chosen)
            weights = allocate(described, _totals(rows, others, len(definition.variants)))
            found[judged] = np.array(weights) / WHOLE
    return found


def learns(chosen: Target) -> bool:
    """Whether the policy depends on rewards."""
    return not isinstance(chosen, FixedPolicy)


def attributes(chosen: Target, schema: Schema | None) -> frozenset[str]:
    """What is read of a context."""
    read = {feature.name for feature in schema.features} if schema else set()
    if isinstance(chosen, SegmentedThompsonPolicy):
        read |= {one.attribute for one in chosen.by}
    return frozenset(read)


def _learned(rows: Rows, of: Mask, numbers: IntArray, n_variants: int) -> Learned:
    """What a policy learns from some rows, each in the segment of its number."""
    return {
        part_of_segment(number): [
            RewardSums.of(rows.rewards[of & (numbers == number) & (rows.arms == arm)].tolist())
            for arm in range(n_variants)
        ]
        for number in np.unique(numbers[of]).tolist()
    }


def _posterior(chosen: Contextual, of_arms: Sequence[tuple[IntArray, FloatArray]]) -> LinearArms:
    """From the contexts and rewards of each arm."""
    if isinstance(chosen, LogisticTs):
        return logistic([LogisticTotals.of_rows(*rows) for rows in of_arms]).arms()
    fit = disjoint if chosen.sharing == "disjoint" else hybrid
    return fit([LinearTotals.of_rows(*rows) for rows in of_arms]).arms()


def _decision(chosen: Contextual, arms: LinearArms) -> Callable[[FloatArray], FloatArray]:
    floor = chosen.exploration_floor
    if isinstance(chosen, LinUcb):
        width = chosen.width
        return lambda x: contextual.ucb(arms, x, width=width, exploration_floor=floor)
    return lambda x: contextual.thompson(arms, x, exploration_floor=floor)


def _totals(rows: Rows, chosen: Mask, n_variants: int) -> tuple[VariantTotals, ...]:
    found = []
    for arm in range(n_variants):
        rewards = rows.rewards[chosen & (rows.arms == arm)]
        squares = sum(int(reward) ** 2 for reward in rewards)  # whole numbers beyond 64 bits
        n = len(rewards)
        found.append(
            VariantTotals(assignments=n, rewards=n, reward_sum=int(rewards.sum()), reward_square_sum=squares)
        )
    return tuple(found)


def _weights(given: Any, definition: Definition) -> Any:
    keys = [variant.key for variant in definition.variants]
    if given is None:
        return {key: 1 / len(keys) for key in keys}
    return dict.fromkeys(keys, 0.0) | given if isinstance(given, dict) else given


def _converted(spelled: Mapping[str, Any], kinds: Any) -> Any:
    try:
        return msgspec.convert(spelled, kinds)
    except msgspec.ValidationError as error:
        reason, at, path = str(error).partition(" - at `$.")
        said = explained(reason, kinds, path.rstrip("`"))
        said += "" if said != reason else at + path
        raise InvalidInput(said, errors=(FieldError("policy", said),)) from error


def _read(value: Any, feature: object) -> Any:
    if not isinstance(value, str):
        return value
    if isinstance(feature, Boolean):
        return {"true": True, "false": False}.get(value, value)
    if isinstance(feature, Numeric):
        try:
            return float(value)
        except ValueError:
            return value
    return value
