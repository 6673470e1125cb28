"""The policy under evaluation: what it would have served in each row of the log. Pure.

A policy that learns must not be judged on the rows it learned from, or it is praised for its luck.
So rows are split into `FOLDS` parts, by turns. What the policy would have served in the rows of one
part, it decides from the other four.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.allocation.contextual import decided_by
from app.allocation.forgetting import Learned
from app.allocation.model import VariantTotals, allocate
from app.assignment.bucketing import WHOLE
from app.assignment.query import typed
from app.assignment.snapshot import reader_of
from app.core.errors import InvalidInput, UnprocessableInput
from app.experiments.checks import check
from app.experiments.model import Definition
from app.experiments.policies import Policy
from app.experiments.policies.contextual import ContextualPolicy
from app.experiments.policies.rule import BySegment
from app.experiments.policies.shorthand import policy_of
from app.ledger.learning.model import BucketLearning, Seen, learning_of
from app.ledger.learning.model import Rows as LearnedRows
from bandits.features import ContextError, Feature, IntArray, Schema
from bandits.totals import FloatArray

Mask = NDArray[np.bool_]

FOLDS: Final = 5


class Rows(NamedTuple):
    """Rewarded assignments in the random order of the units' hashes; arrays of shape (n,).

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


def target(given: str | Mapping[str, Any], definition: Definition) -> Policy:
    """Return the policy of a request, if it fits the experiment and can be evaluated.

    Raises InvalidInput naming the field.
    """
    policy = policy_of(given, definition.setting.variants)
    if not policy.can_be_evaluated:
        raise InvalidInput("is not evaluated: it reads other metrics than the reward", field="policy.kind")
    check(msgspec.structs.replace(definition, policy=policy))
    if policy.starts_from is not None:
        raise InvalidInput("is not evaluated: the log is all that is read", field="policy.warm_start")
    return policy


def features_of(policy: Policy) -> tuple[Feature, ...]:
    """Return the features that the policy reads of a context."""
    return policy.features if isinstance(policy, ContextualPolicy) else ()


def vectors(features: Sequence[Feature], contexts: Sequence[Mapping[str, Any]], *, field: str) -> IntArray:
    """Return contexts in fixed point, shape (n, d). Text is read as what its feature declares.

    Raises UnprocessableInput naming the feature that a context does not fit; `field` is where they
    stand.
    """
    schema = Schema(tuple(features))
    rows = np.empty((len(contexts), schema.d), np.int64)
    try:
        for row, context in enumerate(contexts):
            rows[row] = schema.vector_fixed(_typed(context, features))
    except ContextError as error:
        raise UnprocessableInput(str(error), field=f"{field}.{error.feature}") from error
    return rows


def shares(policy: Policy, definition: Definition, rows: Rows) -> FloatArray:
    """Return what the policy would have given each variant in each row, shape (n, variants).

    The policy decides as a server does. It reads all rewards as if they were of the present.
    """
    described = msgspec.structs.replace(definition, policy=policy)
    n_variants = len(definition.variants)
    contexts = [_typed(context, features_of(policy)) for context in rows.contexts]
    served = np.empty((len(rows.arms), n_variants))
    for fold in range(FOLDS):
        judged = rows.folds == fold
        learned = _learned(policy, rows, contexts, ~judged, n_variants)
        by_context = decided_by(policy, learned, n_variants, definition.active)
        if by_context is None:
            totals = _totals(rows, ~judged, n_variants)
            served[judged] = allocate(described, totals, learned=learned or None)
        else:
            reader = reader_of(by_context)
            served[judged] = [reader.weights(contexts[row]) for row in np.flatnonzero(judged)]
    return served / WHOLE


def attributes(policy: Policy, features: Sequence[Feature]) -> frozenset[str]:
    """Return the names of what is read of a context."""
    names = {feature.name for feature in (*features_of(policy), *features)}
    if isinstance(policy.learns, BySegment):
        names |= {segments.attribute for segments in policy.learns.by}
    return frozenset(names)


def _learned(
    policy: Policy, rows: Rows, contexts: Sequence[Mapping[str, Any]], chosen: Mask, n_variants: int
) -> Learned:
    """Return what the policy learns from the chosen rows beyond the totals, as the ledger sums it."""
    learning = learning_of(policy)
    if learning is None or isinstance(learning, BucketLearning):
        return {}
    parts: defaultdict[str, list[LearnedRows]] = defaultdict(
        lambda: [LearnedRows([], []) for _ in range(n_variants)]
    )
    for row in np.flatnonzero(chosen).tolist():
        seen = Seen(contexts[row], float(rows.propensities[row]), 0)
        of_variant = parts[learning.part(seen)][rows.arms[row]]
        of_variant.given.append(learning.row(seen))
        of_variant.rewards.append(int(rows.rewards[row]))
    return {
        part: [learning.of_rows(of_variant) for of_variant in by_variant]
        for part, by_variant in parts.items()
    }


def _totals(rows: Rows, chosen: Mask, n_variants: int) -> tuple[VariantTotals, ...]:
    totals = []
    for arm in range(n_variants):
        rewards = rows.rewards[chosen & (rows.arms == arm)]
        squares = sum(int(reward) ** 2 for reward in rewards)  # whole numbers beyond 64 bits
        n = len(rewards)
        totals.append(
            VariantTotals(assignments=n, rewards=n, reward_sum=int(rewards.sum()), reward_square_sum=squares)
        )
    return tuple(totals)


def _typed(context: Mapping[str, Any], features: Sequence[Feature]) -> Mapping[str, Any]:
    """Read the texts of a context as the features declare: `GET /assign` sends only text."""
    texts = {name: value for name, value in context.items() if isinstance(value, str)}
    return {**context, **(typed(texts, features) or {})}
