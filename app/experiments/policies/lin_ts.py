"""The policy `lin_ts`. Pure."""

from app.experiments.policies.contextual import LinearPolicy


class LinTsPolicy(LinearPolicy, frozen=True, kw_only=True, tag="lin_ts"):
    """Thompson sampling on linear models: a share is the probability of the greatest mean reward."""
