"""Base of the policies that read the context of a request. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from app.core.errors import FieldError
from app.core.text import is_key
from app.experiments import limits
from app.experiments.policies.rule import AdaptivePolicy, Contexts, Evidence, Learns, Setting
from bandits.allocation import Allocation
from bandits.arms import BetaArms
from bandits.features import Feature, Numeric, Schema
from bandits.linear import LinearPosterior, LinearTotals, disjoint, hybrid
from bandits.logistic import LogisticPosterior
from bandits.thompson import thompson
from stats.errors import InvalidInput as OutOfBounds


class ContextualPolicy(AdaptivePolicy, frozen=True, kw_only=True):
    """A policy with a model of the reward in each context.

    `features` say what the policy reads and how (`bandits.features`); it ignores the rest of the
    context. If a context does not fit, the request is refused, or served by the Thompson allocation
    of the totals (`fallback`). Nothing is learned from a context that does not fit.
    """

    reads = "contexts"
    model: ClassVar[Literal["linear", "logistic"]]
    """The model of the reward."""
    decision: ClassVar[Literal["thompson", "ucb"]] = "thompson"
    """How scores become shares in a context."""

    features: tuple[Feature, ...]
    on_bad_context: Literal["refuse", "fallback"] = "refuse"

    @property
    def learns(self) -> Learns:
        """Contexts with their rewards."""
        return Contexts(self.model, self.features)

    @property
    def deviations(self) -> float:
        """Number of standard deviations above the mean at which `ucb` decides."""
        return 0.0

    def posterior(self, totals: Sequence[Any]) -> LinearPosterior | LogisticPosterior:
        """Return what the variants' totals, of the model's kind, say of its coefficients."""
        raise NotImplementedError

    def errors(self, field: str, setting: Setting) -> Iterator[FieldError]:
        """Yield what is wrong with the features."""
        del setting
        yield from self._feature_errors(f"{field}.features")
        yield from self._step_errors(field)

    def allocate(self, evidence: Evidence) -> Allocation:
        """Return what serves where a context cannot be read: Thompson sampling of the totals."""
        return thompson(BetaArms.from_totals(evidence.totals), exploration_floor=self.exploration_floor)

    def _feature_errors(self, place: str) -> Iterator[FieldError]:
        if not self.features:
            yield FieldError(place, "must be at least one")
        for index, feature in enumerate(self.features):
            field = f"{place}[{index}]"
            if not is_key(feature.name):
                yield FieldError(f"{field}.name", "must be 1 to 128 of A-Z a-z 0-9 . _ -")
            if isinstance(feature, Numeric):
                if abs(feature.location) > limits.FEATURE_LOCATION_MAX:
                    yield FieldError(f"{field}.location", f"at most {limits.FEATURE_LOCATION_MAX:g} in size")
                if not limits.FEATURE_SCALE_MIN <= feature.scale <= limits.FEATURE_SCALE_MAX:
                    bound = f"{limits.FEATURE_SCALE_MIN:g} to {limits.FEATURE_SCALE_MAX:g}"
                    yield FieldError(f"{field}.scale", f"must be {bound}, got {feature.scale:g}")
        try:
            Schema(self.features)
        except OutOfBounds as error:
            yield FieldError(place, str(error))


class LinearPolicy(ContextualPolicy, frozen=True, kw_only=True):
    """A policy with a linear model of the reward for each variant.

    With `hybrid` the models share what they have in common.
    """

    model = "linear"
    hybrid: bool = False

    def posterior(self, totals: Sequence[LinearTotals]) -> LinearPosterior:
        """Return the posterior of separate or hybrid linear models."""
        return hybrid(totals) if self.hybrid else disjoint(totals)
