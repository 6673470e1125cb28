"""Whether the parts of a definition fit together. Pure."""

from collections.abc import Iterator

import msgspec
from msgspec import UNSET

from app.core.errors import FieldError, InvalidInput, NotFound
from app.core.limits import SIGNAL_VALUE_MAX, UNIT_LENGTH_MAX, VARIANTS_MAX, VARIANTS_MIN
from app.core.text import is_key, unstorable
from app.experiments import limits
from app.experiments.metrics import REWARD, Mean, Measure, Metric, QuantileOf, Ratio
from app.experiments.model import (
    BestArmPolicy,
    Condition,
    ConstrainedThompsonPolicy,
    ContextualPolicy,
    Definition,
    Exp3IxPolicy,
    FixedPolicy,
    Policy,
    PosteriorPolicy,
    Reward,
    SegmentedThompsonPolicy,
    ThompsonPolicy,
    Variant,
    forgetting_of,
    kind_of_policy,
    warm_start_of,
)
from app.experiments.plan import AnalysisPlan, Segments
from app.experiments.segments import OTHER, segment_count
from bandits.features import Feature, Numeric, Schema
from stats.errors import InvalidInput as OutOfBounds


def possible(key: str) -> str:
    """The key, if an experiment could have it. Raises NotFound."""
    if not is_key(key):
        raise unknown(key[:UNIT_LENGTH_MAX])
    return key


def unknown(key: str, field: str | None = None) -> NotFound:
    """What to raise where no experiment has this key, which came in a `field`."""
    return NotFound(f"no experiment is called {key!r}", field=field)


def check(definition: Definition) -> Definition:
    """The definition, if its parts fit together and can be stored.

    Raises InvalidInput with one error per field that does not, the first `FIELD_ERRORS_MAX` of them.
    """
    errors = [
        *_variant_errors(definition.variants),
        *_policy_errors("policy", definition.policy, definition),
        *_apprentice_errors(definition),
        *_reward_errors(definition.reward),
        *_metric_errors(definition.metrics),
        *_plan_errors(definition.plan),
        *_targeting_errors(definition.targeting),
        *_override_errors(definition),
        *_storage_errors(definition),
    ][: limits.FIELD_ERRORS_MAX]
    if errors:
        detail = "; ".join(f"{error.field}: {error.reason}" for error in errors)
        raise InvalidInput(detail, errors=tuple(errors))
    return definition


def _variant_errors(variants: tuple[Variant, ...]) -> Iterator[FieldError]:
    if not VARIANTS_MIN <= len(variants) <= VARIANTS_MAX:
        bound = f"{VARIANTS_MIN} to {VARIANTS_MAX}"
        yield FieldError("variants", f"must be {bound}, got {len(variants)}")
    if len({variant.key for variant in variants}) != len(variants):
        yield FieldError("variants", "keys must differ")
    controls = sum(variant.control for variant in variants)
    if controls != 1:
        yield FieldError("variants", f"exactly one must be the control, got {controls}")
    for index, variant in enumerate(variants):
        field = f"variants[{index}].payload"
        if error := unstorable(variant.payload, field):
            yield error
        elif (size := len(msgspec.json.encode(variant.payload))) > limits.PAYLOAD_BYTES_MAX:
            yield FieldError(field, f"at most {limits.PAYLOAD_BYTES_MAX} bytes of JSON, got {size}")


def _policy_errors(field: str, policy: Policy, definition: Definition) -> Iterator[FieldError]:
    match policy:
        case FixedPolicy() as fixed:
            yield from _weights_errors(field, fixed, definition.variants)
        case SegmentedThompsonPolicy(by=by):
            yield from _segments_errors(f"{field}.by", by)
        case PosteriorPolicy(posterior="gamma") if definition.reward.range[0] != 0:
            reason = f"gamma needs a reward.range that begins at 0, got {definition.reward.range[0]:g}"
            yield FieldError(f"{field}.posterior", reason)
        case ConstrainedThompsonPolicy() as constrained:
            yield from _objective_errors(field, constrained, definition.metrics)
        case ContextualPolicy(features=features):
            yield from _feature_errors(f"{field}.features", features)
        case BestArmPolicy(rule="track_and_stop", exploration_floor=0):
            yield FieldError(f"{field}.exploration_floor", "track_and_stop needs more than 0")
        case _:
            pass
    stepless = ContextualPolicy | BestArmPolicy | SegmentedThompsonPolicy
    if isinstance(policy, stepless) and policy.step_max is not UNSET:
        yield FieldError(f"{field}.step_max", f"does not apply to {kind_of_policy(policy)}")
    yield from _warm_start_errors(f"{field}.warm_start", policy, definition)


