"""Drive a running server with the simulated product: so many requests, or an endless trickle."""

import asyncio
import heapq
import itertools
import secrets
from collections.abc import Iterator
from typing import Final

import numpy as np
import structlog

from app.cli.client import ClientError, Event, Refused, WaldClient
from app.cli.traffic import product

TRICKLE_EXPERIMENT: Final = "demo-prompts"
USERS_AT_ONCE: Final = 16
DELIVERY_INTERVAL_S: Final = 0.1
FEEDBACK_EVENTS_MAX: Final = 1_000
TRICKLE_RATE: Final = 5.0
TRICKLE_RATE_MAX: Final = 50.0
TRICKLE_PAUSE_S: Final = 5.0

_PROMPTS: Final = {prompt.key: prompt for prompt in product.PROMPTS}

_log = structlog.get_logger(__name__)


class Traffic:
    """Simulated users of one experiment: they arrive at `rate` a second and react when they please.

    The user of request n is drawn from (seed, n), so what each would say of each prompt does not depend on
    timing; which prompt is served is the server's draw. Counts are open to be read while `run` goes on.
    """

    def __init__(
        self, client: WaldClient, experiment: str, *, rate: float, seed: int, requests: int | None
    ) -> None:
        self.requests = requests
        self.served = dict.fromkeys(_PROMPTS, 0)
        self.rewards: list[float] = []  # of the answers that got a signal, as the last signal will say
        self.rejected = 0
        self._client = client
        self._experiment = experiment
        self._rate = rate
        self._seed = seed
        self._run = secrets.token_hex(4)  # so that the units of two runs differ
        self._due: list[tuple[float, int, Event]] = []  # a heap of (time, tie-breaker, event)
        self._arrivals_over = False

    @property
    def waiting(self) -> int:
        """Reactions that have not happened yet."""
        return len(self._due)

    async def run(self) -> None:
        """Serve every request and deliver every reaction. Raises ClientError."""
        numbers = iter(range(self.requests)) if self.requests is not None else itertools.count()
        start = asyncio.get_running_loop().time()
        try:
            async with asyncio.TaskGroup() as group:
                delivery = group.create_task(self._deliver())
                async with asyncio.TaskGroup() as users:
                    for _ in range(USERS_AT_ONCE):
                        users.create_task(self._serve(numbers, start))
                self._arrivals_over = True
                await delivery
        except BaseExceptionGroup as failures:
            raise _first(failures) from None

    async def _serve(self, numbers: Iterator[int], start: float) -> None:
        loop = asyncio.get_running_loop()
        for number in numbers:
            await asyncio.sleep(start + number / self._rate - loop.time())
            assignment = await self._client.assign(self._experiment, f"request-{self._run}-{number}")
            prompt = _PROMPTS.get(assignment.variant)
            if prompt is None:
                raise ClientError(f"{self._experiment} is not an experiment of the demo; choose another key")
            self.served[prompt.key] += 1
            reactions = product.reactions(prompt, np.random.default_rng([self._seed, number]))
            if reactions:
                self.rewards.append(product.WORTH[reactions[-1].signal])
            for order, reaction in enumerate(reactions):
                event = Event(
                    assignment_id=assignment.assignment_id, signal=reaction.signal, source=reaction.source
                )
                heapq.heappush(self._due, (loop.time() + reaction.after_s, 2 * number + order, event))

    async def _deliver(self) -> None:
        loop = asyncio.get_running_loop()
        while self._due or not self._arrivals_over:
            events: list[Event] = []
            while self._due and self._due[0][0] <= loop.time() and len(events) < FEEDBACK_EVENTS_MAX:
                events.append(heapq.heappop(self._due)[2])
            if events:
                receipt = await self._client.feedback(events)
                self.rejected += len(receipt.rejected)
            await asyncio.sleep(DELIVERY_INTERVAL_S)


async def ensure_running(client: WaldClient, experiment: str) -> None:
    """Create and start the demo's experiment, or find it running. Raises ClientError when it cannot run."""
    try:
        await client.define(product.definition(experiment))
    except Refused as refusal:
        if refusal.status != 409:
            raise
    status = await client.status(experiment)
    if {variant.key for variant in status.variants} != set(_PROMPTS):
        raise ClientError(f"{experiment} is not an experiment of the demo; choose another key")
    if status.state == "draft":
        await client.start(experiment)
    elif status.state != "running":
        raise ClientError(f"{experiment} is {status.state}; resume it, or choose another key")


async def trickle(
    client: WaldClient, *, experiment: str = TRICKLE_EXPERIMENT, rate: float = TRICKLE_RATE
) -> None:
    """Gentle traffic until cancelled, at most `TRICKLE_RATE_MAX` requests a second.

    It outlives the server it talks to: after an error it pauses and begins again.
    """
    while True:
        try:
            await ensure_running(client, experiment)
            seed = secrets.randbits(32)
            await Traffic(
                client, experiment, rate=min(rate, TRICKLE_RATE_MAX), seed=seed, requests=None
            ).run()
        except ClientError as error:
            _log.warning("demo traffic paused", reason=str(error))
        await asyncio.sleep(TRICKLE_PAUSE_S)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first cause in a tree of groups."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
