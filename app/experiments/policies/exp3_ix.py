"""The policy `exp3_ix`. Pure."""

from typing import Annotated

import msgspec

from app.experiments.policies.rule import AdaptivePolicy, Evidence, Learns, Losses, Scene, Simulated
from bandits import pulls
from bandits.allocation import Allocation
from bandits.exp3 import exp3_ix


class Exp3IxPolicy(AdaptivePolicy, frozen=True, kw_only=True, tag="exp3_ix"):
    """Exponential weights with implicit exploration, for rewards that an adversary may change.

    Shares are proportional to exp(-eta losses); each loss is divided by propensity + eta / 2. For a
    horizon of n assignments and K variants, sqrt(2 ln K / (K n)) is the right `eta`.
    """

    reads = "losses"
    eta: Annotated[float, msgspec.Meta(ge=1e-4, le=1)] = 0.01

    @property
    def learns(self) -> Learns:
        """Losses."""
        return Losses(self.eta / 2)

    def allocate(self, evidence: Evidence) -> Allocation:
        """Return the exponential weights, mixed with the floor."""
        return exp3_ix(evidence.losses, eta=self.eta, exploration_floor=self.exploration_floor)

    def simulated(self, scene: Scene) -> Simulated:
        """Return the weights for all runs at once."""
        return Simulated(pulls.Exp3Ix(self.eta, self.exploration_floor), scene.seconds())
