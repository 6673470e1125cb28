"""Base of all policies: what a policy declares, reads and answers. Pure."""

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Final, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from app.core.errors import FieldError
from app.core.text import Key
from app.experiments.metrics import Metric
from app.experiments.plan import Segments
from app.experiments.policies.forgetting import Discount, Window
from bandits import pulls
from bandits.allocation import Allocation
from bandits.arms import Arms, BetaArms
from bandits.exp3 import LossTotals
from bandits.features import Feature
from bandits.totals import ArmTotals

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Step = Annotated[float, msgspec.Meta(ge=1e-4, le=1)]

DRAWS_MAX: Final = 300
"""Number of posterior draws by which a simulated batch is spread."""


class Setting(NamedTuple):
    """The parts of an experiment that a policy depends on."""

    key: str
    variants: tuple[str, ...]
    control: int
    reward_range: tuple[float, float]
    metrics: tuple[Metric, ...]


class Evidence(NamedTuple):
    """The data that a policy allocates by. Arrays are in the order of the variants.

    `totals` are of rewards in [0, 1]; `losses` are importance-weighted. `metrics` are the
    posteriors of the means of those metrics that have a value.
    """

    setting: Setting
    totals: ArmTotals
    losses: LossTotals
    metrics: Mapping[str, Arms]


class Contexts(NamedTuple):
    """Learn from rewards with their contexts, for a linear or a logistic model."""

    model: Literal["linear", "logistic"]
    features: tuple[Feature, ...]


class Losses(NamedTuple):
    """Learn losses (1 - reward) / (propensity + gamma)."""

    gamma: float


class BySegment(NamedTuple):
    """Learn rewards by the segment of their context."""

    by: tuple[Segments, ...]


class ByTime(NamedTuple):
    """Learn rewards by the time of their assignment, in buckets of `bucket_s` seconds."""

    bucket_s: int


Learns = Contexts | Losses | BySegment | ByTime


