"""Checks that the parts of a definition fit together. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from app.core.choices import nearest
from app.core.errors import FieldError, InvalidInput, NotFound
from app.core.limits import SIGNAL_VALUE_MAX, UNIT_LENGTH_MAX, VARIANTS_MAX
from app.core.text import is_key, unstorable
from app.experiments import limits
from app.experiments.metrics import REWARD, Mean, Measure, Metric, QuantileOf, Ratio
from app.experiments.model import Condition, Definition, ResponsePlan, Variant
from app.experiments.plan import AnalysisPlan
from app.experiments.redactors import known_redactors
from app.experiments.reward import Reward, RewardSignal
from app.experiments.segments import value_errors


def possible(key: str) -> str:
    """Return the key, if an experiment could have it. Raises NotFound."""
    if not is_key(key):
        raise unknown(key[:UNIT_LENGTH_MAX])
    return key


def unknown(key: str, field: str | None = None, known: Iterable[str] = ()) -> NotFound:
    """Return the error for a key in `field` that no experiment has, with the nearest of the `known` keys."""
    near = nearest(key, known)
    hint = "" if near is None else f"; did you mean {near!r}?"
    return NotFound(f"no experiment is called {key!r}{hint}", field=field)


def check(definition: Definition) -> Definition:
    """Return the definition, if its parts fit together and can be stored.

    Raises InvalidInput with one error per field that does not, the first `FIELD_ERRORS_MAX` of
    them.
    """
    errors = [
        *_variant_errors(definition.variants),
        *definition.policy.errors("policy", definition.setting),
        *_shadow_policy_errors(definition),
        *_reward_errors(definition.reward),
        *_declared_errors(definition),
        *_metric_errors(definition.metrics),
        *_plan_errors(definition.plan),
        *_targeting_errors(definition.targeting),
        *_override_errors(definition),
        *_redactor_errors(definition.responses),
        *_storage_errors(definition),
    ][: limits.FIELD_ERRORS_MAX]
    if errors:
        detail = "; ".join(f"{error.field}: {error.reason}" for error in errors)
        raise InvalidInput(detail, errors=tuple(errors))
    return definition


def _variant_errors(variants: tuple[Variant, ...]) -> Iterator[FieldError]:
    if not limits.VARIANTS_MIN <= len(variants) <= VARIANTS_MAX:
        bound = f"{limits.VARIANTS_MIN} to {VARIANTS_MAX}"
        yield FieldError("variants", f"must be {bound}, got {len(variants)}")
    if len({variant.key for variant in variants}) != len(variants):
        yield FieldError("variants", "keys must differ")
    controls = sum(variant.control for variant in variants)
    if controls != 1:
        yield FieldError("variants", f"exactly one must be the control, got {controls}")
    for index, variant in enumerate(variants):
        if variant.control and variant.retired:
            reason = f"the control {variant.key!r} cannot be retired: make another variant the control first"
            yield FieldError(f"variants[{index}].retired", reason)
    for index, variant in enumerate(variants):
        field = f"variants[{index}].payload"
        if error := unstorable(variant.payload, field):
            yield error
        elif (size := len(msgspec.json.encode(variant.payload))) > limits.PAYLOAD_BYTES_MAX:
            yield FieldError(field, f"at most {limits.PAYLOAD_BYTES_MAX} bytes of JSON, got {size}")


def _redactor_errors(plan: ResponsePlan) -> Iterator[FieldError]:
    for index, name in enumerate(plan.redact):
        if name not in (known := known_redactors()):
            near = nearest(name, known)
            hint = "" if near is None else f"; did you mean {near!r}?"
            reason = f"must be one of {', '.join(known)}, got {name!r}{hint}"
            yield FieldError(f"responses.redact[{index}]", reason)


def _shadow_policy_errors(definition: Definition) -> Iterator[FieldError]:
    """Yield what does not apply to a policy that reads the totals alone and is never in force."""
    policy = definition.shadow_policy
    if policy is None:
        return
    if not policy.can_be_shadow:
        reason = f"{policy.kind} reads more than the reward totals, and a shadow policy gets nothing else"
        yield FieldError("shadow_policy.kind", reason)
        return
    yield from policy.errors("shadow_policy", definition.setting)
    if policy.step_limit is not None and not policy.decides:
        yield FieldError(
            "shadow_policy.step_max", "does not apply to a shadow policy: its shares are never in force"
        )
    if policy.starts_from is not None:
        yield FieldError(
            "shadow_policy.warm_start", "does not apply to a shadow policy: it gets the same totals"
        )
    if policy.forgets is not None:
        yield FieldError(
            "shadow_policy.forgetting", "does not apply to a shadow policy: it gets the same totals"
        )


def _reward_errors(reward: Reward) -> Iterator[FieldError]:
    yield from _range_errors(reward.range, "reward.range")
    if not 1 <= len(reward.signals) <= limits.REWARD_SIGNALS_MAX:
        bound = f"1 to {limits.REWARD_SIGNALS_MAX}"
        yield FieldError("reward.signals", f"must be {bound}, got {len(reward.signals)}")
    yield from _name_errors(reward)
    low, high = reward.range
    for name, worth in reward.signals.items():
        field = f"reward.signals.{name}"
        if isinstance(worth, RewardSignal):
            if reward.combine == "sum":
                reason = "must be a number if combine is sum; use combine mean for ranges and weights"
                yield FieldError(field, reason)
            else:
                yield from _part_errors(worth, field)
        elif reward.combine != "sum" and not low <= worth <= high:  # a sum may have larger terms
            reason = f"must be within the range [{low:g}, {high:g}], got {worth:g}"
            yield FieldError(field, reason)


def _name_errors(reward: Reward) -> Iterator[FieldError]:
    """Yield errors of the names in `order` and `required`."""
    for field in ("order", "required"):
        names: tuple[str, ...] = getattr(reward, field)
        for name in names:
            if name not in reward.signals:
                near = nearest(name, reward.signals)
                hint = "" if near is None else f"; did you mean {near!r}?"
                yield FieldError(f"reward.{field}", f"{name!r} is not in reward.signals{hint}")
        if len(set(names)) != len(names):
            yield FieldError(f"reward.{field}", "names must differ")
    if reward.order and reward.combine != "first":
        yield FieldError("reward.order", f"belongs to combine first; combine is {reward.combine}")
    elif reward.order and (missing := [name for name in reward.signals if name not in reward.order]):
        yield FieldError("reward.order", f"must list every signal; add {', '.join(map(repr, missing))}")


def _part_errors(part: RewardSignal, field: str) -> Iterator[FieldError]:
    """Yield what does not fit together in one signal of a composite reward."""
    if abs(part.weight) < limits.REWARD_WEIGHT_MIN:
        bounds = f"{limits.REWARD_WEIGHT_MIN:g} to {limits.REWARD_WEIGHT_MAX:g}"
        yield FieldError(f"{field}.weight", f"must be {bounds} in size, got {part.weight:g}")
    if part.reference is not None and (part.range is not None or part.calibration):
        other = "range" if part.range is not None else "calibration"
        yield FieldError(f"{field}.reference", f"takes the place of {other}; give one of them")
    if part.range is not None:
        yield from _range_errors(part.range, f"{field}.range")
        low, high = part.range
        if part.value is not None and not low <= part.value <= high:
            yield FieldError(f"{field}.value", f"must be within [{low:g}, {high:g}], got {part.value:g}")
    elif part.reference is None and not part.calibration:
        yield FieldError(field, "has no scale in the catalogue; give it a reference, range or calibration")
    if part.calibration:
        yield from _calibration_errors(part.calibration, f"{field}.calibration")


def _calibration_errors(points: Sequence[tuple[float, float]], field: str) -> Iterator[FieldError]:
    if not 2 <= len(points) <= limits.CALIBRATION_POINTS_MAX:
        yield FieldError(field, f"must have 2 to {limits.CALIBRATION_POINTS_MAX} points, got {len(points)}")
    steps = [(right[0] - left[0], right[1] - left[1]) for left, right in pairwise(points)]
    if any(value <= 0 for value, _ in steps):
        yield FieldError(field, "the values of its points must increase from each point to the next")
    if any(score > 0 for _, score in steps) and any(score < 0 for _, score in steps):
        yield FieldError(field, "must be monotone: its scores must all rise or all fall with the value")


def _range_errors(scale: tuple[float, float], field: str) -> Iterator[FieldError]:
    low, high = scale
    if not low < high:
        yield FieldError(field, f"must be [low, high] with low < high, got [{low:g}, {high:g}]")


def _declared_errors(definition: Definition) -> Iterator[FieldError]:
    if len(definition.signals) > limits.SIGNALS_DECLARED_MAX:
        yield FieldError("signals", f"at most {limits.SIGNALS_DECLARED_MAX}, got {len(definition.signals)}")
    for name, kind in definition.signals.items():
        if kind.replaces == name:
            yield FieldError(f"signals.{name}.replaces", "a signal does not replace itself")


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
        yield from value_errors("plan.segments.values", plan.segments.values)


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
    for field in (
        "description",
        "policy",
        "shadow_policy",
        "metrics",
        "plan",
        "targeting",
        "overrides",
        "signals",
    ):
        if error := unstorable(msgspec.to_builtins(getattr(definition, field)), field):
            yield error
