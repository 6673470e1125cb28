"""The policy `thompson`. Pure."""

from collections.abc import Iterator
from functools import partial

from msgspec import UNSET, UnsetType

from app.core.errors import FieldError
from app.experiments.policies.posterior import PosteriorPolicy
from app.experiments.policies.rule import DRAWS_MAX, Evidence, Scene, Setting, Simulated, WarmStart
from bandits import pulls
from bandits.allocation import Allocation
from bandits.thompson import thompson


class ThompsonPolicy(PosteriorPolicy, frozen=True, kw_only=True, tag="thompson"):
    """Thompson sampling by probability matching.

    Each variant's share is `(1 - exploration_floor) P(best) + exploration_floor / K`. `warm_start`
    adds to the prior of a `beta` posterior.
    """

    warm_start: WarmStart | UnsetType = UNSET

    def errors(self, field: str, setting: Setting) -> Iterator[FieldError]:
        """Yield what does not fit the posterior or the warm start."""
        yield from super().errors(field, setting)
        if self.warm_start is UNSET:
            return
        field = f"{field}.warm_start"
        if self.family != "beta":
            yield FieldError(field, f"needs the posterior beta, got {self.family}")
        if self.warm_start.experiment == setting.key:
            yield FieldError(f"{field}.experiment", "must be another experiment")
        if self.forgets:
            yield FieldError(field, "does not apply to a policy that forgets")

    def allocate(self, evidence: Evidence) -> Allocation:
        """Return the probabilities of being best, mixed with the floor."""
        return thompson(self.arms(evidence), exploration_floor=self.exploration_floor)

    def simulated(self, scene: Scene) -> Simulated:
        """Return draws from Beta posteriors; other families use the exact shares."""
        if self.family != "beta":
            return super().simulated(scene)
        draw = partial(pulls.thompson_pulls, prior_alpha=self.prior.alpha, prior_beta=self.prior.beta)
        return Simulated(
            self._with_floor(draw, scene), scene.seconds(per_arm=8e-8 * min(scene.batch, DRAWS_MAX))
        )
