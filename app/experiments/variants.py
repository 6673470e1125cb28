"""How the variants of an experiment may change while it runs. Pure.

Assignment ids and totals name a variant by its position. Positions, keys and payloads therefore
stay: a changed prompt is another variant.
"""

from collections.abc import Iterator

from app.core.errors import Conflict, FieldError
from app.experiments.model import Definition, Experiment


def check_change(experiment: Experiment, after: Definition) -> None:
    """Refuse variants that would give stored assignments another meaning, or disturb a rollout.

    Variants may be added at the end, retired and taken back, and another one may become the
    control. Raises Conflict naming each field.
    """
    errors = (*_position_errors(experiment.definition, after), *_held_errors(experiment, after))
    if errors:
        raise Conflict("; ".join(f"{error.field}: {error.reason}" for error in errors), errors=errors)


def _position_errors(before: Definition, after: Definition) -> Iterator[FieldError]:
    if len(after.variants) < len(before.variants):
        missing = ", ".join(variant.key for variant in before.variants[len(after.variants) :])
        yield FieldError("variants", f'must name every variant; missing {missing}: to end one, set "retired"')
    for index, (old, new) in enumerate(zip(before.variants, after.variants, strict=False)):
        if old.key != new.key:
            reason = f"must stay {old.key!r}, got {new.key!r}: add new variants at the end"
            yield FieldError(f"variants[{index}].key", reason)
        elif old.payload != new.payload or repr(old.payload) != repr(new.payload):
            reason = f"cannot change once {old.key!r} was served: add a new variant at the end"
            yield FieldError(f"variants[{index}].payload", reason)


def _held_errors(experiment: Experiment, after: Definition) -> Iterator[FieldError]:
    """Yield why shares that a rollout holds stand in the way.

    A completed rollout holds 1 for its canaries, one that was rolled back 0. Anything between is
    still in motion.
    """
    before, held = experiment.definition, experiment.held
    if before.variants == after.variants or not held:
        return
    promoted = sum(share for key, share in held.items() if key != before.control_key)
    if 0 < promoted < 1 - 1e-9 or held.get(before.control_key):
        reason = "cannot change while a rollout is in motion: complete it or roll it back first"
        yield FieldError("variants", reason)
        return
    if after.control_key != before.control_key:
        return
    for index, variant in enumerate(after.variants):
        if variant.retired and held.get(variant.key):
            reason = f"a completed rollout serves {variant.key!r} to everyone: it cannot be retired"
            yield FieldError(f"variants[{index}].retired", reason)
