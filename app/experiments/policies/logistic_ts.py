"""The policy `logistic_ts`. Pure."""

from collections.abc import Sequence

from app.experiments.policies.contextual import ContextualPolicy
from bandits.logistic import LogisticPosterior, LogisticTotals, logistic


class LogisticTsPolicy(ContextualPolicy, frozen=True, kw_only=True, tag="logistic_ts"):
    """Thompson sampling on a logistic model for each variant: for rewards that are 0 or 1."""

    model = "logistic"

    def posterior(self, totals: Sequence[LogisticTotals]) -> LogisticPosterior:
        """Return Laplace's posterior."""
        return logistic(totals)
