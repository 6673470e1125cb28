"""Judges of the kind `llm`: a chat model behind an OpenAI-compatible API."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2
import msgspec

from app.core.errors import InvalidInput
from app.judging.judges import limits
from app.judging.judges.endpoint_client import ClientTransport, NoAnswer
from app.judging.judges.failures import Failure, failure, refused_parameter, too_long
from app.judging.judges.ladder import Adaptation, Mode, names_of_mode, parameters, request_body
from app.judging.judges.model import (
    Attempt,
    Judged,
    JudgedText,
    Judgement,
    LlmVersion,
    Preference,
    Reason,
    Unscored,
)
from app.judging.judges.pairs import PREFERENCES, Preferred, preference
from app.judging.judges.prompts import (
    FIRST,
    SECOND,
    TIE,
    message,
    missing,
    needed_texts,
    offered,
    pair_message,
)
from app.judging.judges.retry_client import Again, Called, RetryingClient, Usage, not_answered
from app.judging.judges.verdicts import Verdict, completion, verdict

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Write = Callable[[str, Mode], str]
"""Writes the message of a call, given the random mark and the mode."""

# Statuses by which servers refuse what they do not support.
_REFUSALS = {400, 404, 405, 415, 422, 501}
# Failures that another mode does not cure.
_NOT_THE_MODE = {Reason.TRUNCATED, Reason.CONTENT_REFUSED}


class _Question(NamedTuple):
    """Question of one measurement: its message, the texts that it quotes, the labels it offers."""

    write: Write
    texts: tuple[str, ...]
    offered: tuple[str, ...]

    def mark(self) -> str:
        """Return a random mark that no quoted text contains."""
        while True:
            mark = secrets.token_hex(limits.MARK_BYTES)
            if not any(mark in text for text in self.texts):
                return mark


class LlmJudge:
    """A judge that asks a chat model for one label per call.

    `adaptation` is what it knows of its endpoint; store it to begin there next time.
    """

    def __init__(
        self,
        version: LlmVersion,
        calls: RetryingClient,
        *,
        adaptation: Adaptation | None = None,
    ) -> None:
        self.version = version
        self.adaptation = adaptation or Adaptation()
        self._calls = calls
        self._scouting = False
        self._scouted = asyncio.Event()
        self._openai = _openai_client(version, calls)

    async def score(self, item: JudgedText) -> Judgement:
        """Return the score of a response, or why there is none."""
        texts = needed_texts(self.version, item)
        failed = missing(self.version, item) or self._too_long(*texts)
        if failed is not None:
            return Unscored(reason=failed.reason, detail=failed.detail)
        question = _Question(
            lambda mark, mode: message(self.version, item, mark, mode),
            texts,
            offered(self.version.labels),
        )
        chosen, attempts = await self._measure(question)
        if isinstance(chosen, Unscored):
            return chosen
        label = int(chosen.label)
        return Judged(
            score=self.version.labels.score(label), label=label, reasons=chosen.reasons, attempts=attempts
        )

    async def score_many(self, items: Sequence[JudgedText]) -> list[Judgement]:
        """Return the score of each response, in order."""
        return list(await asyncio.gather(*(self.score(item) for item in items)))

    async def compare(self, a: JudgedText, b: JudgedText) -> Preference | Unscored:
        """Return which response is better, asked in both orders; a conflict is a tie."""
        orders = await asyncio.gather(self._prefer(a, b), self._prefer(b, a))
        return preference(*orders)

    async def aclose(self) -> None:
        """Do nothing: the connections belong to the `EndpointClient`."""

    async def _prefer(self, first: JudgedText, second: JudgedText) -> Preferred | Unscored:
        texts = (first.prompt, first.response, second.response)
        if (failed := self._too_long(*texts)) is not None:
            return Unscored(reason=failed.reason, detail=failed.detail)
        question = _Question(
            lambda mark, mode: pair_message(self.version, first, second, mark, mode),
            tuple(text for text in texts if text is not None),
            (FIRST, SECOND, TIE),
        )
        chosen, attempts = await self._measure(question)
        if isinstance(chosen, Unscored):
            return chosen
        return Preferred(PREFERENCES[chosen.label], chosen.reasons, attempts)

    async def _measure(self, question: _Question) -> tuple[Verdict | Unscored, tuple[Attempt, ...]]:
        """Measure. While nothing is known of the endpoint, all others wait for the first one."""
        if self.adaptation.proven:
            return await self._stepping(question)
        if self._scouting:
            await self._scouted.wait()
            return await self._stepping(question)
        self._scouting = True
        try:
            return await self._stepping(question)
        finally:
            self._scouted.set()

    async def _stepping(self, question: _Question) -> tuple[Verdict | Unscored, tuple[Attempt, ...]]:
        steps = _Steps(self.adaptation)
        chosen, attempts = await self._calls.measure(lambda: self._call(question, steps), Verdict)
        if isinstance(chosen, Verdict):
            self.adaptation = steps.current.proved(steps.current.mode)
        return chosen, attempts

    async def _call(self, question: _Question, steps: "_Steps") -> Called:
        adaptation = steps.current
        mark = question.mark()
        written = question.write(mark, adaptation.mode)
        body = request_body(self.version, adaptation, written, question.offered)
        usage = Usage(None, None, len(msgspec.json.encode(body)), self.version.tokens_max)
        try:
            answer = await self._post(body)
        except NoAnswer as error:
            return not_answered(error, usage)
        if answer.status_code // 100 != 2:
            return Called(answer.status_code, usage, self._refused(answer, steps), billed=False)
        read = completion(answer.content)
        if isinstance(read, Failure):
            return Called(answer.status_code, usage, read)
        tokens_in, tokens_out = read.tokens
        usage = msgspec.structs.replace(usage, tokens_in=tokens_in, tokens_out=tokens_out)
        chosen = verdict(read, adaptation.mode, question.offered, mark)
        if isinstance(chosen, Failure):
            return Called(answer.status_code, usage, steps.unread(chosen))
        return Called(answer.status_code, usage, chosen)

    def _too_long(self, *texts: str | None) -> Failure | None:
        return too_long(self.version.characters_max, *texts)

    async def _post(self, body: dict[str, Any]) -> httpx2.Response:
        """Send a request and return the answer of any status. Raises NoAnswer."""
        from openai import APIConnectionError, APIStatusError, Omit  # noqa: PLC0415 - the extra

        headers: Any = {} if self._calls.secret else {"Authorization": Omit()}
        try:
            return await self._openai.post(
                "/chat/completions", cast_to=httpx2.Response, body=body, options={"headers": headers}
            )
        except APIStatusError as error:
            return error.response
        except APIConnectionError as error:
            if isinstance(error.__cause__, NoAnswer):
                raise error.__cause__ from error
            raise NoAnswer(Reason.CONNECTION, str(error)) from error

    def _refused(self, answer: httpx2.Response, steps: "_Steps") -> Failure | Again:
        """Return the failure of an answer, or Again if a simpler request may be accepted."""
        failed = failure(answer.status_code, answer.headers, answer.content, now=self._calls.clock.now())
        if answer.status_code not in _REFUSALS or failed.reason is Reason.TOO_LONG:
            return failed
        names = (*parameters(self.version, steps.current), *names_of_mode(steps.current.mode))
        named = refused_parameter(answer.content, names)
        return failed if named is None else steps.refused(named, failed)


class _Steps:
    """The steps down of one measurement. They are remembered only if it ends with a label."""

    def __init__(self, adaptation: Adaptation) -> None:
        self.current = adaptation
        self._reread = False

    def refused(self, name: str, failed: Failure) -> Failure | Again:
        """Leave out what the endpoint refused, or give up below the last mode."""
        if name in names_of_mode(self.current.mode):
            return self._down(failed)
        self.current = self.current.without(name)
        return Again(f"{failed.reason}: {failed.detail}")

    def unread(self, failed: Failure) -> Failure | Again:
        """Ask again after an answer without a valid label.

        A mode that never worked may be one that the server ignores, so the next one is tried. A
        mode that works gets a second chance.
        """
        if failed.reason in _NOT_THE_MODE:
            return failed
        if not self.current.proven:
            return self._down(failed)
        if self._reread:
            return failed
        self._reread = True
        return Again(f"{failed.reason}: {failed.detail}")

    def _down(self, failed: Failure) -> Failure | Again:
        lower = self.current.lower()
        if lower is None:
            return failed
        self.current = lower
        return Again(f"{failed.reason}: {failed.detail}")


def _openai_client(version: LlmVersion, calls: RetryingClient) -> "AsyncOpenAI":
    """Return a client that uses no setting of the environment.

    Raises InvalidInput without the extra.
    """
    try:
        from openai import AsyncOpenAI  # noqa: PLC0415 - the extra judges-llm
    except ImportError as error:
        raise InvalidInput(
            "judges of the kind llm need the extra: install wald[judges-llm]", field="kind"
        ) from error
    timeout_s = version.operation.timeout_s
    client = AsyncOpenAI(
        base_url=version.base_url,
        api_key=calls.secret or "none",
        max_retries=0,
        http_client=httpx2.AsyncClient(
            transport=ClientTransport(calls.client, timeout_s), trust_env=False, timeout=None
        ),
    )
    client.organization = client.project = None
    return client
