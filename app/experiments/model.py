"""The words of an experiment: variants, reward, policy, and the states of its life. Pure."""

import math
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NewType, assert_never, get_args

import msgspec
from msgspec import UNSET, UnsetType

from app.core.limits import DESCRIPTION_LENGTH_MAX, HORIZON_S_MAX, SIGNAL_VALUE_MAX, UNIT_LENGTH_MAX
from app.core.text import Key
from app.experiments import limits
from app.experiments.metrics import Metric
from app.experiments.plan import AnalysisPlan, Segments
from bandits.features import Feature

ExperimentKey = NewType("ExperimentKey", str)

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Description = Annotated[str, msgspec.Meta(max_length=DESCRIPTION_LENGTH_MAX)]
Stickiness = Literal["none", "unit", "strict"]
Step = Annotated[float, msgspec.Meta(ge=1e-4, le=1)]
Span = Annotated[float, msgspec.Meta(ge=60, le=limits.FORGETTING_S_MAX)]
Posterior = Literal["beta", "normal", "gamma"]
Unit = Annotated[str, msgspec.Meta(min_length=1, max_length=UNIT_LENGTH_MAX)]
MetricValue = Annotated[float, msgspec.Meta(ge=-SIGNAL_VALUE_MAX, le=SIGNAL_VALUE_MAX)]
RewardValue = Annotated[float, msgspec.Meta(ge=-limits.REWARD_VALUE_MAX, le=limits.REWARD_VALUE_MAX)]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be served. `payload` is handed to the caller as it is."""

    key: Key
    control: bool = False
    payload: Any = msgspec.field(default_factory=dict)


class BetaPrior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Beta(alpha, beta): as if alpha successes and beta failures had been seen before the start."""

    alpha: Annotated[float, msgspec.Meta(ge=1e-3, le=1e6)] = 1.0
    beta: Annotated[float, msgspec.Meta(ge=1e-3, le=1e6)] = 1.0


class Forgetting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """How a policy forgets: rewards are kept by the time of their assignment, in buckets of `bucket_s`."""

    @property
    def span_s(self) -> float:
        """The time after which a reward counts half, or not at all."""
        raise NotImplementedError

    @property
    def bucket_s(self) -> int:
        """Whole seconds: an eighth of `span_s`, but at least `FORGETTING_BUCKET_S_MIN`."""
        return max(limits.FORGETTING_BUCKET_S_MIN, math.ceil(self.span_s / limits.FORGETTING_BUCKETS))

    @property
    def buckets_max(self) -> int:
        """How many buckets are read, the present one included."""
        raise NotImplementedError


class Discount(Forgetting, frozen=True, tag="discount"):
    """A reward counts half as much with every `half_life_s`; after 20 of them it counts no longer."""

    half_life_s: Span

    @property
    def span_s(self) -> float:
        """The half-life."""
        return self.half_life_s

    @property
    def buckets_max(self) -> int:
        """Those of `FORGETTING_HALF_LIVES` half-lives."""
        return math.ceil(limits.FORGETTING_HALF_LIVES * self.half_life_s / self.bucket_s)


class Window(Forgetting, frozen=True, tag="window"):
    """Only rewards of the last `window_s` count, and those of the bucket in which it begins."""

    window_s: Span

    @property
    def span_s(self) -> float:
        """The window."""
        return self.window_s

    @property
    def buckets_max(self) -> int:
        """The present bucket, and as many before it as cover the window."""
        return math.ceil(self.window_s / self.bucket_s) + 1


class FixedPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fixed"):
    """Constant shares, one per variant, that sum to 1."""

    weights: dict[Key, Share]


class AdaptivePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What policies that learn have in common: every variant keeps a share of `exploration_floor / K`.

    `step_max` bounds by how much the share of a variant moves with one update, relative to the allocation in
    force; left out, by nothing. Not for contextual policies and `best_arm`.
    """

    exploration_floor: Share = 0.05
    step_max: Step | UnsetType = UNSET


class PosteriorPolicy(AdaptivePolicy, frozen=True, kw_only=True):
    """What policies that read a posterior of the variants' mean rewards have in common.

    * `beta`: successes and failures; a fractional reward r counts as r of one and 1 - r of the other, times
      how many answers of yes or no a reward of the variant is worth. The prior is Beta(alpha, beta).
    * `normal`: the mean of rewards whose variance is learned too. The prior has the mean alpha / (alpha +
      beta) and the weight of (alpha + beta) / 2 rewards.
    * `gamma`: the mean of counts, a count being reward x width of a range that begins at 0. The prior is
      Gamma(alpha) with the rate beta.

    Left out, it is `beta`. `forgetting`: rewards count less as time passes; left out, they all count.
    """

    prior: BetaPrior = BetaPrior()
    posterior: Posterior | UnsetType = UNSET
    forgetting: Discount | Window | UnsetType = UNSET

    @property
    def family(self) -> Posterior:
        """The posterior that is meant."""
        return "beta" if self.posterior is UNSET else self.posterior


class WarmStart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prior from the totals that another experiment has when the policy comes into force.

    Variants are matched by key. Each logged reward counts `discount`, and no variant's for more than `n_max`
    rewards.
    """

    experiment: Key
    n_max: Annotated[float, msgspec.Meta(ge=1, le=1e6)] = 100.0
    discount: Share = 1.0


