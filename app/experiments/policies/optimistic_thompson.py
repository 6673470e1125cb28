"""The policy `optimistic_thompson`. Pure."""

from functools import partial
from typing import Annotated

import msgspec

from app.experiments.policies.posterior import PosteriorPolicy
from app.experiments.policies.rule import DRAWS_MAX, Evidence, Scene, Simulated
from bandits import pulls
from bandits.allocation import Allocation
from bandits.thompson import optimistic_thompson


class OptimisticThompsonPolicy(PosteriorPolicy, frozen=True, kw_only=True, tag="optimistic_thompson"):
    """Thompson sampling in which a draw never makes a variant look worse than its mean.

    Each variant draws with probability `sampling`; otherwise its mean stands.
    """

    sampling: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.9

    def allocate(self, evidence: Evidence) -> Allocation:
        """Return the probabilities of being best with such draws, mixed with the floor."""
        arms, floor = self.arms(evidence), self.exploration_floor
        return optimistic_thompson(arms, sampling=self.sampling, exploration_floor=floor)

    def simulated(self, scene: Scene) -> Simulated:
        """Return draws from Beta posteriors; other families use the exact shares."""
        if self.family != "beta":
            return super().simulated(scene)
        draw = partial(
            pulls.optimistic_pulls,
            sampling=self.sampling,
            prior_alpha=self.prior.alpha,
            prior_beta=self.prior.beta,
        )
        return Simulated(
            self._with_floor(draw, scene), scene.seconds(per_arm=8e-8 * min(scene.batch, DRAWS_MAX))
        )
