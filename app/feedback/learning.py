"""What policies learn besides the reward totals: exact sums over contexts. Pure.

Like the totals they move by the difference when a reward changes, and are whole numbers: they depend on the
set of rewards, never on their order. A context that does not fit the policy's features adds nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.experiments.model import ContextualPolicy, LogisticTsPolicy, Policy
from app.feedback.rewards import NANO, NONE, Assignments
from bandits.features import ContextError, Schema
from bandits.linear import LinearTotals
from bandits.logistic import LogisticTotals

LEARNING_KINDS: Final = ("lin_ts", "lin_ucb", "logistic_ts")
"""Kinds of policies that learn more than the reward totals."""

PolicyTotals = LinearTotals | LogisticTotals


class Learning(NamedTuple):
    """What the policy of an epoch learns. Epochs whose policies learn the same are read as one sample."""

    model: Literal["linear", "logistic"]
    schema: Schema

    @property
    def empty(self) -> PolicyTotals:
        """The totals of no rewards."""
        return self._kind.empty(self.schema.d)

    def of_rows(self, rows: "Rows") -> PolicyTotals:
        """The totals of some rewards."""
        contexts = np.array(rows.contexts, np.int64).reshape(-1, self.schema.d)
        return self._kind.of_rows(contexts, np.array(rows.rewards, np.float64) / NANO)

    def decode(self, body: bytes) -> PolicyTotals:
        """The inverse of `to_bytes`. Raises ValueError if these are no totals."""
        return self._kind.from_bytes(body)

    def plus(self, first: PolicyTotals, second: PolicyTotals) -> PolicyTotals:
        """Both together."""
        return first + second  # type: ignore[operator] # both are of the model's kind

    def agrees(self, fresh: PolicyTotals, body: bytes) -> bool:
        """Whether what is stored is of the same rewards; without bytes it is of none.

        Cells of logistic totals that once held more contexts stay as wide as they had to be for those.
        """
        try:
            stored = self.decode(body) if body else self.empty
        except ValueError:
            return False
        if isinstance(fresh, LogisticTotals) and isinstance(stored, LogisticTotals):
            none = LogisticTotals.empty(fresh.d)
            fresh += LogisticTotals(none.linear, stored.level, none.cells, none.n, none.sums)
        return fresh == stored

    @property
    def _kind(self) -> type[LinearTotals] | type[LogisticTotals]:
        return LinearTotals if self.model == "linear" else LogisticTotals


class Rows(NamedTuple):
    """Contexts as vectors in fixed point, and their rewards in nanos."""

    contexts: list[NDArray[np.int64]]
    rewards: list[int]


Key = tuple[int, int, int]
"""Experiment, epoch and variant."""


class Change(NamedTuple):
    """What policy totals gain and lose."""

    learning: Learning
    added: PolicyTotals
    removed: PolicyTotals

    def applied(self, body: bytes) -> bytes:
        """Stored totals after the change; empty ones have no bytes. Raises ValueError if they cannot be.

        What is added comes first: where a reward was revised its context is then known already, and the cells
        of logistic totals need not become wider.
        """
        totals = self.learning.decode(body) if body else self.learning.empty
        return (totals + self.added - self.removed).to_bytes()  # type: ignore[operator]


def learning_of(policy: Policy) -> Learning | None:
    """What a policy learns besides the reward totals, if anything."""
    if not isinstance(policy, ContextualPolicy):
        return None
    model: Literal["linear", "logistic"] = "logistic" if isinstance(policy, LogisticTsPolicy) else "linear"
    return Learning(model, Schema(policy.features))


def moved(before: Assignments, after: Assignments, learning: Iterable[tuple[int, int]]) -> NDArray[np.intp]:
    """Which assignments, by their number, change what policies learn: in the experiments and epochs given."""
    changed = np.flatnonzero(_rewards(before, before["counted"]) != _rewards(after, after["exposed"]))
    wanted = set(learning)
    pairs = zip(after["experiment_id"][changed].tolist(), after["epoch"][changed].tolist(), strict=True)
    return changed[np.array([pair in wanted for pair in pairs], np.bool_)]


def changes(
    before: Assignments,
    after: Assignments,
    contexts: Mapping[int, Mapping[str, Any] | None],
    learning: Mapping[tuple[int, int], Learning],
) -> tuple[dict[Key, Change], int]:
    """What the assignments that `contexts` names change, in key order; and how many contexts did not fit."""
    old, new = _rewards(before, before["counted"]).tolist(), _rewards(after, after["exposed"]).tolist()
    added: defaultdict[Key, Rows] = defaultdict(lambda: Rows([], []))
    removed: defaultdict[Key, Rows] = defaultdict(lambda: Rows([], []))
    misfits = 0
    for number, context in contexts.items():
        row = after[number]
        key = int(row["experiment_id"]), int(row["epoch"]), int(row["variant"])
        x = vector(learning[key[:2]], context)
        if x is None:
            misfits += 1
            continue
        for rows, reward in ((added, new[number]), (removed, old[number])):
            if reward != NONE:
                rows[key].contexts.append(x)
                rows[key].rewards.append(reward)
    found = {}
    for key in sorted({*added, *removed}):
        of = learning[key[:2]]
        found[key] = Change(of, of.of_rows(added[key]), of.of_rows(removed[key]))
    return found, misfits


def vector(learning: Learning, context: Mapping[str, Any] | None) -> NDArray[np.int64] | None:
    """The context in fixed point; None: it does not fit."""
    try:
        return learning.schema.vector_fixed(context or {})
    except ContextError:
        return None


def _rewards(assignments: Assignments, counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(counted & assignments["exposed"], assignments["reward"], NONE).astype(np.int64)
