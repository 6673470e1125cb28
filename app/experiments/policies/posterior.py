"""Base of the policies that read a posterior of the mean rewards. Pure."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal, assert_never

import msgspec
from msgspec import UNSET, UnsetType

from app.core.errors import FieldError
from app.experiments.policies.forgetting import Discount, Window
from app.experiments.policies.rule import AdaptivePolicy, Evidence, Setting
from bandits.arms import Arms, BetaArms, GammaArms, NormalArms
from bandits.totals import ArmTotals

Posterior = Literal["beta", "normal", "gamma"]


class BetaPrior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Beta(alpha, beta): as if alpha successes and beta failures had been seen before the start."""

    alpha: Annotated[float, msgspec.Meta(ge=1e-3, le=1e6)] = 1.0
    beta: Annotated[float, msgspec.Meta(ge=1e-3, le=1e6)] = 1.0


class PosteriorPolicy(AdaptivePolicy, frozen=True, kw_only=True):
    """A policy that reads a posterior of the variants' mean rewards.

    * `beta`: of successes and failures. A fractional reward r counts as r successes and 1 - r
      failures, times the number of yes-or-no answers that a reward of the variant is worth. The
      prior is Beta(alpha, beta).
    * `normal`: of the mean of rewards whose variance is learned too. The prior has the mean alpha /
      (alpha + beta) and the weight of (alpha + beta) / 2 rewards.
    * `gamma`: of the mean of counts; a count is reward x width of a range that begins at 0. The
      prior is Gamma(alpha) with the rate beta.

    The default is `beta`. With `forgetting`, rewards count less as time passes.
    """

    prior: BetaPrior = BetaPrior()
    posterior: Posterior | UnsetType = UNSET
    forgetting: Discount | Window | UnsetType = UNSET

    @property
    def family(self) -> Posterior:
        """Family of the posterior."""
        return "beta" if self.posterior is UNSET else self.posterior

    def errors(self, field: str, setting: Setting) -> Iterator[FieldError]:
        """Yield an error if counts do not begin at 0."""
        if self.family == "gamma" and setting.reward_range[0] != 0:
            reason = f"gamma needs a reward.range that begins at 0, got {setting.reward_range[0]:g}"
            yield FieldError(f"{field}.posterior", reason)

    def posteriors(self, totals: ArmTotals) -> BetaArms:
        """Return Beta posteriors of the mean rewards, under the policy's prior if it is a Beta."""
        if self.family != "beta":
            return BetaArms.from_totals(totals)
        return BetaArms.from_totals(totals, prior_alpha=self.prior.alpha, prior_beta=self.prior.beta)

    def arms(self, evidence: Evidence) -> Arms:
        """Return the posteriors that the policy reads."""
        totals, alpha, beta = evidence.totals, self.prior.alpha, self.prior.beta
        match self.family:
            case "beta":
                return self.posteriors(totals)
            case "normal":
                return NormalArms.from_moments(
                    totals.n,
                    totals.mean,
                    totals.n * totals.variance,
                    prior_mean=alpha / (alpha + beta),
                    prior_n=(alpha + beta) / 2,
                )
            case "gamma":
                counts = replace(totals, sum=evidence.setting.reward_range[1] * totals.sum)
                return GammaArms.from_totals(counts, prior_shape=alpha, prior_rate=beta)
            case family:
                assert_never(family)
