"""Decision of a rule about a response: skip it, judge it as flagged, or sample it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from app.experiments.model import Variant
from app.judging.judges.model import JudgeVersion, LocalVersion, RuleVersion
from app.judging.model import Candidate, Flags, RuleSettings, Skip
from app.judging.sampling import Stratum
from app.responses.model import StoredResponse

_FINISHED: Final = frozenset({"stop", "end_turn", "stop_sequence", "tool_calls", "tool_use", "function_call"})
"""Reasons for which a model ends a complete response."""


class RuleScope(msgspec.Struct, frozen=True, kw_only=True):
    """A rule's settings, with the keys of its experiment's variants and the judge's own model.

    `own_model` is None if the judge has no model, or if it is meant to serve an arm too.
    """

    settings: RuleSettings
    variants: Sequence[str]
    own_model: str | None = None


def classified(response: StoredResponse, scope: RuleScope, toxicity: float | None) -> Skip | Stratum:
    """Return why a response is skipped, or its stratum. `toxicity`: None if nothing measured it."""
    settings = scope.settings
    if not _passes(response, scope):
        return Skip.FILTER
    if scope.own_model is not None and response.model == scope.own_model:
        return Skip.OWN_MODEL
    if response.erased or (response.redacted and settings.redacted == "skip"):
        return Skip.REDACTED
    if len(response.response) + len(response.prompt or "") > settings.characters_max:
        return Skip.SIZE
    flagged = is_flagged(response, settings.flags, toxicity)
    return Stratum(response.epoch, response.variant, flagged)


def is_flagged(response: StoredResponse, flags: Flags, toxicity: float | None) -> bool:
    """Return whether a response is always judged."""
    failed = response.error is not None or (response.finish_reason or "stop") not in _FINISHED
    confidence = _number(response.metadata.get("confidence"))
    return (
        (flags.errors and failed)
        or (flags.characters is not None and len(response.response) > flags.characters)
        or (flags.confidence is not None and confidence is not None and confidence < flags.confidence)
        or (flags.toxicity is not None and toxicity is not None and toxicity > flags.toxicity)
    )


def candidate(response: StoredResponse) -> Candidate:
    """Return what sampling keeps of a response."""
    return Candidate(
        response.response_key,
        response.epoch,
        response.variant,
        response.assignment,
        response.unit_hash,
        len(response.response),
        response.at,
    )


def model_of(version: JudgeVersion) -> str | None:
    """Return the model behind an endpoint that a version asks; None without one."""
    if isinstance(version, RuleVersion | LocalVersion):
        return None
    return getattr(version, "model", None)


def arms_served(model: str, variants: Sequence[Variant]) -> list[str]:
    """Return the keys of the variants whose payload names this model, at any depth."""
    return [variant.key for variant in variants if _names_model(variant.payload, model)]


def _passes(response: StoredResponse, scope: RuleScope) -> bool:
    wanted = scope.settings.filter
    if wanted.variants:
        known = response.variant < len(scope.variants)
        if not known or scope.variants[response.variant] not in wanted.variants:
            return False
    if wanted.models and response.model not in wanted.models:
        return False
    return all(_same(response.metadata, name, value) for name, value in wanted.metadata.items())


def _same(metadata: Mapping[str, Any], name: str, value: Any) -> bool:
    stored = metadata.get(name)
    # True is 1 in Python, but not in JSON.
    return isinstance(stored, bool) == isinstance(value, bool) and stored == value


def _names_model(payload: Any, model: str) -> bool:
    match payload:
        case str():
            return payload == model
        case dict():
            return any(_names_model(value, model) for value in payload.values())
        case list() | tuple():
            return any(_names_model(value, model) for value in payload)
        case _:
            return False


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
