"""A small typed client of the HTTP API, which repeats what is safe to repeat.

ClientError
├── Unreachable  no answer, or only 503, until the patience ran out
└── Refused      any other error answer; carries its status and problem
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import httpx2
import msgspec

from app.analysis.aa import Aa, AaQuestion
from app.analysis.series import Series
from app.core.errors import Problem
from app.evaluation.model import Evaluation
from app.experiments.model import Definition
from app.feedback.model import Receipt

RETRY_PAUSE_S: Final = 0.1
RETRY_PAUSE_S_MAX: Final = 2.0
STATUS_POLL_S: Final = 0.2
POLICY_QUIET_S: Final = 1.0
PATIENCE_S: Final = 30.0
REQUEST_TIMEOUT_S: Final = 10.0
COMPUTATION_TIMEOUT_S: Final = 120.0

T = TypeVar("T")
Source = Literal["implicit", "explicit", "automated", "human"]


class Assignment(msgspec.Struct, frozen=True):
    """What `/assign` answered."""

    experiment: str
    variant: str
    assignment_id: str
    propensity: float
    policy_version: int
    reason: str
    payload: Any = None


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One signal for `/feedback`. The same `id` sent twice counts once."""

    assignment_id: str
    signal: str
    value: float | None = None
    source: Source = "explicit"
    id: str | None = None


class VariantStatus(msgspec.Struct, frozen=True):
    """One variant now. What is not known yet is None."""

    key: str
    control: bool
    assignments: int
    rewards: int
    pending: int
    mean: float | None = None
    interval: tuple[float, float] | None = None
    probability_best: float | None = None
    allocation: float | None = None


class Status(msgspec.Struct, frozen=True):
    """An experiment now."""

    key: str
    state: str
    policy_version: int | None
    lag_events: int | None
    variants: tuple[VariantStatus, ...]


class ClientError(Exception):
    """The server did not do what was asked. The message says what and why."""


class Unreachable(ClientError):
    """No answer, or only 503, until the patience ran out."""


class Refused(ClientError):
    """The server answered with an error that repeating would not cure."""

    def __init__(self, request: str, status: int, problem: Problem) -> None:
        fields = "".join(f"\n  {error.field}: {error.reason}" for error in problem.errors)
        super().__init__(f"{request} answered {status}: {problem.detail or problem.title}{fields}")
        self.status = status
        self.problem = problem