class Scene(NamedTuple):
    """The traffic that a policy is simulated on."""

    setting: Setting
    requests_per_day: float
    requests: int
    batch: int
    runs: int

    def seconds(self, *, per_batch: float = 0.0, per_run: float = 0.0, per_arm: float = 0.0) -> float:
        """Estimate the computing time of one core, right to a factor of two.

        The arguments are the policy's seconds for a batch, for each run in it, and for each arm of
        a run. They were measured on `bandits.pulls`.
        """
        n_arms = len(self.setting.variants)
        frame = 2e-4 + 5e-7 * self.runs * n_arms
        policy = per_batch + self.runs * (per_run + n_arms * per_arm)
        n_batches = -(-self.requests // self.batch)
        return n_batches * (frame + policy) + 2e-8 * self.requests * n_arms


class Simulated(NamedTuple):
    """A policy as `bandits.pulls` simulates it, with the expected seconds of one core."""

    policy: pulls.Policy
    seconds: float


class PolicyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """A policy's record of itself, with the answers that hold for most policies."""

    reads: ClassVar[Literal["nothing", "totals", "losses", "metrics", "contexts"]] = "totals"
    """What the shares depend on. Policies that read contexts have shares for each request."""

    decides: ClassVar[bool] = False
    """Whether the policy declares a winner, and from then on serves it alone."""

    @property
    def kind(self) -> str:
        """Name of the policy's kind."""
        return str(self.__struct_config__.tag)

    @property
    def moves(self) -> bool:
        """Whether shares follow the rewards."""
        return self.reads != "nothing"

    @property
    def can_be_held(self) -> bool:
        """Whether a rollout can hold shares while this policy allocates the rest."""
        return self.reads != "contexts" and not self.decides

    @property
    def can_be_shadow(self) -> bool:
        """Whether the policy can be a shadow policy, which reads the reward totals alone."""
        return self.reads in {"nothing", "totals"}

    @property
    def can_be_evaluated(self) -> bool:
        """Whether the log of rewards says what the policy would have served."""
        return self.reads != "metrics"

    @property
    def can_be_simulated(self) -> bool:
        """Whether simulated rewards are all that the policy needs."""
        return self.reads in {"nothing", "totals", "losses"} and not self.decides

    @property
    def step_limit(self) -> float | None:
        """Greatest change of a share with one update; None: no limit."""
        step_max: float | UnsetType = getattr(self, "step_max", UNSET)
        return None if step_max is UNSET else step_max

    @property
    def forgets(self) -> Discount | Window | None:
        """Rule by which rewards lose their weight with time; None: they keep it."""
        forgetting: Discount | Window | UnsetType = getattr(self, "forgetting", UNSET)
        return None if forgetting is UNSET else forgetting

    @property
    def starts_from(self) -> "WarmStart | None":
        """The other experiment whose totals add to the prior, if any."""
        warm_start: WarmStart | UnsetType = getattr(self, "warm_start", UNSET)
        return None if warm_start is UNSET else warm_start

    @property
    def learns(self) -> Learns | None:
        """Kind of data that the policy learns beyond the reward totals, if any."""
        return None if self.forgets is None else ByTime(self.forgets.bucket_s)

    def errors(self, field: str, setting: Setting) -> Iterator[FieldError]:
        """Yield an error for each setting that does not fit the experiment.

        `field` is the path of the policy in the definition.
        """
        del field, setting
        yield from ()

    def posteriors(self, totals: ArmTotals) -> BetaArms:
        """Return Beta posteriors of the mean rewards, as the status shows them.

        By default the prior is uniform.
        """
        return BetaArms.from_totals(totals)

    def allocate(self, evidence: Evidence) -> Allocation:
        """Return the shares of the variants. Equal evidence gives equal bits.

        A policy that reads contexts returns what serves where a context cannot be read. `best_arm`
        returns what serves until it has decided.
        """
        raise NotImplementedError

    def simulated(self, scene: Scene) -> Simulated:
        """Return the policy for `bandits.pulls`.

        By default it draws from its exact shares, one run after the other.
        """

        def shares(totals: ArmTotals) -> Allocation:
            return self.allocate(Evidence(scene.setting, totals, LossTotals(np.zeros(totals.n_arms)), {}))

        exact = pulls.FromTotals(pulls.exact_pulls(shares), self._memory(scene))
        return Simulated(exact, scene.seconds(per_run=1.5e-4, per_arm=1.5e-5))

    def _memory(self, scene: Scene) -> float:
        """Return the weight that a reward keeps with each request."""
        if not isinstance(self.forgets, Discount):
            return 1.0
        return float(0.5 ** (1 / (self.forgets.half_life_s / 86_400 * scene.requests_per_day)))


class AdaptivePolicy(PolicyRule, frozen=True, kw_only=True):
    """A policy that learns. Every variant keeps a share of `exploration_floor / K`.

    `step_max` limits how much the share of a variant moves with one update, relative to the
    allocation in force. Without it there is no limit. Contextual policies and `best_arm` do not
    take it.
    """

    exploration_floor: Share = 0.05
    step_max: Step | UnsetType = UNSET

    def _step_errors(self, field: str) -> Iterator[FieldError]:
        if self.step_max is not UNSET:
            yield FieldError(f"{field}.step_max", f"does not apply to {self.kind}")

    def _with_floor(self, draw: pulls.Draw, scene: Scene) -> pulls.FromTotals:
        """Draw with the floor; a batch above `DRAWS_MAX` is spread by that many draws."""
        capped = pulls.capped_pulls(draw, DRAWS_MAX)
        return pulls.FromTotals(pulls.with_floor_pulls(capped, self.exploration_floor), self._memory(scene))


class WarmStart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prior from the totals that another experiment has when the policy comes into force.

    Variants are matched by key. Each logged reward counts `discount`, and the rewards of a variant
    together count for at most `n_max`.
    """

    experiment: Key
    n_max: Annotated[float, msgspec.Meta(ge=1, le=1e6)] = 100.0
    discount: Share = 1.0