def _warm_start_errors(field: str, policy: Policy, definition: Definition) -> Iterator[FieldError]:
    warm = warm_start_of(policy)
    if warm is None or not isinstance(policy, ThompsonPolicy):
        return
    if policy.family != "beta":
        yield FieldError(field, f"needs the posterior beta, got {policy.family}")
    if warm.experiment == definition.key:
        yield FieldError(f"{field}.experiment", "must be another experiment")
    if forgetting_of(policy):
        yield FieldError(field, "does not apply to a policy that forgets")


def _apprentice_errors(definition: Definition) -> Iterator[FieldError]:
    """It is given the totals alone: no contexts, no losses, and no allocation of its own to move from."""
    apprentice = definition.apprentice
    if apprentice is None:
        return
    curious = ContextualPolicy | SegmentedThompsonPolicy | Exp3IxPolicy | ConstrainedThompsonPolicy
    if isinstance(apprentice, curious):
        kind = kind_of_policy(apprentice)
        yield FieldError(
            "apprentice.kind", f"{kind} reads more than the reward totals, which are all it gets"
        )
        return
    yield from _policy_errors("apprentice", apprentice, definition)
    if not isinstance(apprentice, FixedPolicy | BestArmPolicy) and apprentice.step_max is not UNSET:
        yield FieldError(
            "apprentice.step_max", "does not apply to an apprentice, whose shares are never in force"
        )
    if warm_start_of(apprentice):
        yield FieldError("apprentice.warm_start", "does not apply to an apprentice: it gets the same totals")
    if forgetting_of(apprentice):
        yield FieldError("apprentice.forgetting", "does not apply to an apprentice: it gets the same totals")


def _objective_errors(
    of: str, policy: ConstrainedThompsonPolicy, metrics: tuple[Metric, ...]
) -> Iterator[FieldError]:
    if not policy.metrics:
        yield FieldError(f"{of}.constraints", "needs a constraint, or a metric in weights")
    if forgetting_of(policy):
        yield FieldError(f"{of}.forgetting", "does not apply to constrained_thompson")
    known = {metric.key: metric for metric in metrics}
    bounds = {f"{of}.constraints[{i}].metric": bound.metric for i, bound in enumerate(policy.constraints)}
    weights = {f"{of}.weights.{key}": key for key in policy.weights}
    for field, key in (bounds | weights).items():
        if key not in known:
            yield FieldError(field, f"no metric is called {key!r}")
        elif isinstance(known[key].measure, QuantileOf):
            yield FieldError(field, f"{key!r} is a quantile: a policy reads means, proportions and ratios")


def _feature_errors(of: str, features: tuple[Feature, ...]) -> Iterator[FieldError]:
    if not features:
        yield FieldError(of, "must be at least one")
    for index, feature in enumerate(features):
        field = f"{of}[{index}]"
        if not is_key(feature.name):
            yield FieldError(f"{field}.name", "must be 1 to 128 of A-Z a-z 0-9 . _ -")
        if isinstance(feature, Numeric):
            if abs(feature.location) > limits.FEATURE_LOCATION_MAX:
                yield FieldError(f"{field}.location", f"at most {limits.FEATURE_LOCATION_MAX:g} in size")
            if not limits.FEATURE_SCALE_MIN <= feature.scale <= limits.FEATURE_SCALE_MAX:
                bound = f"{limits.FEATURE_SCALE_MIN:g} to {limits.FEATURE_SCALE_MAX:g}"
                yield FieldError(f"{field}.scale", f"must be {bound}, got {feature.scale:g}")
    try:
        Schema(features)
    except OutOfBounds as error:
        yield FieldError(of, str(error))


def _weights_errors(field: str, policy: FixedPolicy, defined: tuple[Variant, ...]) -> Iterator[FieldError]:
    variants = {variant.key for variant in defined}
    if missing := sorted(variants - policy.weights.keys()):
        yield FieldError(f"{field}.weights", f"must name every variant; missing {', '.join(missing)}")
    for key in policy.weights.keys() - variants:
        yield FieldError(f"{field}.weights.{key}", f"no variant is called {key!r}")
    total = sum(policy.weights.values())
    if abs(total - 1) > 1e-6:
        yield FieldError(f"{field}.weights", f"must sum to 1, got {total:g}")


def _reward_errors(reward: Reward) -> Iterator[FieldError]:
    low, high = reward.range
    if not low < high:
        yield FieldError("reward.range", f"must be [low, high] with low < high, got [{low:g}, {high:g}]")
    if not 1 <= len(reward.signals) <= limits.REWARD_SIGNALS_MAX:
        bound = f"1 to {limits.REWARD_SIGNALS_MAX}"
        yield FieldError("reward.signals", f"must be {bound}, got {len(reward.signals)}")
    if reward.combine == "sum":
        return  # single values may lie outside a range that is the sum's
    for name, value in reward.signals.items():
        if not low <= value <= high:
            reason = f"must be within the range [{low:g}, {high:g}], got {value:g}"
            yield FieldError(f"reward.signals.{name}", reason)