class WaldClient:
    """A pool of connections to one server. Use it as an asynchronous context manager.

    Connection errors and 503 are repeated with a growing pause for `patience_s`. That is harmless: a
    repeated feedback event is dropped by its id or natural key, a repeated assignment whose first answer
    was lost stays without feedback, and life cycle calls are absolute. `retries` counts the repetitions.
    Raises ClientError for a URL or key that no server can have.
    """

    def __init__(self, url: str, key: str, *, connections: int = 16, patience_s: float = PATIENCE_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"the URL must begin with http:// or https://, got {url!r}")
        if not (key.isascii() and key.isprintable()):
            raise ClientError("the API key must be printable ASCII")
        self.url = url.rstrip("/")
        self.retries = 0
        self._patience_s = patience_s
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            timeout=REQUEST_TIMEOUT_S,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def define(self, definition: Definition) -> None:
        """Create a draft experiment. Refused with status 409 when its key is taken."""
        await self._call("POST", "/experiments", definition)

    async def start(self, experiment: str) -> None:
        """Start a draft, or refuse with status 409."""
        await self._call("POST", f"/experiments/{experiment}/start")

    async def assign(self, experiment: str, unit: str) -> Assignment:
        """Ask which variant serves `unit`."""
        body = await self._call("GET", "/assign", params={"experiment": experiment, "unit": unit})
        return _read(_ASSIGNMENT, body)

    async def feedback(self, events: Sequence[Event]) -> Receipt:
        """Send events; when this returns, the accepted ones are durable, be they all or none."""
        none_accepted = httpx2.codes.UNPROCESSABLE_CONTENT
        return _read(_RECEIPT, await self._call("POST", "/feedback", events, answers=(none_accepted,)))

    async def status(self, experiment: str) -> Status:
        """The experiment now. Refused with status 404 when there is none."""
        return _read(_STATUS, await self._call("GET", f"/experiments/{experiment}/status"))

    async def evaluate(self, experiment: str, request: Mapping[str, Any]) -> Evaluation:
        """What a policy would have earned. Refused with status 422 when the log cannot say."""
        path = f"/experiments/{experiment}/evaluate"
        return _read(_EVALUATION, await self._call("POST", path, request, timeout_s=COMPUTATION_TIMEOUT_S))

    async def aa(self, experiment: str, question: AaQuestion) -> Aa:
        """What the plan decides where nothing differs. Refused with status 422 while there are few units."""
        path = f"/experiments/{experiment}/aa"
        return _read(_AA, await self._call("POST", path, question, timeout_s=COMPUTATION_TIMEOUT_S))

    async def series(self, experiment: str, params: dict[str, str]) -> Series:
        """A metric over time. Refused with status 422 where none is kept."""
        return _read(_SERIES, await self._call("GET", f"/experiments/{experiment}/series", params=params))

    async def call(
        self,
        method: str,
        path: str,
        answer: type[T],
        body: Any = None,
        params: dict[str, str] | None = None,
    ) -> T:
        """Any other call, and its answer. Raises Refused and Unreachable."""
        return _read(msgspec.json.Decoder(answer), await self._call(method, path, body, params=params))

    async def settled(self, experiment: str, *, rewards: int, within_s: float) -> Status:
        """The status once `rewards` of them are in the totals and the policy has seen them.

        Less than that is enough when nothing is left to apply. The policy has seen them when its version
        has not moved for a second. Raises ClientError when all that takes longer than `within_s`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        quiet_since, version, applied = loop.time(), None, False
        while (now := loop.time()) < deadline:
            status = await self.status(experiment)
            n_rewards = sum(variant.rewards for variant in status.variants)
            applied = applied or n_rewards >= rewards or status.lag_events == 0
            if not applied or status.policy_version != version:
                quiet_since, version = now, status.policy_version
            elif now - quiet_since >= POLICY_QUIET_S:
                return status
            await asyncio.sleep(STATUS_POLL_S)
        raise ClientError(f"{experiment}: the totals did not settle within {within_s:g} s")

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: dict[str, str] | None = None,
        answers: Collection[int] = (),
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> bytes:
        """One request, repeated while the server is away. Raises Refused and Unreachable.

        `answers` are statuses that are answers to it as well as those of success.
        """
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"} if content is not None else None
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._patience_s, RETRY_PAUSE_S
        while True:
            try:
                answer = await self._http.request(
                    method, path, content=content, headers=headers, params=params, timeout=timeout_s
                )
            except httpx2.TransportError as error:
                reason = str(error) or type(error).__name__
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise ClientError(f"{method} {self.url}{path}: {error}") from error
            else:
                if answer.is_success or answer.status_code in answers:
                    return answer.content
                if answer.status_code != httpx2.codes.SERVICE_UNAVAILABLE:
                    raise Refused(f"{method} {path}", answer.status_code, _problem(answer))
                reason = _problem(answer).detail
            if loop.time() + pause > deadline:
                raise Unreachable(f"{self.url} is away: {reason}")
            self.retries += 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_PAUSE_S_MAX)


_ASSIGNMENT: Final = msgspec.json.Decoder(Assignment)
_RECEIPT: Final = msgspec.json.Decoder(Receipt)
_STATUS: Final = msgspec.json.Decoder(Status)
_EVALUATION: Final = msgspec.json.Decoder(Evaluation)
_AA: Final = msgspec.json.Decoder(Aa)
_SERIES: Final = msgspec.json.Decoder(Series)


def _read(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ClientError(f"this is not the answer of a Wald server: {error}") from error


def _problem(answer: httpx2.Response) -> Problem:
    """The problem of an error answer, also when something else than a Wald server wrote it."""
    try:
        return msgspec.json.decode(answer.content, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Problem(
            type="about:blank",
            title=answer.reason_phrase,
            status=answer.status_code,
            detail=answer.text[:200] or answer.reason_phrase,
        )