class ThompsonPolicy(PosteriorPolicy, frozen=True, kw_only=True, tag="thompson"):
    """Thompson sampling by probability matching.

    Each variant's share is `(1 - exploration_floor) P(best) + exploration_floor / K`. `warm_start` adds to
    the prior of a `beta` posterior.
    """

    warm_start: WarmStart | UnsetType = UNSET


class OptimisticThompsonPolicy(PosteriorPolicy, frozen=True, kw_only=True, tag="optimistic_thompson"):
    """Thompson sampling in which a draw never makes a variant look worse than its mean.

    Each variant draws with probability `sampling` only, else its mean stands.
    """

    sampling: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.9


class TopTwoPolicy(PosteriorPolicy, frozen=True, kw_only=True, tag="top_two"):
    """Top-two Thompson sampling: the best of a draw gets `leader_share`, the best of other draws the rest.

    It finds the best variant with fewer rewards, and earns less on the way.
    """

    leader_share: Annotated[float, msgspec.Meta(ge=0.01, le=0.99)] = 0.5


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the mean of a metric has to be, in its own unit; null: no bound on that side.

    Raises ValueError unless one side is bounded and they leave room.
    """

    metric: Key
    at_least: MetricValue | None = None
    at_most: MetricValue | None = None

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"the constraint on {self.metric!r} needs at_least or at_most")
        if self.at_least is not None and self.at_most is not None and not self.at_least < self.at_most:
            raise ValueError(f"at_least must be below at_most, got {self.at_least:g} and {self.at_most:g}")


class ConstrainedThompsonPolicy(PosteriorPolicy, frozen=True, kw_only=True, tag="constrained_thompson"):
    """Thompson sampling on more than the reward, among the variants that meet constraints on other metrics.

    A variant's share is the probability that it is the best of those that meet all `constraints`; if none
    does, the control serves. `weights` add other metrics to the reward, in reward per unit of the metric:
    -0.1 makes each unit of a cost weigh as much as 0.1 of reward. Metrics are those of the definition, means,
    proportions or ratios; of a metric without any value a constraint is met with probability 1/2.
    """

    constraints: tuple[Bound, ...] = ()
    weights: dict[Key, Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]] = msgspec.field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The keys of the metrics that it reads, each once."""
        return tuple(dict.fromkeys([*(bound.metric for bound in self.constraints), *self.weights]))


class UcbPolicy(AdaptivePolicy, frozen=True, kw_only=True, tag="ucb"):
    """The variant with the greatest upper confidence bound, mixed with the exploration floor.

    `rounds_ahead`: about how many assignments are made between two updates; they are spread as the index
    would spread them one after the other. `forgetting` as for `PosteriorPolicy`.
    """

    index: Literal["ucb1", "ucb1_tuned", "kl_ucb", "kl_ucb_plus"] = "kl_ucb_plus"
    rounds_ahead: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100
    forgetting: Discount | Window | UnsetType = UNSET