def _metric_errors(metrics: tuple[Metric, ...]) -> Iterator[FieldError]:
    if len(metrics) > limits.METRICS_MAX:
        yield FieldError("metrics", f"at most {limits.METRICS_MAX}, got {len(metrics)}")
    if len({metric.key for metric in metrics}) != len(metrics):
        yield FieldError("metrics", "keys must differ")
    for index, metric in enumerate(metrics):
        if metric.key == REWARD:
            yield FieldError(f"metrics[{index}].key", f"{REWARD!r} is the reward of the definition")
        yield from _measure_errors(metric.measure, f"metrics[{index}].measure")


def _measure_errors(measure: Measure, field: str) -> Iterator[FieldError]:
    if isinstance(measure, Mean) and measure.silence is not None:
        yield from _bound_errors(measure.silence, f"{field}.silence")
    if isinstance(measure, Mean | Ratio):
        for bound in measure.cap:
            if bound is not None:
                yield from _bound_errors(bound, f"{field}.cap")
    if isinstance(measure, Mean | QuantileOf):
        for bound in measure.range or ():
            yield from _bound_errors(bound, f"{field}.range")


def _bound_errors(value: float, field: str) -> Iterator[FieldError]:
    if not abs(value) <= SIGNAL_VALUE_MAX:
        yield FieldError(field, f"at most {SIGNAL_VALUE_MAX:g} in size, got {value:g}")


def _plan_errors(plan: AnalysisPlan) -> Iterator[FieldError]:
    if len(plan.covariates) > limits.COVARIATES_MAX:
        yield FieldError("plan.covariates", f"at most {limits.COVARIATES_MAX}, got {len(plan.covariates)}")
    if len(set(plan.covariates)) != len(plan.covariates):
        yield FieldError("plan.covariates", "names must differ")
    if plan.segments is not None:
        yield from _values_errors("plan.segments.values", plan.segments.values)


def _segments_errors(field: str, by: tuple[Segments, ...]) -> Iterator[FieldError]:
    if not by:
        yield FieldError(field, "must be at least one attribute")
    if len({one.attribute for one in by}) != len(by):
        yield FieldError(field, "attributes must differ")
    for index, one in enumerate(by):
        yield from _values_errors(f"{field}[{index}].values", one.values)
    if (count := segment_count(by)) > limits.POLICY_SEGMENTS_MAX:
        reason = f"at most {limits.POLICY_SEGMENTS_MAX} segments, `other` of each included, got {count}"
        yield FieldError(field, reason)


def _values_errors(field: str, values: tuple[str, ...]) -> Iterator[FieldError]:
    if not 1 <= len(values) <= limits.SEGMENTS_MAX:
        yield FieldError(field, f"must be 1 to {limits.SEGMENTS_MAX}, got {len(values)}")
    if len(set(values)) != len(values):
        yield FieldError(field, "must differ")
    if OTHER in values or "" in values:
        yield FieldError(field, "'other' is every other value; '' is none")


def _targeting_errors(conditions: tuple[Condition, ...]) -> Iterator[FieldError]:
    if len(conditions) > limits.CONDITIONS_MAX:
        yield FieldError("targeting", f"at most {limits.CONDITIONS_MAX} conditions, got {len(conditions)}")
    for index, condition in enumerate(conditions):
        field = f"targeting[{index}].values"
        match condition.operator, condition.values:
            case (("in" | "not_in"), values) if not 1 <= len(values) <= limits.CONDITION_VALUES_MAX:
                yield FieldError(field, f"must be 1 to {limits.CONDITION_VALUES_MAX}, got {len(values)}")
            case (("greater" | "less"), values) if [type(value) for value in values] != [float]:
                yield FieldError(field, f"{condition.operator} takes one number")
            case "exists", values if values:
                yield FieldError(field, "exists takes no values")


def _override_errors(definition: Definition) -> Iterator[FieldError]:
    keys = {variant.key for variant in definition.variants}
    if len(definition.overrides) > limits.OVERRIDES_MAX:
        yield FieldError("overrides", f"at most {limits.OVERRIDES_MAX}, got {len(definition.overrides)}")
    for unit, key in definition.overrides.items():
        if key not in keys:
            yield FieldError(f"overrides.{unit}", f"no variant is called {key!r}")


def _storage_errors(definition: Definition) -> Iterator[FieldError]:
    for field in ("description", "policy", "apprentice", "metrics", "plan", "targeting", "overrides"):
        if error := unstorable(msgspec.to_builtins(getattr(definition, field)), field):
            yield error
