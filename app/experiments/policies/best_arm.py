"""The policy `best_arm`. Pure."""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from app.core.errors import FieldError
from app.experiments.policies.rule import AdaptivePolicy, Evidence, Setting
from bandits.allocation import Allocation
from bandits.arms import BetaArms
from bandits.identification import track_and_stop
from bandits.thompson import top_two


class BestArmPolicy(AdaptivePolicy, frozen=True, kw_only=True, tag="best_arm"):
    """Finds the best variant at confidence 1 - `delta`, and from then on serves it alone.

    At every stopping time, the probability that a variant is declared the winner whose mean is more
    than `indifference` below the greatest is at most `delta`. The intervals of the readout decide,
    so this holds under any drift common to the variants. The decision stands until the policy is
    changed. Before the decision, `rule` splits the traffic so that it comes early; `track_and_stop`
    needs an exploration floor.
    """

    decides = True
    rule: Literal["top_two", "track_and_stop"] = "top_two"
    delta: Annotated[float, msgspec.Meta(ge=1e-9, le=0.5)] = 0.05
    indifference: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0

    def errors(self, field: str, setting: Setting) -> Iterator[FieldError]:
        """Yield an error for a missing floor or a step limit."""
        del setting
        if self.rule == "track_and_stop" and self.exploration_floor == 0:
            yield FieldError(f"{field}.exploration_floor", "track_and_stop needs more than 0")
        yield from self._step_errors(field)

    def allocate(self, evidence: Evidence) -> Allocation:
        """Return the split by which the best variant is found with few rewards."""
        floor = self.exploration_floor
        if self.rule == "track_and_stop":
            return track_and_stop(evidence.totals, exploration_floor=floor)
        return top_two(BetaArms.from_totals(evidence.totals), exploration_floor=floor)
