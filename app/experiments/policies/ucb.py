"""The policy `ucb`. Pure."""

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, UnsetType

from app.experiments.policies.forgetting import Discount, Window
from app.experiments.policies.rule import AdaptivePolicy, Evidence, Scene, Simulated
from bandits import pulls, ucb
from bandits.allocation import Allocation

_ROUNDS_AHEAD: Final = 100


class UcbPolicy(AdaptivePolicy, frozen=True, kw_only=True, tag="ucb"):
    """The variant with the greatest upper confidence bound, mixed with the exploration floor.

    `rounds_ahead` is about how many assignments are made between two updates: they are spread as
    the index would spread them one after the other. Without it they are 100, and the batch in a
    simulation. `forgetting` is that of `PosteriorPolicy`.
    """

    index: ucb.IndexName = "kl_ucb_plus"
    rounds_ahead: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | UnsetType = UNSET
    forgetting: Discount | Window | UnsetType = UNSET

    def allocate(self, evidence: Evidence) -> Allocation:
        """Return how the index would spread the next assignments, mixed with the floor."""
        ahead = _ROUNDS_AHEAD if self.rounds_ahead is UNSET else self.rounds_ahead
        floor = self.exploration_floor
        return ucb.upper_bound(self.index, evidence.totals, exploration_floor=floor, rounds_ahead=ahead)

    def simulated(self, scene: Scene) -> Simulated:
        """Return the index for all runs at once."""
        ahead = None if self.rounds_ahead is UNSET else self.rounds_ahead
        steps = min(scene.batch if ahead is None else ahead, ucb.STEPS_MAX)
        if self.index in {"kl_ucb", "kl_ucb_plus"}:
            seconds = scene.seconds(per_batch=1.5e-4 * steps, per_arm=4e-7 * steps)
        else:
            seconds = scene.seconds(per_batch=3e-5 * steps, per_arm=1.2e-7 * steps)
        return Simulated(self._with_floor(pulls.index_pulls(self.index, ahead), scene), seconds)
