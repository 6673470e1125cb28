"""The policy `top_two`. Pure."""

from typing import Annotated

import msgspec

from app.experiments.policies.posterior import PosteriorPolicy
from app.experiments.policies.rule import Evidence
from bandits.allocation import Allocation
from bandits.thompson import top_two


class TopTwoPolicy(PosteriorPolicy, frozen=True, kw_only=True, tag="top_two"):
    """Top-two Thompson sampling.

    The best of a draw gets `leader_share`, and the best of other draws gets the rest.

    It finds the best variant with fewer rewards, and earns less on the way.
    """

    leader_share: Annotated[float, msgspec.Meta(ge=0.01, le=0.99)] = 0.5

    def allocate(self, evidence: Evidence) -> Allocation:
        """Return the probabilities of being drawn as leader or as runner-up, mixed with the floor."""
        arms, floor = self.arms(evidence), self.exploration_floor
        return top_two(arms, leader_share=self.leader_share, exploration_floor=floor)
