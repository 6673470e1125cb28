"""Any order of looks, totals, waits, people and deaths: one decision, one change of shares, one webhook."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.errors import Conflict
from app.experiments.metrics import Margin
from app.experiments.model import Experiment, Variant
from app.experiments.policies import FixedPolicy
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.experiments.tables import epochs
from app.rollouts.decide import held
from app.rollouts.life import Rollout, Taken
from app.rollouts.model import (
    Completed,
    RolledBack,
    RolloutPlan,
    Running,
    Stage,
    State,
)
from app.rollouts.service import RolloutRequest, RolloutService
from app.rollouts.steps import Started, after
from app.rollouts.store import RolloutStore
from app.webhooks.tables import webhook_messages
from tests.rollouts.stored import DEFINITION, LATENCY, come, watermark
from tests.rollouts.stored import ERROR as ERROR_RATE
from tests.support.clocks import SettableClock

pytestmark = pytest.mark.anyio

CANARIES = ("new", "newer")
VARIANTS = (Variant("old", control=True), *map(Variant, CANARIES))
STAGES = (Stage(share=0.2, duration_s=60), Stage(share=0.5, duration_s=60, approval=True), Stage(share=1.0))
UNITS = 120
ERROR = msgspec.structs.replace(ERROR_RATE, margin=Margin(0.2))  # so few units show that it is kept
_numbers = itertools.count(1)


STEPS_OF_A_DECISION = ["measured", "examples", "hold", "move", "note", "take", "tell"]


class Crash(BaseException):
    """What ends a process anywhere: nothing handles it."""


class Life:
    """One rollout of two canaries, what may happen to it, and what must be true of it afterwards."""

    def __init__(self, engine: AsyncEngine, clock: SettableClock, experiment: Experiment) -> None:
        self._engine, self._clock, self._key = engine, clock, experiment.definition.key
        self._first_epoch = experiment.epoch
        self._service = self._worker()
        self.rollout: Rollout

    def _worker(self, dies_at: str | None = None) -> RolloutService:
        async def on_change(_: int) -> None:
            if dies_at == "announce":
                raise Crash

        async def die(*_: Any, **__: Any) -> None:
            raise Crash

        store = RolloutStore(self._engine)
        if dies_at not in {None, "announce"}:
            setattr(store, str(dies_at), die)
        return RolloutService(store, self._clock, on_change)

    async def begin(self) -> None:
        fields = {"experiment": self._key, "canaries": CANARIES, "guardrails": ("error_rate",)}
        self.rollout = await self._service.begin(RolloutRequest(**fields, stages=STAGES), "key 1")

    async def look(self, dies_at: str | None) -> None:
        """A worker looks, and may die at a step."""
        try:
            await self._worker(dies_at).look(self.rollout.id)
        except Crash:
            assert dies_at is not None

    async def act(self, action: str, dies_at: str | None) -> None:
        """A person acts, and the server may die at a step."""
        try:
            await self._worker(dies_at).act(self.rollout.id, action, by="key 2", reason="a reason")
        except Crash:
            assert dies_at is not None
        except Conflict:
            pass

    async def hear(self, *errors: float) -> None:
        """A minute later outcomes of all variants, with these rates of errors, are in the ledger."""
        self._clock.forward(61)
        experiment = await self.experiment()
        for variant, rate in enumerate(errors):
            n = round(UNITS * rate)
            await come(self._engine, experiment, variant, units=UNITS, errors=n, latency=1.0)
        await watermark(self._engine, self._clock.now())

    async def wait(self, seconds: float, *, heard: bool) -> None:
        """Time passes; the ledger keeps up, or falls behind."""
        self._clock.forward(seconds)
        if heard:
            await watermark(self._engine, self._clock.now())

    async def experiment(self) -> Experiment:
        return await ExperimentStore(self._engine).find(self._key)

    async def check(self, before: Rollout) -> Rollout:
        """All that must be true at any time; the rollout as it is now."""
        rollout = await self._service.get(self.rollout.id)
        experiment, taken = await self.experiment(), await self._service.decisions(rollout.id)
        assert [taken_step.number for taken_step in taken] == list(range(1, len(taken) + 1))
        states = replayed(rollout, taken)
        assert states[-1] == rollout.state, "the state is what its decisions lead to"
        shares = [held(rollout.plan, state) for state in states]
        assert experiment.held == shares[-1]
        changes = 1 + sum(taken_step != other for taken_step, other in itertools.pairwise(shares))
        assert experiment.epoch == self._first_epoch + changes
        assert await self._count(epochs, epochs.c.experiment_id == experiment.id) == experiment.epoch
        prefix = f"rollouts/{rollout.id}/decision/"
        assert await self._count(webhook_messages, webhook_messages.c.key.startswith(prefix)) == len(taken)
        assert_monotone(rollout.plan, states)
        if isinstance(before.state, RolledBack | Completed):
            assert rollout == before, "ended stays ended"
        return rollout

    async def _count(self, table: Any, condition: Any) -> int:
        async with self._engine.connect() as connection:
            return await connection.scalar(select(func.count()).select_from(table).where(condition)) or 0


def replayed(rollout: Rollout, taken: Sequence[Taken]) -> list[State]:
    """Where the rollout was after each of its decisions, by the pure functions alone."""
    plan, epoch = rollout.plan, rollout.epoch
    start = Running(stage=0, entered_at=rollout.created_at, epoch=epoch, canaries=plan.canaries)
    assert isinstance(taken[0].decision, Started)
    states: list[State] = [start]
    for taken_step in taken[1:]:
        state = states[-1]
        states.append(after(state, taken_step.decision, at=taken_step.at, epoch=epoch + 1))
        epoch += held(plan, states[-1]) != held(plan, state)
    return states


def assert_monotone(plan: RolloutPlan, states: Sequence[State]) -> None:
    """A canary that was taken back has no share ever again."""
    gone: set[str] = set()
    for state in states:
        nothing = {canary for canary, share in held(plan, state).items() if share == 0}
        assert gone <= nothing
        gone = nothing


DEATHS = st.sampled_from([None, None, None, *STEPS_OF_A_DECISION, "announce"])
HEALTHY, HARMFUL = 0.0, 0.5
ERRORS = st.sampled_from([HEALTHY] * 7 + [HARMFUL])
ACTIONS = ["pause", "resume", "resume", "approve", "approve", "advance", "rollback"]
LOOK = st.tuples(st.just("look"), DEATHS)
HEAR = st.tuples(st.just("hear"), st.tuples(st.just(HEALTHY), ERRORS, ERRORS))
WAIT = st.tuples(st.just("wait"), st.tuples(st.sampled_from([1, 61, 61, 400]), st.booleans()))
ACT = st.tuples(st.just("act"), st.tuples(st.sampled_from(ACTIONS), DEATHS))
STEPS = st.lists(st.one_of(LOOK, LOOK, HEAR, WAIT, ACT, ACT), min_size=10, max_size=20)
LOSES_ONE_AND_COMPLETES = [
    ("hear", (HEALTHY, HEALTHY, HARMFUL)),
    ("look", "tell"),
    ("look", None),
    ("hear", (HEALTHY, HEALTHY, HEALTHY)),
    ("look", "take"),
    ("look", None),
    ("act", ("approve", None)),
    ("act", ("pause", "announce")),
    ("act", ("resume", None)),
    ("hear", (HEALTHY, HEALTHY, HEALTHY)),
    ("look", "move"),
    ("look", None),
]


@given(steps=STEPS)
@example(steps=LOSES_ONE_AND_COMPLETES)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # to shorten an example on a real database takes minutes
)
async def test_whatever_happens_decisions_shares_and_webhooks_agree(steps, engine, clock):
    """After every step; and at the end a worker that lives finds the harm of whatever is left."""
    clock.at = datetime.now(UTC)  # as its fixture, which all examples share
    life = Life(engine, clock, await experiment_of(f"life-{next(_numbers)}", engine, clock))
    await life.begin()
    rollout = await life.check(life.rollout)
    for kind, argument in steps:
        match kind:
            case "look":
                await life.look(argument)
            case "hear":
                await life.hear(*argument)
            case "wait":
                await life.wait(argument[0], heard=argument[1])
            case "act":
                await life.act(*argument)
        rollout = await life.check(rollout)
    await life.hear(HEALTHY, HARMFUL, HARMFUL)
    await life.look(None)
    rollout = await life.check(rollout)
    assert isinstance(rollout.state, RolledBack | Completed), "no proven harm is lost"


async def experiment_of(key: str, engine: AsyncEngine, clock: SettableClock) -> Experiment:
    async def leave_it_due(_: int) -> None: ...

    policy = FixedPolicy({"old": 1.0, "new": 0.0, "newer": 0.0})
    definition = msgspec.structs.replace(
        DEFINITION, key=key, variants=VARIANTS, policy=policy, metrics=(ERROR, LATENCY)
    )
    experiments = ExperimentService(ExperimentStore(engine), clock, leave_it_due)
    await experiments.create(definition)
    return await experiments.start(key)
