"""Attempts of one measurement: bounded concurrency, retries, and a log of every call."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from random import Random
from typing import Final, TypeVar

import msgspec

from app.core.clock import Clock
from app.judging.judges import limits
from app.judging.judges.endpoint_client import Answer, EndpointClient, NoAnswer
from app.judging.judges.failures import Failure, shown
from app.judging.judges.model import Attempt, Operation, Unscored

T = TypeVar("T")


class Again(msgspec.Struct, frozen=True):
    """A call whose request was not accepted. The next one, at once, is simpler."""

    error: str


class Usage(msgspec.Struct, frozen=True):
    """Tokens that an answer reports, and the most that its request can have used."""

    tokens_in: int | None
    tokens_out: int | None
    tokens_in_max: int
    tokens_out_max: int


class Called(msgspec.Struct, frozen=True):
    """One call: its outcome or failure, and its tokens. `billed` is False if it is free."""

    status: int | None
    usage: Usage
    outcome: object
    billed: bool = True


class Waits(msgspec.Struct, frozen=True):
    """Waits between attempts: `first_s`, doubled each time, each cut by up to half."""

    first_s: float = limits.RETRY_FIRST_S
    longest_s: float = limits.RETRY_S_MAX


WAITS: Final = Waits()


class RetryingClient:
    """The calls of one judge. At most `operation.concurrency` are in progress at a time."""

    def __init__(
        self,
        client: EndpointClient,
        operation: Operation,
        *,
        clock: Clock,
        random: Random,
        secret: str | None = None,
        waits: Waits = WAITS,
    ) -> None:
        self.client = client
        self.clock = clock
        self.secret = secret
        self._operation = operation
        self._random = random
        self._waits = waits
        self._places = asyncio.Semaphore(operation.concurrency)

    async def measure(
        self, call: Callable[[], Awaitable[Called]], kind: type[T]
    ) -> tuple[T | Unscored, tuple[Attempt, ...]]:
        """Call until there is an outcome of `kind`, or a failure that a retry does not help.

        Each `Again` must make the next request simpler, so that their number is bounded.
        """
        attempts: list[Attempt] = []
        retries = 0
        while True:
            attempt, outcome = await self._attempt(call)
            attempts.append(attempt)
            match outcome:
                case Again():
                    continue
                case Failure():
                    retries += 1
                    wait_s = self._wait_s(outcome, retries)
                    if wait_s is None:
                        return self._unscored(outcome, tuple(attempts)), tuple(attempts)
                    await asyncio.sleep(wait_s)
                case _:
                    assert isinstance(outcome, kind)
                    return outcome, tuple(attempts)

    async def post(self, url: str, body: bytes) -> Answer:
        """Send JSON. Raises NoAnswer."""
        headers = {"Content-Type": "application/json"}
        if self.secret is not None:
            headers["Authorization"] = f"Bearer {self.secret}"
        return await self.client.post(url, headers=headers, body=body, timeout_s=self._operation.timeout_s)

    async def _attempt(self, call: Callable[[], Awaitable[Called]]) -> tuple[Attempt, object]:
        async with self._places:
            at, started = self.clock.now(), asyncio.get_running_loop().time()
            called = await call()
            seconds = asyncio.get_running_loop().time() - started
        return self._logged(called, at, seconds), called.outcome

    def _logged(self, called: Called, at: datetime, seconds: float) -> Attempt:
        match called.outcome:
            case Failure(reason=reason, detail=detail):
                error: str | None = self._without_secret(f"{reason}: {detail}")
            case Again(error=text):
                error = self._without_secret(text)
            case _:
                error = None
        return Attempt(
            at=at,
            seconds=seconds,
            status=called.status,
            tokens_in=called.usage.tokens_in,
            tokens_out=called.usage.tokens_out,
            cost_usd=self._cost_usd(called),
            error=error,
        )

    def _cost_usd(self, called: Called) -> float | None:
        """Return the cost of a call; if its tokens are unknown, the most that it can have cost."""
        if not called.billed:
            return 0.0
        if self._operation.price is None:
            return None
        usage = called.usage
        tokens_in = usage.tokens_in_max if usage.tokens_in is None else usage.tokens_in
        tokens_out = usage.tokens_out_max if usage.tokens_out is None else usage.tokens_out
        return self._operation.price.cost_usd(tokens_in, tokens_out)

    def _wait_s(self, failure: Failure, retries: int) -> float | None:
        """Return the seconds before the next attempt; None if this was the last one."""
        if not failure.reason.transient or retries >= self._operation.attempts_max:
            return None
        if failure.retry_after_s is not None and failure.retry_after_s > self._waits.longest_s:
            return None
        longest = min(self._waits.first_s * 2.0 ** (retries - 1), self._waits.longest_s)
        return max(longest * self._random.uniform(0.5, 1.0), failure.retry_after_s or 0.0)

    def _unscored(self, failure: Failure, attempts: tuple[Attempt, ...]) -> Unscored:
        return Unscored(
            reason=failure.reason,
            detail=self._without_secret(failure.detail),
            retry_after_s=failure.retry_after_s,
            attempts=attempts,
        )

    def _without_secret(self, text: str) -> str:
        """Return a text of an endpoint, which may echo what it was sent."""
        return text if not self.secret else text.replace(self.secret, "[credential]")


def not_answered(error: NoAnswer, usage: Usage) -> Called:
    """Return the call that ended without an answer that can be read."""
    failure = Failure(error.reason, shown(error.detail))
    return Called(error.status, usage, failure, billed=error.sent)
