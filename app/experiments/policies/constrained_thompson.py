"""The policy `constrained_thompson`. Pure."""

from collections.abc import Iterator
from typing import Annotated

import msgspec
import numpy as np

from app.core.errors import FieldError
from app.core.limits import SIGNAL_VALUE_MAX
from app.core.text import Key
from app.experiments.metrics import QuantileOf
from app.experiments.policies.posterior import PosteriorPolicy
from app.experiments.policies.rule import Evidence, Setting
from bandits.allocation import Allocation, fixed
from bandits.arms import Arms, NormalArms
from bandits.objective import Constraint, constrained_thompson, scalarised

MetricValue = Annotated[float, msgspec.Meta(ge=-SIGNAL_VALUE_MAX, le=SIGNAL_VALUE_MAX)]


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The range in which the mean of a metric must lie, in the metric's unit.

    Null leaves that side open.

    Raises ValueError unless one side is bounded and `at_least` is below `at_most`.
    """

    metric: Key
    at_least: MetricValue | None = None
    at_most: MetricValue | None = None

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"the constraint on {self.metric!r} needs at_least or at_most")
        if self.at_least is not None and self.at_most is not None and not self.at_least < self.at_most:
            raise ValueError(f"at_least must be below at_most, got {self.at_least:g} and {self.at_most:g}")

    @property
    def sides(self) -> tuple[float, float]:
        """Lower and upper bound; infinite on a side that is open."""
        return (
            -np.inf if self.at_least is None else self.at_least,
            np.inf if self.at_most is None else self.at_most,
        )


class ConstrainedThompsonPolicy(PosteriorPolicy, frozen=True, kw_only=True, tag="constrained_thompson"):
    """Thompson sampling among the variants that meet constraints on other metrics.

    A variant's share is the probability that it is the best of those that meet all `constraints`;
    if none does, the control serves. `weights` add other metrics to the reward, in reward per unit
    of the metric: -0.1 makes each unit of a cost weigh as much as 0.1 of reward. Metrics are those
    of the definition: means, proportions or ratios. If a metric has no value yet, a constraint on
    it is met with probability 1/2.
    """

    reads = "metrics"
    constraints: tuple[Bound, ...] = ()
    weights: dict[Key, Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]] = msgspec.field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Keys of the metrics that the policy reads, each once."""
        return tuple(dict.fromkeys([*(bound.metric for bound in self.constraints), *self.weights]))

    def errors(self, field: str, setting: Setting) -> Iterator[FieldError]:
        """Yield an error for each metric that does not exist or is a quantile."""
        yield from super().errors(field, setting)
        if not self.metrics:
            yield FieldError(f"{field}.constraints", "needs a constraint, or a metric in weights")
        if self.forgets:
            yield FieldError(f"{field}.forgetting", "does not apply to constrained_thompson")
        known = {metric.key: metric for metric in setting.metrics}
        named = {f"{field}.constraints[{i}].metric": bound.metric for i, bound in enumerate(self.constraints)}
        named |= {f"{field}.weights.{key}": key for key in self.weights}
        for place, key in named.items():
            if key not in known:
                yield FieldError(place, f"no metric is called {key!r}")
            elif isinstance(known[key].measure, QuantileOf):
                yield FieldError(
                    place, f"{key!r} is a quantile: a policy reads means, proportions and ratios"
                )

    def allocate(self, evidence: Evidence) -> Allocation:
        """Return the probabilities of being the best that is feasible.

        Posteriors of different metrics are taken as independent.
        """
        n_variants, known = len(evidence.setting.variants), evidence.metrics
        constraints = [
            Constraint(known.get(bound.metric) or _unknown(bound, n_variants), *bound.sides)
            for bound in self.constraints
        ]
        objective = self.arms(evidence)
        weights = {key: weight for key, weight in self.weights.items() if key in known and weight}
        if weights:
            objective = scalarised([objective, *(known[key] for key in weights)], [1.0, *weights.values()])
        control = fixed([float(index == evidence.setting.control) for index in range(n_variants)])
        return constrained_thompson(
            objective, constraints, when_none=control, exploration_floor=self.exploration_floor
        )


def _unknown(bound: Bound, n_variants: int) -> Arms:
    """Return posteriors of a metric without data: each satisfies the bound with probability 1/2.

    If the bound has two sides, almost all mass lies between them or below the lower one.
    """
    lower, upper = bound.sides
    centre = lower if np.isfinite(lower) else upper
    scale = (upper - lower) / 1e6 if np.isfinite(upper - lower) else 1.0
    return NormalArms(np.full(n_variants, centre), np.full(n_variants, scale), np.full(n_variants, 1e9))