class DecreasingEpsilon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An epsilon of min(1, c K / (gap^2 t)) after t assignments; `gap` at most that of best and next mean."""

    gap: Annotated[float, msgspec.Meta(ge=1e-3, le=0.99)]
    c: Annotated[float, msgspec.Meta(ge=1e-3, le=1e3)] = 5.0


class EpsilonGreedyPolicy(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="epsilon_greedy",
):
    """The best average gets 1 - epsilon, and all variants share epsilon: a number, or one that decreases.

    `step_max` as for `AdaptivePolicy`, `forgetting` as for `PosteriorPolicy`.
    """

    epsilon: Share | DecreasingEpsilon = 0.1
    step_max: Step | UnsetType = UNSET
    forgetting: Discount | Window | UnsetType = UNSET


class BestArmPolicy(AdaptivePolicy, frozen=True, kw_only=True, tag="best_arm"):
    """Finds the best variant at confidence 1 - `delta`, and from then on serves it alone.

    However often is looked, P(a variant ever wins whose mean is more than `indifference` below the greatest)
    <= `delta`. The decision stands until the policy is changed. Before it, traffic is split by `rule` so that
    it comes soon; `track_and_stop` needs an exploration floor.
    """

    rule: Literal["top_two", "track_and_stop"] = "top_two"
    delta: Annotated[float, msgspec.Meta(ge=1e-9, le=0.5)] = 0.05
    indifference: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0


class Exp3IxPolicy(AdaptivePolicy, frozen=True, kw_only=True, tag="exp3_ix"):
    """Exponential weights with implicit exploration, for rewards that may change at an adversary's will.

    Shares are in proportion to exp(-eta losses), each loss counting 1 / (propensity + eta / 2). For a horizon
    of n assignments and K variants, sqrt(2 ln K / (K n)) is the right `eta`.
    """

    eta: Annotated[float, msgspec.Meta(ge=1e-4, le=1)] = 0.01


class ContextualPolicy(AdaptivePolicy, frozen=True, kw_only=True):
    """What policies that read the context of a request have in common.

    `features` say what they read and how (`bandits.features`); what else is in the context they ignore. A
    context that does not fit them is refused, or served by the Thompson allocation of the totals
    (`fallback`); nothing is learned from it either way.
    """

    features: tuple[Feature, ...]
    on_bad_context: Literal["refuse", "fallback"] = "refuse"


class LinearPolicy(ContextualPolicy, frozen=True, kw_only=True):
    """A linear model of the reward for each variant; `hybrid`: drawn towards one that all of them share."""

    hybrid: bool = False


class LinTsPolicy(LinearPolicy, frozen=True, kw_only=True, tag="lin_ts"):
    """Thompson sampling on linear models: shares are the probabilities to have the greatest mean reward."""


class LinUcbPolicy(LinearPolicy, frozen=True, kw_only=True, tag="lin_ucb"):
    """The greatest upper bound, mean and `width` standard deviations; mixed with the floor."""

    width: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.5


class SegmentedThompsonPolicy(AdaptivePolicy, frozen=True, kw_only=True, tag="segmented_thompson"):
    """Thompson sampling in each segment of the traffic, where thin segments borrow strength from the others.

    `by` declares the segments: the values of one context attribute, or of several together, at most
    `POLICY_SEGMENTS_MAX` in all. Any other value, and none, is the segment `other` of its
    attribute. `step_max` does not apply.
    """

    by: tuple[Segments, ...]


class LogisticTsPolicy(ContextualPolicy, frozen=True, kw_only=True, tag="logistic_ts"):
    """Thompson sampling on a logistic model for each variant: for rewards that are 0 or 1."""


Policy = (
    FixedPolicy
    | ThompsonPolicy
    | OptimisticThompsonPolicy
    | TopTwoPolicy
    | ConstrainedThompsonPolicy
    | UcbPolicy
    | EpsilonGreedyPolicy
    | BestArmPolicy
    | Exp3IxPolicy
    | LinTsPolicy
    | LinUcbPolicy
    | LogisticTsPolicy
    | SegmentedThompsonPolicy
)
"""The rule that turns totals into an allocation, by its `kind`."""


def warm_start_of(policy: Policy) -> WarmStart | None:
    """What the policy starts from besides its prior, if anything."""
    if isinstance(policy, ThompsonPolicy) and policy.warm_start is not UNSET:
        return policy.warm_start
    return None


def kind_of_policy(policy: Policy) -> str:
    """The name of a policy's kind."""
    return str(policy.__struct_config__.tag)


def forgetting_of(policy: Policy) -> Discount | Window | None:
    """How a policy forgets; None: not at all."""
    found: Discount | Window | UnsetType = getattr(policy, "forgetting", UNSET)
    return None if found is UNSET else found


