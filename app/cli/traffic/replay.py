"""Replay logged scores as an online experiment.

Every task is asked of `/assign`, the logged reward of the drawn variant is sent to `/feedback`. What the
server may learn is exactly what a live product would show it.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, Literal

import msgspec
import numpy as np

from app.cli.client import Event, Status, WaldClient
from app.cli.files.logged import LoggedRewards, Task, variant_keys
from app.experiments.model import Definition, Variant
from app.experiments.policies import FixedPolicy, Policy, ThompsonPolicy
from app.experiments.reward import Reward

SIGNAL: Final = "score"
FEEDBACK_EVENTS_MAX: Final = 500
HORIZON_S: Final = 86_400.0
SETTLE_S: Final = 60.0


class Draw(msgspec.Struct, frozen=True):
    """One served task: the position of the variant drawn, and its reward in [0, 1]."""

    variant: int
    reward: float


class ReplayResult(msgspec.Struct, frozen=True):
    """What happened, in the order in which it happened, and where the server stands after it."""

    log: LoggedRewards
    draws: tuple[Draw, ...]
    status: Status
    keys: tuple[str, ...]  # of the variants, in the order of the log
    elapsed_s: float
    retries: int
    errors: int  # feedback the server rejected; an assignment that fails ends the replay

    @property
    def reward(self) -> float:
        """The total earned."""
        return sum(draw.reward for draw in self.draws)

    @property
    def uniform(self) -> float:
        """What equal shares earn on these tasks, in expectation."""
        return len(self.draws) * sum(self.log.means) / len(self.log.means)

    @property
    def best(self) -> float:
        """What serving the best variant alone earns on these tasks."""
        return len(self.draws) * max(self.log.means)

    @property
    def unrecorded(self) -> int:
        """Draws that are in no totals, because Valkey was away when they were made."""
        return max(0, len(self.draws) - sum(variant.assignments for variant in self.status.variants))

    def assigned(self) -> tuple[int, ...]:
        """How often each variant was drawn."""
        counts = np.bincount([draw.variant for draw in self.draws], minlength=len(self.keys))
        return tuple(int(count) for count in counts)

    def shares(self, windows: int) -> tuple[tuple[float, ...], ...]:
        """For each variant, its share of the draws in each of `windows` equal parts of the replay."""
        parts = np.array_split(np.array([draw.variant for draw in self.draws]), windows)
        counts = np.array([np.bincount(part, minlength=len(self.keys)) for part in parts if part.size])
        shares = counts / counts.sum(axis=1, keepdims=True)
        return tuple(tuple(float(share) for share in column) for column in shares.T)


def definition_of(log: LoggedRewards, key: str, policy: Literal["thompson", "fixed"]) -> Definition:
    """The experiment that a log describes: its variants, its scale, silence censored."""
    keys = variant_keys(log.variants)
    rule: Policy = ThompsonPolicy()
    if policy == "fixed":
        rule = FixedPolicy(weights={variant: 1 / len(keys) for variant in keys.values()})
    return Definition(
        key=key,
        description=f"Replay of {len(log.tasks)} logged tasks",
        variants=tuple(
            Variant(key=variant, control=index == 0, payload={"logged_as": name})
            for index, (name, variant) in enumerate(keys.items())
        ),
        unit="task",
        policy=rule,
        reward=Reward(signals={SIGNAL: log.low}, range=(log.low, log.high), horizon_s=HORIZON_S),
    )


async def replay(
    client: WaldClient,
    log: LoggedRewards,
    *,
    experiment: str,
    policy: Literal["thompson", "fixed"] = "thompson",
    passes: int = 1,
    concurrency: int = 16,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> ReplayResult:
    """Define and start `experiment`, replay every task `passes` times, and wait for the totals.

    `seed` shuffles the tasks; the server draws the variants. `progress` is called after each task.
    Raises ClientError when the experiment exists already or the server refuses or stays away.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    definition = definition_of(log, experiment, policy)
    await client.define(definition)
    await client.start(experiment)
    run = _Run(client, log, definition, progress)
    units = _units(log, passes, np.random.default_rng(seed))
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(run.serve(units))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    elapsed_s = loop.time() - began
    status = await client.settled(experiment, rewards=run.accepted, within_s=SETTLE_S)
    return ReplayResult(
        log, tuple(run.draws), status, tuple(run.positions), elapsed_s, client.retries, run.errors
    )


def _units(log: LoggedRewards, passes: int, rng: np.random.Generator) -> Iterator[tuple[str, Task]]:
    """Every task of every pass with a unit of its own."""
    for number in range(1, passes + 1):
        for index in rng.permutation(len(log.tasks)):
            task = log.tasks[index]
            yield f"{task.name}#{number}", task


class _Run:
    """What the concurrent servings of one replay share."""

    def __init__(
        self, client: WaldClient, log: LoggedRewards, definition: Definition, progress: Callable[[int], None]
    ) -> None:
        self.draws: list[Draw] = []
        self.accepted = 0
        self.errors = 0
        self.positions = {variant.key: index for index, variant in enumerate(definition.variants)}
        self._client = client
        self._log = log
        self._experiment = definition.key
        self._progress = progress
        self._outbox: list[Event] = []
        self._sending = asyncio.Lock()

    async def serve(self, units: Iterator[tuple[str, Task]]) -> None:
        """Take the next task until there is none: assign, and report the logged reward."""
        for unit, task in units:
            assignment = await self._client.assign(self._experiment, unit)
            variant = self.positions[assignment.variant]
            reward = task.rewards[variant]
            self.draws.append(Draw(variant, self._log.scaled(reward)))
            self._outbox.append(
                Event(
                    assignment_id=assignment.assignment_id,
                    signal=SIGNAL,
                    value=reward,
                    source="automated",
                    id=unit,
                )
            )
            await self._deliver()

    async def _deliver(self) -> None:
        """Send what has gathered, unless somebody is sending: then it gathers for the next request."""
        if self._sending.locked() and len(self._outbox) < FEEDBACK_EVENTS_MAX:
            return
        async with self._sending:
            while events := self._outbox[:FEEDBACK_EVENTS_MAX]:
                del self._outbox[: len(events)]
                receipt = await self._client.feedback(events)
                self.accepted += receipt.accepted
                self.errors += len(receipt.rejected)
                self._progress(len(events))
