"""The words of an experiment: reward, policy and life cycle. Pure; checked as a whole by `check`."""

from datetime import datetime
from typing import Annotated, Any, Literal, NewType

import msgspec

from app.core import limits
from app.core.errors import FieldError, InvalidInput

ExperimentKey = NewType("ExperimentKey", str)
VariantKey = NewType("VariantKey", str)

Key = Annotated[str, msgspec.Meta(pattern=limits.KEY_PATTERN, description="1 to 128 of A-Z a-z 0-9 . _ -")]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be served. `payload` is handed to the caller as it is."""

    key: Key
    control: bool = False
    payload: Any = msgspec.field(default_factory=dict)


class BetaPrior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Beta(alpha, beta): as if alpha successes and beta failures had been seen before the start."""

    alpha: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    beta: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0


class FixedPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fixed"):
    """Constant shares, one per variant, that sum to 1."""

    weights: dict[Key, Share]


class ThompsonPolicy(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="thompson"
):
    """Thompson sampling by probability matching on a Beta posterior of rewards in [0, 1].

    Each variant's share is `(1 - exploration_floor) P(best) + exploration_floor / K`.
    """

    prior: BetaPrior = BetaPrior()
    exploration_floor: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.05


Policy = FixedPolicy | ThompsonPolicy


class Reward(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the signals of one assignment become one number in [0, 1].

    `signals` maps a signal's name to its catalogue value, which a value sent with the signal replaces.
    `combine` takes the last, the sum or the greatest of the current values; the result is clipped to
    `range` and scaled to [0, 1]. Signals later than `horizon_s` after the assignment do not count.
    `silence` is the reward (in [0, 1]) of an assignment without signals at its horizon; null: censored.
    """

    signals: dict[Key, float] = msgspec.field(default_factory=lambda: {"thumbs_up": 1.0, "thumbs_down": 0.0})
    combine: Literal["last", "sum", "max"] = "last"
    range: tuple[float, float] = (0.0, 1.0)
    horizon_s: Annotated[float, msgspec.Meta(gt=0, le=limits.HORIZON_S_MAX)] = 3_600.0
    silence: Share | None = None


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One requirement on the context: `attribute` compared with `values` (any of them for `in`)."""

    attribute: Key
    operator: Literal["in", "not_in", "greater", "less", "exists"]
    values: tuple[str | float | bool, ...] = ()


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question with two or more variants. Checked as a whole by `check`."""

    key: Key
    description: Annotated[str, msgspec.Meta(max_length=limits.DESCRIPTION_LENGTH_MAX)] = ""
    variants: tuple[Variant, ...]
    unit: Key = "request"
    stickiness: Literal["none", "unit", "strict"] = "none"
    policy: Policy = ThompsonPolicy()
    reward: Reward = Reward()
    targeting: tuple[Condition, ...] = ()
    overrides: dict[str, Key] = msgspec.field(default_factory=dict)

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


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """A stored experiment: its definition and where it is in its life."""

    id: int
    definition: Definition
    state: State
    salt: bytes
    epoch: int
    revision: int
    created_at: datetime
    updated_at: datetime

    @property
    def key(self) -> ExperimentKey:
        """The definition's key."""
        return ExperimentKey(self.definition.key)


def check(definition: Definition) -> Definition:
    """The definition, if its parts fit together.

    Raises InvalidInput with one error per field that does not.
    """
    errors = [*_variant_errors(definition), *_policy_errors(definition), *_reward_errors(definition.reward)]
    keys = {variant.key for variant in definition.variants}
    if len(definition.overrides) > limits.OVERRIDES_MAX:
        errors.append(FieldError("overrides", f"at most {limits.OVERRIDES_MAX}"))
    errors += [
        FieldError(f"overrides.{unit}", f"no variant is called {key!r}")
        for unit, key in definition.overrides.items()
        if key not in keys
    ]
    if len(definition.targeting) > limits.CONDITIONS_MAX:
        errors.append(FieldError("targeting", f"at most {limits.CONDITIONS_MAX} conditions"))
    if errors:
        detail = "; ".join(f"{error.field}: {error.reason}" for error in errors)
        raise InvalidInput(detail, errors=tuple(errors))
    return definition


def _variant_errors(definition: Definition) -> list[FieldError]:
    variants = definition.variants
    errors = []
    if not limits.VARIANTS_MIN <= len(variants) <= limits.VARIANTS_MAX:
        bound = f"{limits.VARIANTS_MIN} to {limits.VARIANTS_MAX}"
        errors.append(FieldError("variants", f"must be {bound}, got {len(variants)}"))
    if len({variant.key for variant in variants}) != len(variants):
        errors.append(FieldError("variants", "keys must differ"))
    controls = sum(variant.control for variant in variants)
    if controls != 1:
        errors.append(FieldError("variants", f"exactly one must be the control, got {controls}"))
    for index, variant in enumerate(variants):
        size = len(msgspec.json.encode(variant.payload))
        if size > limits.PAYLOAD_BYTES_MAX:
            reason = f"at most {limits.PAYLOAD_BYTES_MAX} bytes of JSON, got {size}"
            errors.append(FieldError(f"variants[{index}].payload", reason))
    return errors


def _policy_errors(definition: Definition) -> list[FieldError]:
    policy = definition.policy
    if not isinstance(policy, FixedPolicy):
        return []
    errors = []
    expected, given = {variant.key for variant in definition.variants}, set(policy.weights)
    if expected != given:
        odd = ", ".join(sorted(expected ^ given))
        errors.append(FieldError("policy.weights", f"must name every variant and no other; differs in {odd}"))
    total = sum(policy.weights.values())
    if abs(total - 1) > 1e-6:
        errors.append(FieldError("policy.weights", f"must sum to 1, got {total:g}"))
    return errors


def _reward_errors(reward: Reward) -> list[FieldError]:
    low, high = reward.range
    errors = []
    if not low < high:
        errors.append(
            FieldError("reward.range", f"must be [low, high] with low < high, got [{low:g}, {high:g}]")
        )
    if not 1 <= len(reward.signals) <= limits.REWARD_SIGNALS_MAX:
        errors.append(FieldError("reward.signals", f"must be 1 to {limits.REWARD_SIGNALS_MAX}"))
    if reward.combine != "sum":
        errors += [
            FieldError(
                f"reward.signals.{name}", f"must be within the range [{low:g}, {high:g}], got {value:g}"
            )
            for name, value in reward.signals.items()
            if not low <= value <= high
        ]
    return errors
