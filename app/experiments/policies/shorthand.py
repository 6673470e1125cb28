"""A policy as a question gives it: by its name, or as in a definition. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from app.core.choices import explained
from app.core.errors import FieldError, InvalidInput
from app.experiments.policies import Policy


def policy_of(given: str | Mapping[str, Any], variants: Sequence[str], *, field: str = "policy") -> Policy:
    """Return the policy that `given` names or spells out.

    A name is short for `{"kind": name}`. `fixed` without weights is an even split, and variants
    that its weights leave out get nothing.

    Raises InvalidInput naming the field.
    """
    spelled: dict[str, Any] = {"kind": given} if isinstance(given, str) else dict(given)
    if spelled.get("kind") == "fixed":
        weights = spelled.get("weights", dict.fromkeys(variants, 1 / len(variants)))
        if isinstance(weights, dict):
            spelled["weights"] = dict.fromkeys(variants, 0.0) | weights
    try:
        policy: Policy = msgspec.convert(spelled, Policy)
    except msgspec.ValidationError as error:
        reason, at, path = str(error).partition(" - at `$.")
        message = explained(reason, Policy, path.rstrip("`"))
        message += "" if message != reason else at + path
        raise InvalidInput(message, errors=(FieldError(field, message),)) from error
    return policy
