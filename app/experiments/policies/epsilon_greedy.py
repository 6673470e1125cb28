"""The policy `epsilon_greedy`. Pure."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from app.experiments.policies.forgetting import Discount, Window
from app.experiments.policies.rule import Evidence, PolicyRule, Scene, Share, Simulated, Step
from bandits import pulls
from bandits.allocation import Allocation
from bandits.greedy import decreasing_epsilon, epsilon_greedy


class DecreasingEpsilon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An epsilon of min(1, c K / (gap^2 t)) after t assignments.

    `gap` must be at most the distance between the best mean and the next.
    """

    gap: Annotated[float, msgspec.Meta(ge=1e-3, le=0.99)]
    c: Annotated[float, msgspec.Meta(ge=1e-3, le=1e3)] = 5.0


class EpsilonGreedyPolicy(PolicyRule, frozen=True, kw_only=True, tag="epsilon_greedy"):
    """The best average gets 1 - epsilon, and all variants share epsilon.

    Epsilon is a number, or decreases.

    `step_max` is that of `AdaptivePolicy`, `forgetting` that of `PosteriorPolicy`.
    """

    epsilon: Share | DecreasingEpsilon = 0.1
    step_max: Step | UnsetType = UNSET
    forgetting: Discount | Window | UnsetType = UNSET

    def allocate(self, evidence: Evidence) -> Allocation:
        """Return the share of the best average and those of the others."""
        if isinstance(self.epsilon, DecreasingEpsilon):
            return decreasing_epsilon(evidence.totals, c=self.epsilon.c, gap=self.epsilon.gap)
        return epsilon_greedy(evidence.totals, epsilon=self.epsilon)

    def simulated(self, scene: Scene) -> Simulated:
        """Return a constant epsilon for all runs at once.

        An epsilon that decreases has only its exact shares.
        """
        if isinstance(self.epsilon, DecreasingEpsilon):
            return super().simulated(scene)
        draw = pulls.epsilon_greedy_pulls(self.epsilon)
        return Simulated(pulls.FromTotals(draw, self._memory(scene)), scene.seconds())
