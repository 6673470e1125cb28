"""Policies that can be simulated, by the names and with the parameters that the server has for them. Pure.

`seconds` is what a simulation takes on one core of an ordinary server, to bound the work before it begins:
the constants were measured on this package's policies, and are right to a factor of two.
"""

from dataclasses import replace
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.random import Generator

from app.core.limits import VARIANTS_MIN
from app.experiments.model import Share
from bandits import simulation, ucb
from bandits.arms import BetaArms
from bandits.thompson import top_two
from bandits.totals import ArmTotals, FloatArray

DRAWS_MAX: Final = 300
"""Posterior draws by which one batch is spread."""
FLOOR: Final = 0.05
"""The floor that the server's policies have unless told otherwise."""

IndexName = Literal["ucb1", "ucb1_tuned", "kl_ucb", "kl_ucb_plus"]
_INDEXES: Final[dict[IndexName, ucb.Index]] = {
    "ucb1": ucb.ucb1_index,
    "ucb1_tuned": ucb.ucb1_tuned_index,
    "kl_ucb": ucb.kl_ucb_index,
    "kl_ucb_plus": ucb.kl_ucb_plus_index,
}
_STEPS_MAX: Final = 64  # in which an index spreads a batch


class Size(NamedTuple):
    """The extent of one simulation."""

    runs: int
    n_arms: int
    rounds: int
    batch: int

    @property
    def n_batches(self) -> int:
        """Updates of the policy."""
        return -(-self.rounds // self.batch)

    def seconds(self, *, per_batch: float, per_run: float = 0.0, per_arm: float = 0.0) -> float:
        """Computing time from that of a batch, of each run in it, and of each arm of a run."""
        frame = 2e-4 + 5e-7 * self.runs * self.n_arms
        policy = per_batch + self.runs * (per_run + self.n_arms * per_arm)
        return self.n_batches * (frame + policy) + 2e-8 * self.rounds * self.n_arms


class Fixed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fixed"):
    """Constant shares, even ones unless `weights` has one for each variant."""

    weights: Annotated[tuple[Share, ...], msgspec.Meta(min_length=VARIANTS_MIN)] | None = None

    @property
    def label(self) -> str:
        """As shown."""
        return "fixed" if self.weights is None else f"fixed ({', '.join(f'{w:g}' for w in self.weights)})"

    def build(self, horizon: int) -> simulation.Policy:
        """As `bandits.simulation` takes it."""
        del horizon
        if self.weights is None:
            return simulation.FromTotals(simulation.even_pulls)
        weights = np.array(self.weights) / sum(self.weights)

        def pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
            return rng.multinomial(size, np.broadcast_to(weights, totals.n.shape)).astype(np.float64)

        return simulation.FromTotals(pulls)

    def seconds(self, size: Size) -> float:
        """Of one core."""
        return size.seconds(per_batch=0.0)


class Thompson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="thompson"):
    """Each variant as often as it is likely to be the best.

    With `half_life_requests` a reward counts half after that many requests: for means that change.
    """

    exploration_floor: Share = FLOOR
    half_life_requests: Annotated[float, msgspec.Meta(ge=1)] | None = None

    @property
    def label(self) -> str:
        """As shown."""
        forgets = self.half_life_requests
        return "thompson" if forgets is None else f"thompson, half-life {forgets:,.0f}"

    def build(self, horizon: int) -> simulation.Policy:
        """As `bandits.simulation` takes it."""
        del horizon
        memory = 1.0 if self.half_life_requests is None else 0.5 ** (1 / self.half_life_requests)
        policy = _served(simulation.thompson_pulls, self.exploration_floor)
        return replace(policy, memory=memory)

    def seconds(self, size: Size) -> float:
        """Of one core."""
        return size.seconds(per_batch=0.0, per_arm=8e-8 * min(size.batch, DRAWS_MAX))