class Reward(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the signals of one assignment become one number in [0, 1].

    `signals` maps a signal's name to its catalogue value, which a value sent with the signal replaces.
    `combine` takes the last, the sum or the greatest of the current values; the result is clipped to
    `range` and scaled to [0, 1]. Signals later than `horizon_s` after the assignment do not count.
    `silence` is the reward (in [0, 1]) of an assignment without signals at its horizon; null: censored.
    """

    signals: dict[Key, RewardValue] = msgspec.field(
        default_factory=lambda: {"thumbs_up": 1.0, "thumbs_down": 0.0}
    )
    combine: Literal["last", "sum", "max"] = "last"
    range: tuple[RewardValue, RewardValue] = (0.0, 1.0)
    horizon_s: Annotated[float, msgspec.Meta(gt=0, le=HORIZON_S_MAX)] = 3_600.0
    silence: Share | None = None


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One requirement on the context, as `targeting.matches` reads it.

    `values`: at least one for `in` and `not_in`, one number for `greater` and `less`, none for `exists`.
    """

    attribute: Key
    operator: Literal["in", "not_in", "greater", "less", "exists"]
    values: tuple[str | float | bool, ...] = ()


class LayerRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part of a layer's units that take part: those whose point in it lies in [start, end).

    A layer is a hash space that experiments share: each unit has one point in it, whatever any of them does.
    No two that run hold the same point, so that no unit is in both. Points that nobody holds are a holdout.

    Raises ValueError unless the range holds at least `LAYER_RANGE_MIN`.
    """

    key: Key
    start: Share = 0.0
    end: Share = 1.0

    def __post_init__(self) -> None:
        if round(self.end - self.start, 9) < limits.LAYER_RANGE_MIN:
            least = limits.LAYER_RANGE_MIN
            raise ValueError(
                f"end must be at least {least:g} above start, got {self.start:g} and {self.end:g}"
            )

    def meets(self, other: "LayerRange") -> bool:
        """Whether some unit of the same layer is in both."""
        return self.start < other.end and other.start < self.end


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question with two or more variants. Whether its parts fit together is for `checks.check` to say.

    `metrics` and `plan` say how it is judged, and are fixed at the start. Takes part who meets all conditions
    of `targeting`; `overrides` gives single units a variant of their own.
    With a `layer`, only units in its range do, and they are in no other experiment of the layer.
    `apprentice` is a policy that is shown what `policy` is shown, and compared, but never served.
    """

    key: Key
    description: Description = ""
    variants: tuple[Variant, ...]
    unit: Key = "request"
    stickiness: Stickiness = "none"
    policy: Policy = ThompsonPolicy()
    apprentice: Policy | None = None
    reward: Reward = msgspec.field(default_factory=Reward)
    metrics: tuple[Metric, ...] = ()
    plan: AnalysisPlan = AnalysisPlan()
    targeting: tuple[Condition, ...] = ()
    overrides: dict[Unit, Key] = msgspec.field(default_factory=dict)
    layer: LayerRange | None = None

    @property
    def reads_silence(self) -> bool:
        """Whether a metric is told something by a horizon that passes without a signal."""
        return any(metric.reads_silence for metric in self.metrics)

    @property
    def control_index(self) -> int:
        """Position of the control in `variants`."""
        return next(index for index, variant in enumerate(self.variants) if variant.control)


class Draft(msgspec.Struct, frozen=True, tag_field="kind", tag="draft"):
    """Defined, never started: everything may still change."""


class Running(msgspec.Struct, frozen=True, tag_field="kind", tag="running"):
    """Assigning and learning."""

    started_at: datetime


class Paused(msgspec.Struct, frozen=True, tag_field="kind", tag="paused"):
    """Answers the control, learns from feedback that still arrives."""

    started_at: datetime
    paused_at: datetime


class Stopped(msgspec.Struct, frozen=True, tag_field="kind", tag="stopped"):
    """Over. Answers the winner, or the control where there is none."""

    started_at: datetime
    stopped_at: datetime
    winner: Key | None = None


class Archived(msgspec.Struct, frozen=True, tag_field="kind", tag="archived"):
    """Out of sight: no longer listed by default, never assigned, its log kept."""

    archived_at: datetime


State = Draft | Running | Paused | Stopped | Archived
StateKind = Literal["draft", "running", "paused", "stopped", "archived"]
STATE_KINDS: Final[tuple[StateKind, ...]] = get_args(StateKind)


def kind_of(state: State) -> StateKind:
    """The name of a state."""
    match state:
        case Draft():
            return "draft"
        case Running():
            return "running"
        case Paused():
            return "paused"
        case Stopped():
            return "stopped"
        case Archived():
            return "archived"
        case _:
            assert_never(state)


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """A stored experiment: its definition and where it is in its life.

    `held` are shares of variants that stand whatever the policy says: those of a rollout. The other variants
    share the rest. `killed`: the control is served everywhere, whatever state and policy say.
    """

    id: int
    definition: Definition
    state: State
    salt: bytes
    epoch: int
    revision: int
    created_at: datetime
    updated_at: datetime
    held: dict[str, float] = {}
    killed: bool = False

    @property
    def key(self) -> ExperimentKey:
        """The definition's key."""
        return ExperimentKey(self.definition.key)
