"""A small typed client of the HTTP API. It repeats requests that are safe to repeat.

ClientError
├── Unreachable  no answer, or only 503, until the patience ran out
└── Refused      any other error answer; carries its status and problem
"""

import asyncio
from collections.abc import Collection, Sequence
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, Self, TypeVar
from urllib.parse import quote

import httpx2
import msgspec
import rich_click as click

from app.core.errors import FieldError, Problem

if TYPE_CHECKING:  # these load numerical libraries, which most commands do without
    from app.experiments.model import Definition
    from app.feedback.model import Receipt

RETRY_PAUSE_S: Final = 0.1
RETRY_PAUSE_S_MAX: Final = 2.0
STATUS_POLL_S: Final = 0.2
POLICY_QUIET_S: Final = 1.0
PATIENCE_S: Final = 30.0
FIRST_PATIENCE_S: Final = 2.0
"""Patience before the first answer. A server that has never answered rarely starts to."""
REQUEST_TIMEOUT_S: Final = 10.0
COMPUTATION_TIMEOUT_S: Final = 120.0
DOWNLOAD_SILENCE_S: Final = 60.0

INPUT_AT_FAULT: Final = frozenset({400, 413})
"""Statuses of a request that is wrong, whatever the state of the server."""
NO_SERVER: Final = "; is the server running? Start one with `wald up`, or set WALD_URL"

T = TypeVar("T")
Source = Literal["implicit", "explicit", "automated", "human"]


class Assignment(msgspec.Struct, frozen=True):
    """An answer of `/assign`."""

    experiment: str
    variant: str
    assignment_id: str
    propensity: float
    policy_version: int
    reason: str
    payload: Any = None


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One signal for `/feedback`. An `id` that is sent twice counts once."""

    assignment_id: str
    signal: str
    value: float | None = None
    source: Source = "explicit"
    id: str | None = None


class VariantStatus(msgspec.Struct, frozen=True):
    """The present state of one variant. None means not known yet."""

    key: str
    control: bool
    assignments: int
    rewards: int
    pending: int
    mean: float | None = None
    interval: tuple[float, float] | None = None
    probability_best: float | None = None
    allocation: float | None = None
    retired: bool = False


class Status(msgspec.Struct, frozen=True):
    """The present state of an experiment."""

    key: str
    state: str
    policy_version: int | None
    lag_events: int | None
    variants: tuple[VariantStatus, ...]
    conclusion: str = ""


class ClientError(click.ClickException):
    """The server did not do what was asked. The message says what was asked, and why it failed."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class Unreachable(ClientError):
    """No answer, or only 503, until the patience ran out."""


class Refused(ClientError):
    """The server answered with an error that a repeated request would meet again."""

    def __init__(self, request: str, status: int, problem: Problem) -> None:
        reason = _reason(problem)
        unknown_name = status == httpx2.codes.NOT_FOUND and reason.startswith("no ")  # says what is missing
        super().__init__(reason if unknown_name else f"{request} answered {status}: {reason}")
        self.request = request
        self.status = status
        self.problem = problem


