"""The policy `lin_ucb`. Pure."""

from typing import Annotated

import msgspec

from app.experiments.policies.contextual import LinearPolicy


class LinUcbPolicy(LinearPolicy, frozen=True, kw_only=True, tag="lin_ucb"):
    """The greatest upper bound on linear models, mixed with the exploration floor.

    A bound is the mean and `width` standard deviations.
    """

    decision = "ucb"
    width: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.5

    @property
    def deviations(self) -> float:
        """Width of the bound."""
        return self.width
