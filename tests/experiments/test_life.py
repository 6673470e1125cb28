"""Any sequence of calls: the service on real PostgreSQL against a model of a few lines."""

import asyncio
import itertools

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import select

from app.core.clock import SystemClock
from app.core.errors import Conflict, NotFound
from app.core.postgres import create_engine
from app.experiments.lifecycle import DefinitionChange
from app.experiments.model import Definition, Variant, kind_of
from app.experiments.policies import FixedPolicy, ThompsonPolicy
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.experiments.tables import epochs, publications

NAMES = st.sampled_from(["one", "two"])
POLICIES = [
    ThompsonPolicy(),
    FixedPolicy({"control": 0.5, "short": 0.5}),
    FixedPolicy({"control": 0.9, "short": 0.1}),
]
TRANSITIONS = {
    ("draft", "start"): "running",
    ("running", "pause"): "paused",
    ("paused", "resume"): "running",
    ("running", "stop"): "stopped",
    ("paused", "stop"): "stopped",
    ("draft", "archive"): "archived",
    ("stopped", "archive"): "archived",
}
_runs = itertools.count()


class Expected:
    """What an experiment should be."""

    def __init__(self) -> None:
        self.state, self.unit, self.policy = "draft", "request", POLICIES[0]
        self.revision, self.epochs = 1, []


class Life(RuleBasedStateMachine):
    database_url: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.engine = create_engine(self.database_url, pool_size=1)
        self.announced = 0
        self.service = ExperimentService(ExperimentStore(self.engine), SystemClock(), self.on_change)
        self.run_name = f"run-{next(_runs)}"
        self.expected: dict[str, Expected] = {}

    async def on_change(self, _: int) -> None:
        self.announced += 1

    def key(self, name: str) -> str:
        return f"{self.run_name}.{name}"

    def call(self, name: str, coroutine, allowed: bool):
        """Run it; whether it went through, which must be as foreseen."""
        expected_error = NotFound if name not in self.expected else Conflict
        if name in self.expected and allowed:
            self.runner.run(coroutine)
            return True
        with pytest.raises(expected_error):
            self.runner.run(coroutine)
        return False

    @rule(name=NAMES)
    def create(self, name):
        definition = Definition(
            key=self.key(name), variants=(Variant("control", control=True), Variant("short"))
        )
        if name in self.expected:
            with pytest.raises(Conflict):
                self.runner.run(self.service.create(definition))
        else:
            self.runner.run(self.service.create(definition))
            self.expected[name] = Expected()

    @rule(name=NAMES, action=st.sampled_from(["start", "pause", "resume", "stop", "archive"]))
    def move(self, name, action):
        now = self.expected[name].state if name in self.expected else ""
        following = TRANSITIONS.get((now, action))
        if self.call(name, getattr(self.service, action)(self.key(name)), following is not None):
            expected = self.expected[name]
            expected.state, expected.revision = following, expected.revision + 1
            if action == "start":
                expected.epochs.append(expected.policy)

    @rule(name=NAMES, policy=st.sampled_from(POLICIES))
    def change_policy(self, name, policy):
        expected = self.expected.get(name, Expected())
        allowed = policy == expected.policy or expected.state in {"draft", "running", "paused"}
        change = DefinitionChange(policy=policy)
        if (
            self.call(name, self.service.change(self.key(name), change), allowed)
            and policy != expected.policy
        ):
            expected.policy, expected.revision = policy, expected.revision + 1
            if expected.state != "draft":
                expected.epochs.append(policy)

    @rule(name=NAMES, unit=st.sampled_from(["request", "user"]))
    def change_unit(self, name, unit):
        expected = self.expected.get(name, Expected())
        allowed = unit == expected.unit or expected.state == "draft"
        change = DefinitionChange(unit=unit)
        if self.call(name, self.service.change(self.key(name), change), allowed) and unit != expected.unit:
            expected.unit, expected.revision = unit, expected.revision + 1

    @invariant()
    def everything_is_as_expected(self):
        self.runner.run(self._compare())

    async def _compare(self) -> None:
        for name, expected in self.expected.items():
            found = await self.service.get(self.key(name))
            assert kind_of(found.state) == expected.state
            assert (found.definition.policy, found.definition.unit) == (expected.policy, expected.unit)
            assert found.revision == expected.revision
            assert found.epoch == max(1, len(expected.epochs))
            async with self.engine.connect() as connection:
                rows = await connection.execute(
                    select(epochs).where(epochs.c.experiment_id == found.id).order_by(epochs.c.epoch)
                )
                assert [row.policy["kind"] for row in rows] == [
                    "fixed" if isinstance(policy, FixedPolicy) else "thompson" for policy in expected.epochs
                ]
                wanted = select(publications.c.wanted).where(publications.c.experiment_id == found.id)
                assert (await connection.execute(wanted)).scalar_one() == expected.revision
        listed, _ = await self.service.list(limit=500)
        mine = {experiment.key for experiment in listed if experiment.key.startswith(f"{self.run_name}.")}
        visible = {name for name, expected in self.expected.items() if expected.state != "archived"}
        assert mine == {self.key(name) for name in visible}
        assert self.announced == sum(expected.revision for expected in self.expected.values())

    def teardown(self) -> None:
        self.runner.run(self.engine.dispose())
        self.runner.close()


def test_any_life_is_as_the_model_says(database_url):
    machine = type("LifeOnThisDatabase", (Life,), {"database_url": database_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