class WaldClient:
    """A pool of connections to one server. Use it as an asynchronous context manager.

    After a connection error or a 503 it repeats the request, with a growing pause, for `patience_s`; before
    the first answer, for at most `FIRST_PATIENCE_S`. Repeating is harmless: the server drops a repeated
    feedback event, an assignment whose answer was lost gets no feedback, and a life cycle call names the
    state to reach. `retries` counts the repetitions. Raises ClientError for a malformed URL or key.
    """

    def __init__(self, url: str, key: str, *, connections: int = 16, patience_s: float = PATIENCE_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"the URL must begin with http:// or https://; got {url!r}")
        if not (key.isascii() and key.isprintable()):
            raise ClientError("the API key must be printable ASCII")
        self.url = url.rstrip("/")
        self.retries = 0
        self._patience_s = patience_s
        self._answered = False
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

    async def define(self, definition: "Definition") -> None:
        """Create a draft experiment. Refused with status 409 when its key is taken."""
        await self._call("POST", "/experiments", definition)

    async def start(self, experiment: str) -> None:
        """Start a draft, or refuse with status 409."""
        await self._call("POST", path_of("experiments", experiment, "start"))

    async def assign(self, experiment: str, unit: str) -> Assignment:
        """Ask which variant serves `unit`."""
        body = await self._call("GET", "/assign", params={"experiment": experiment, "unit": unit})
        return read(body, Assignment)

    async def feedback(self, events: Sequence[Event]) -> "Receipt":
        """Send events. The events that the receipt calls accepted are durable; it may accept none."""
        from app.feedback.model import Receipt

        none_accepted = httpx2.codes.UNPROCESSABLE_CONTENT
        body = await self._call("POST", "/feedback", events, answers=(none_accepted,))
        return read(body, Receipt)

    async def status(self, experiment: str) -> Status:
        """Return the present state of an experiment. Raises Refused with status 404 if it does not exist."""
        return read(await self._call("GET", path_of("experiments", experiment, "status")), Status)

    async def call(
        self,
        method: str,
        path: str,
        answer: type[T],
        body: Any = None,
        params: dict[str, str] | None = None,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> T:
        """Return the decoded answer of any other call. Raises Refused and Unreachable."""
        return read(await self.raw(method, path, body, params, timeout_s=timeout_s), answer)

    async def raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: dict[str, str] | None = None,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> bytes:
        """Return the JSON answer of any call, as it was sent. Raises Refused and Unreachable.

        `body` is a value to encode, or bytes of JSON.
        """
        answer = await self._call(method, path, body, params=params, timeout_s=timeout_s)
        read(answer, msgspec.Raw)
        return answer

    async def post(self, path: str, body: Any) -> bytes:
        """Return the answer of a POST request, which may be empty. Raises like `raw`."""
        return await self._call("POST", path, body)

    async def upload(self, path: str, body: bytes, media_type: str, *, timeout_s: float) -> bytes:
        """Return the answer to the bytes of a file. Raises like `raw`."""
        return await self._call("POST", path, body, timeout_s=timeout_s, media_type=media_type)

    async def download(self, path: str, params: dict[str, str], file: BinaryIO) -> None:
        """Write the answer of a GET request to `file`, piece by piece. Raises Refused and Unreachable."""
        silence_s = DOWNLOAD_SILENCE_S
        try:
            async with self._http.stream("GET", path, params=params, timeout=silence_s) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise Refused(f"GET {path}", answer.status_code, _problem(answer))
                async for piece in answer.aiter_bytes():
                    file.write(piece)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            hint = NO_SERVER if isinstance(error, httpx2.ConnectError) else ""
            raise Unreachable(f"the download failed: {self.url}: {error}{hint}") from error

    async def settled(self, experiment: str, *, rewards: int, within_s: float) -> Status:
        """Return the status once the totals hold `rewards` rewards and the policy has learned from them.

        Fewer rewards are enough if no event waits to be applied. The policy has learned from them once its
        version has not changed for a second. Raises ClientError if that takes longer than `within_s`.
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
        media_type: str = "application/json",
    ) -> bytes:
        """Send one request, repeat it while the server is away, and return the body of the answer.

        The statuses in `answers` count as success. Raises Refused and Unreachable.
        """
        content = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        headers = {"Content-Type": media_type} if content is not None else None
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), RETRY_PAUSE_S
        while True:
            try:
                answer = await self._http.request(
                    method, path, content=content, headers=headers, params=params, timeout=timeout_s
                )
            except httpx2.TransportError as error:
                reason, hint = str(error) or type(error).__name__, NO_SERVER
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise ClientError(f"{method} {self.url}{path}: {error}") from error
            else:
                self._answered = True
                if answer.is_success or answer.status_code in answers:
                    return answer.content
                if answer.status_code != httpx2.codes.SERVICE_UNAVAILABLE:
                    raise Refused(f"{method} {path}", answer.status_code, _problem(answer))
                reason, hint = _problem(answer).detail, ""
            patience_s = self._patience_s if self._answered else min(self._patience_s, FIRST_PATIENCE_S)
            if loop.time() + pause > began + patience_s:
                raise Unreachable(f"{self.url} is away: {reason}{hint}")
            self.retries += 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_PAUSE_S_MAX)


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def read(body: bytes, kind: type[T]) -> T:
    """Decode an answer. Raises ClientError if no Wald server can have sent it."""
    try:
        answer: T = _decoder(kind).decode(body)  # type: ignore[arg-type]  # a type is hashable
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ClientError(f"this is not the answer of a Wald server: {error}") from error
    return answer


def path_of(*parts: str) -> str:
    """Return the path with these parts, escaped where necessary."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _problem(answer: httpx2.Response) -> Problem:
    """Return the problem of an error answer, also if a proxy or another server wrote it."""
    try:
        return msgspec.json.decode(answer.content, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        kind = answer.headers.get("content-type", "").partition(";")[0]
        words = " ".join(answer.text.split())[:200] if kind in {"", "text/plain"} else ""
        excerpt = f": {words}" if words else ""
        return Problem(
            type="about:blank",
            title=answer.reason_phrase,
            status=answer.status_code,
            detail=f"{answer.reason_phrase}; not the answer of a Wald server, is the URL right?{excerpt}",
        )


def _reason(problem: Problem) -> str:
    """Return a line for each wrong field, or else the detail of the problem."""
    lines = [_line(error) for error in problem.errors]
    if not lines or (len(lines) == 1 and problem.status not in INPUT_AT_FAULT):
        return problem.detail or problem.title
    return lines[0] if len(lines) == 1 else "\n".join(["", *(f"  {line}" for line in lines)])


def _line(error: FieldError) -> str:
    return error.reason if error.reason.startswith(error.field) else f"{error.field}: {error.reason}"