class OptimisticThompson(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="optimistic_thompson"
):
    """Thompson sampling that never counts a variant as worse than its average."""

    exploration_floor: Share = FLOOR

    @property
    def label(self) -> str:
        """As shown."""
        return "optimistic_thompson"

    def build(self, horizon: int) -> simulation.Policy:
        """As `bandits.simulation` takes it."""
        del horizon
        return _served(simulation.optimistic_pulls, self.exploration_floor)

    def seconds(self, size: Size) -> float:
        """Of one core."""
        return size.seconds(per_batch=0.0, per_arm=8e-8 * min(size.batch, DRAWS_MAX))


class TopTwo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="top_two"):
    """Identifies the best variant sooner than it earns: the leader gets `leader_share`, rivals the rest."""

    leader_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    exploration_floor: Share = FLOOR

    @property
    def label(self) -> str:
        """As shown."""
        return "top_two"

    def build(self, horizon: int) -> simulation.Policy:
        """As `bandits.simulation` takes it."""
        del horizon
        exact = simulation.exact_pulls(
            lambda totals: top_two(
                BetaArms.from_totals(totals),
                leader_share=self.leader_share,
                exploration_floor=self.exploration_floor,
            )
        )
        return simulation.FromTotals(exact)

    def seconds(self, size: Size) -> float:
        """Of one core."""
        return size.seconds(per_batch=0.0, per_run=1.5e-4, per_arm=1.5e-5)


class Ucb(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ucb"):
    """The variant that could be best, by the upper confidence bound `index`."""

    index: IndexName = "kl_ucb_plus"
    exploration_floor: Share = FLOOR

    @property
    def label(self) -> str:
        """As shown."""
        return f"ucb ({self.index})"

    def build(self, horizon: int) -> simulation.Policy:
        """As `bandits.simulation` takes it."""
        del horizon
        return _served(simulation.index_pulls(_INDEXES[self.index]), self.exploration_floor)

    def seconds(self, size: Size) -> float:
        """Of one core."""
        steps = min(size.batch, _STEPS_MAX)
        if self.index in {"kl_ucb", "kl_ucb_plus"}:
            return size.seconds(per_batch=1.5e-4 * steps, per_arm=4e-7 * steps)
        return size.seconds(per_batch=3e-5 * steps, per_arm=1.2e-7 * steps)


class EpsilonGreedy(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="epsilon_greedy"
):
    """The best average, but for a part `epsilon` of the traffic that is spread evenly."""

    epsilon: Share = 0.1

    @property
    def label(self) -> str:
        """As shown."""
        return f"epsilon_greedy ({self.epsilon:g})"

    def build(self, horizon: int) -> simulation.Policy:
        """As `bandits.simulation` takes it."""
        del horizon
        return simulation.FromTotals(simulation.epsilon_greedy_pulls(self.epsilon))

    def seconds(self, size: Size) -> float:
        """Of one core."""
        return size.seconds(per_batch=0.0)


class Exp3Ix(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="exp3_ix"):
    """Exponential weights: safe whatever rewards do, slow where they are merely random."""

    exploration_floor: Share = FLOOR

    @property
    def label(self) -> str:
        """As shown."""
        return "exp3_ix"

    def build(self, horizon: int) -> simulation.Policy:
        """As `bandits.simulation` takes it."""
        return simulation.Exp3Ix(horizon, self.exploration_floor)

    def seconds(self, size: Size) -> float:
        """Of one core."""
        return size.seconds(per_batch=0.0)


Policy = Fixed | Thompson | OptimisticThompson | TopTwo | Ucb | EpsilonGreedy | Exp3Ix
PolicyName = Literal[
    "fixed", "thompson", "optimistic_thompson", "top_two", "ucb", "epsilon_greedy", "exp3_ix"
]
DEFAULTS: Final[tuple[Policy, ...]] = (Thompson(), OptimisticThompson(), Ucb(), EpsilonGreedy(), Fixed())


def named(policy: Policy | PolicyName) -> Policy:
    """A policy by its name has its defaults."""
    return msgspec.convert({"kind": policy}, Policy) if isinstance(policy, str) else policy


def _served(draw: simulation.Draw, exploration_floor: float) -> simulation.FromTotals:
    capped = simulation.capped_pulls(draw, DRAWS_MAX)
    return simulation.FromTotals(simulation.with_floor_pulls(capped, exploration_floor))
