"""Types of judging: rules, judgements, and why a response has no score. Pure."""

import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from app.core.text import Key
from app.feedback.model import RESERVED_PREFIX
from app.judging import limits
from app.judging.breaker import Breaker
from app.judging.budget import Budget
from app.judging.judges.model import JudgeVersion, VersionHash
from app.judging.trust import Trust

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1)]
Characters = Annotated[int, msgspec.Meta(ge=0, le=limits.CHARACTERS_MAX)]
Text = Annotated[str, msgspec.Meta(max_length=limits.FILTER_TEXT_LENGTH_MAX)]
Texts = Annotated[tuple[Text, ...], msgspec.Meta(max_length=limits.FILTER_VALUES_MAX)]
Priority = Annotated[int, msgspec.Meta(ge=0, le=limits.PRIORITY_MAX)]
WindowSeconds = Annotated[float, msgspec.Meta(gt=0, le=limits.WINDOW_S_MAX)]
ReservoirSize = Annotated[int, msgspec.Meta(ge=1, le=limits.RESERVOIR_MAX * 10)]


class State(StrEnum):
    """State of a judgement."""

    WANTED = "wanted"  # waits for its judge, or is being judged -> judged | unscored
    JUDGED = "judged"  # has a score
    UNSCORED = "unscored"  # has a reason instead of a score


class Skip(StrEnum):
    """Reason for which a response is not judged."""

    FILTER = "filter"  # the filter of the rule leaves it out
    SIZE = "size"  # it has more characters than the rule admits
    REDACTED = "redacted"  # parts of it were redacted, and the rule leaves such responses out
    OWN_MODEL = "own_model"  # the judge's own model wrote it
    KNOWN = "known"  # another rule lets the same version judge it
    RATE = "rate"  # the sample left it out
    BUDGET = "budget"  # the budget lowered the rate, and the sample left it out


class Loss(StrEnum):
    """Reason to give up a judgement without an answer of its judge."""

    BREAKER = "breaker"  # the breaker of the version stayed open too long
    BUDGET = "budget"  # the budget of each day was used up for too long
    BACKLOG = "backlog"  # it waited too long for a worker
    TEXT_GONE = "text_gone"  # the response is no longer stored
    RULE_DELETED = "rule_deleted"  # its rule was deleted before


class ResponseFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Responses that a rule reads; empty: all. Each condition must hold.

    `variants` and `models` name those to read. `metadata` gives required values of its fields.
    """

    variants: Annotated[tuple[Key, ...], msgspec.Meta(max_length=limits.FILTER_VALUES_MAX)] = ()
    models: Texts = ()
    metadata: Annotated[
        dict[Text, Text | float | bool], msgspec.Meta(max_length=limits.FILTER_VALUES_MAX)
    ] = msgspec.field(default_factory=dict)


class Flags(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Responses that are always judged; null or false switches a flag off.

    `errors`: its `error` is set, or it ended for another reason than `stop`. `characters`: it is
    longer. `confidence`: the field `confidence` of its metadata is lower. `toxicity`: the local
    profanity model gives it a higher probability (needs the extra `judges-local`).
    """

    errors: bool = True
    characters: Characters | None = limits.LONG_CHARACTERS
    confidence: Share | None = limits.CONFIDENCE_MIN
    toxicity: Share | None = limits.TOXICITY_MAX


class RuleRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A judging rule: which responses of an experiment a judge version scores, and at what cost.

    `judge` names the judge and `version` its version; null: the newest. `rate` is the share of the
    responses that are not flagged; null: 1 for judges that run in this process, else 0.1. Wanted
    judgements of a greater `priority` are made first. Responses are sampled in windows of
    `window_s` seconds, at most `reservoir_max` of each variant. Longer responses than
    `characters_max` are left out, as are redacted ones unless `redacted` is `judge`. `since` makes
    a retrospective rule: it reads the stored responses received from then on until now, and its
    scores feed no signal.
    """

    judge: Key
    version: str | None = None
    filter: ResponseFilter = msgspec.field(default_factory=ResponseFilter)
    flags: Flags = Flags()
    rate: Rate | None = None
    budget: Budget = Budget()
    priority: Priority = 5
    window_s: WindowSeconds = limits.WINDOW_S
    reservoir_max: ReservoirSize = limits.RESERVOIR_MAX
    characters_max: Characters = limits.CHARACTERS_MAX
    redacted: Literal["skip", "judge"] = "skip"
    since: datetime | None = None


class RuleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a rule that may be edited."""

    filter: ResponseFilter
    flags: Flags
    rate: float
    budget: Budget
    priority: int
    window_s: float
    reservoir_max: int
    characters_max: int
    redacted: Literal["skip", "judge"]


class JudgingRule(msgspec.Struct, frozen=True, kw_only=True):
    """A stored rule. A retrospective one has `until` and ends there.

    `eligible` responses passed the filter; `mass` is the sum of their inclusion probabilities and
    `selected` how many were selected. Both agree up to rounding at random.
    """

    id: int
    experiment_id: int
    version_hash: VersionHash
    settings: RuleSettings
    paused: bool
    cursor: int
    since: datetime | None
    until: datetime | None
    finished_at: datetime | None
    eligible: int
    mass: float
    selected: int
    created_at: datetime

    @property
    def live(self) -> bool:
        """Whether it reads new responses, so that its scores may become signals."""
        return self.until is None


class StoredVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A registered judge version, its trust and its breaker."""

    hash: VersionHash
    name: str
    version: JudgeVersion
    serves_arm: Literal["refused", "intended"]
    trust: Trust
    trust_since: datetime
    trust_reason: str
    breaker: Breaker
    learned: dict[str, Any]
    created_at: datetime


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of one response by one judge version.

    `score` is in [0, 1]; None unless `state` is judged, `reason` then says why. Estimates weight it
    by 1 / `inclusion_probability`. Repetitions after 0 measure how often the verdict flips and are
    in no estimate. `characters` is the length of the response.
    """

    id: UUID
    version_hash: VersionHash
    response_key: UUID
    experiment_id: int
    epoch: int
    variant: int
    assignment: UUID
    unit_hash: int
    stratum: str
    inclusion_probability: float
    repetition: int
    state: State
    score: float | None
    label: int | None
    probability: float | None
    reason: str | None
    cost_usd: float | None
    characters: int
    responded_at: datetime
    at: datetime | None


class Candidate(msgspec.Struct, frozen=True):
    """Part of a response that sampling keeps."""

    response_key: UUID
    epoch: int
    variant: int
    assignment: UUID
    unit_hash: int
    characters: int
    responded_at: datetime


def judgement_id(version: VersionHash, response_key: UUID, repetition: int) -> UUID:
    """Return the id of a measurement. The same measurement has the same id in every attempt."""
    content = f"{version}/{response_key}/{repetition}".encode()
    return UUID(bytes=hashlib.blake2b(content, digest_size=16, person=b"wald-judgement").digest())


def signal_of(judge: str) -> str:
    """Return the signal that the promoted version of a judge gives."""
    return f"{RESERVED_PREFIX}{judge}"
