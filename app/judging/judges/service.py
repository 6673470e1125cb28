"""Opening of judges by their kind, and a first call to try one."""

import importlib.util
from collections.abc import Callable
from random import Random
from typing import Final, assert_never
from uuid import UUID

import msgspec

from app.core.clock import Clock, SystemClock
from app.core.errors import InvalidInput
from app.judging.judges.decision_judge import DecisionJudge
from app.judging.judges.endpoint_client import EndpointClient
from app.judging.judges.judge import ComparingJudge, Judge
from app.judging.judges.ladder import Adaptation
from app.judging.judges.llm_judge import LlmJudge
from app.judging.judges.local_judge import LocalJudge, pinned
from app.judging.judges.model import (
    DecisionVersion,
    Judged,
    JudgedText,
    Judgement,
    JudgeVersion,
    LlmVersion,
    LocalVersion,
    Operation,
    PluginVersion,
    Preference,
    RuleVersion,
    Unscored,
    VersionHash,
    cost_usd,
    version_hash,
)
from app.judging.judges.plugin_judge import EndpointJudge, FunctionJudge, installed_function
from app.judging.judges.retry_client import WAITS, RetryingClient, Waits
from app.judging.judges.rule_judge import RuleJudge

Credentials = Callable[[str], str | None]
"""Returns the secret of a name; None if there is none."""

SAMPLE: Final = JudgedText(
    response_key=UUID(int=0),
    prompt="What is the capital of France?",
    response="The capital of France is Paris.",
)
"""A response for a first call."""


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one measurement that tries a version; `cost_usd` is None if it is unknown.

    `mode` is the mode of structured output that worked, `refused` the parameters that the endpoint
    refused, both for the kind `llm` alone.
    """

    version_hash: VersionHash
    judgement: Judgement
    cost_usd: float | None
    seconds: float
    mode: str | None = None
    refused: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the judge gave a score."""
        return isinstance(self.judgement, Judged)


def usable(version: JudgeVersion) -> JudgeVersion:
    """Return the version as it can be stored: a local model names its installed release.

    Raises InvalidInput if an extra or a plugin is not installed.
    """
    match version:
        case LocalVersion():
            return pinned(version)
        case LlmVersion() if importlib.util.find_spec("openai") is None:
            raise InvalidInput(
                "judges of the kind llm need the extra: install wald[judges-llm]", field="kind"
            )
        case PluginVersion(function=str(function)):
            installed_function(function)
            return version
        case _:
            return version


def open_judge(
    version: JudgeVersion,
    credentials: Credentials,
    http: EndpointClient,
    *,
    adaptation: Adaptation | None = None,
    clock: Clock | None = None,
    random: Random | None = None,
    waits: Waits = WAITS,
) -> Judge:
    """Return a judge of this version, which the caller closes.

    `adaptation` is what an earlier judge of the kind `llm` learned of its endpoint.

    Raises InvalidInput if an extra, a plugin or the credential is missing.
    """

    def calls(operation: Operation) -> RetryingClient:
        chance = random or Random()  # noqa: S311 - it only spreads retries over time
        return RetryingClient(
            http,
            operation,
            clock=clock or SystemClock(),
            random=chance,
            secret=_secret(operation, credentials),
            waits=waits,
        )

    match version:
        case RuleVersion():
            return RuleJudge(version)
        case LocalVersion():
            return LocalJudge(version)
        case LlmVersion(operation=operation):
            return LlmJudge(version, calls(operation), adaptation=adaptation)
        case DecisionVersion(operation=operation):
            return DecisionJudge(version, calls(operation))
        case PluginVersion(function=str(function)):
            return FunctionJudge(version, installed_function(function))
        case PluginVersion(operation=operation):
            return EndpointJudge(version, calls(operation))
        case _:
            assert_never(version)


async def preflight(judge: Judge, item: JudgedText = SAMPLE) -> Preflight:
    """Score one response and return what a person wants to know before a judge gets to work."""
    judgement = await judge.score(item)
    learned = judge.adaptation if isinstance(judge, LlmJudge) and isinstance(judgement, Judged) else None
    return Preflight(
        version_hash=version_hash(judge.version),
        judgement=judgement,
        cost_usd=cost_usd(judgement.attempts),
        seconds=sum(attempt.seconds for attempt in judgement.attempts),
        mode=None if learned is None else learned.mode,
        refused=() if learned is None else learned.refused,
    )


async def compare(judge: Judge, a: JudgedText, b: JudgedText) -> Preference | Unscored:
    """Compare two responses to one prompt, blind and in both orders; a conflict is a tie.

    Raises InvalidInput if judges of this kind cannot compare.
    """
    if not isinstance(judge, LlmJudge | DecisionJudge):
        raise InvalidInput("only judges of the kinds llm and decision compare two responses", field="kind")
    comparing: ComparingJudge = judge
    return await comparing.compare(a, b)


def _secret(operation: Operation, credentials: Credentials) -> str | None:
    if operation.credential is None:
        return None
    secret = credentials(operation.credential)
    if secret is None:
        raise InvalidInput(
            f"no credential is called {operation.credential}: set this variable of the worker",
            field="operation.credential",
        )
    return secret
