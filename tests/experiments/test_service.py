"""Definitions on real PostgreSQL."""

import asyncio

import pytest
from sqlalchemy import select, text

from app.core.clock import SystemClock
from app.core.errors import Conflict, InvalidInput, NotFound, UnprocessableInput
from app.experiments import limits
from app.experiments.lifecycle import DefinitionChange
from app.experiments.model import (
    Archived,
    Condition,
    Definition,
    Draft,
    LayerRange,
    Running,
    Stopped,
    Variant,
)
from app.experiments.policies import FixedPolicy, ThompsonPolicy
from app.experiments.policies.rule import WarmStart
from app.experiments.reward import Reward
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.experiments.tables import epochs, publications

pytestmark = pytest.mark.anyio

HALVES = FixedPolicy({"control": 0.5, "short": 0.5})


def definition(key: str = "summary-prompt", **fields) -> Definition:
    return Definition(
        **({"key": key, "variants": (Variant("control", control=True), Variant("short"))} | fields)
    )


async def wanted(engine, experiment_id: int) -> int:
    async with engine.connect() as connection:
        query = select(publications.c.wanted).where(publications.c.experiment_id == experiment_id)
        return (await connection.execute(query)).scalar_one()


async def test_a_new_experiment_is_a_draft_with_a_salt_of_its_own(experiments, announced, engine):
    one = await experiments.create(definition("one"))
    two = await experiments.create(definition("two"))
    assert (one.state, one.epoch, one.revision) == (Draft(), 1, 1)
    assert len(one.salt) == 16
    assert one.salt != two.salt
    assert announced == [one.id, two.id]
    assert await wanted(engine, one.id) == 1


async def test_what_is_read_is_what_was_defined(experiments):
    everything = definition(
        description="prose “with” ünïcode 🦜",
        variants=(
            Variant("control", control=True, payload={"zeta": 1, "alpha": [1.0, 1e20, 1e-300, 2**63, None]}),
            Variant("short", payload="just text"),
        ),
        unit="user",
        stickiness="strict",
        policy=HALVES,
        reward=Reward(signals={"stars": 4.5}, combine="max", range=(1.0, 5.0), silence=0.25),
        targeting=(Condition("age", "greater", (17.0,)), Condition("vip", "in", (True, "yes"))),
        overrides={"someone@example.com": "short"},
    )
    await experiments.create(everything)
    found = (await experiments.get("summary-prompt")).definition
    assert found == everything
    assert repr(found) == repr(everything)  # numbers keep their types, payloads the order of their keys


async def test_a_key_is_taken_once(experiments, announced):
    made = await asyncio.gather(*(experiments.create(definition()) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in made].count(Conflict) == 4
    assert len(announced) == 1
    with pytest.raises(Conflict) as caught:
        await experiments.create(definition())
    assert caught.value.errors[0].field == "key"


async def test_a_definition_that_does_not_fit_is_not_stored(experiments, announced):
    with pytest.raises(InvalidInput):
        await experiments.create(definition(policy=FixedPolicy({"control": 1.0})))
    assert await experiments.list() == ([], None)
    assert announced == []


async def test_there_is_a_limit_to_experiments_that_are_not_archived(experiments, monkeypatch):
    monkeypatch.setattr(limits, "EXPERIMENTS_MAX", 2)
    made = await asyncio.gather(
        *(experiments.create(definition(f"e{number}")) for number in range(4)), return_exceptions=True
    )
    assert [type(one) for one in made].count(Conflict) == 2
    (first, _), _ = await experiments.list()
    await experiments.archive(first.key)
    await experiments.create(definition("another"))


@pytest.mark.parametrize("key", ["nobody", "", "a\0b", "a b", "a\n", "\ud800", "x" * 5_000])
async def test_an_experiment_that_is_not_there_is_not_found_by_any_call(experiments, key):
    for call in (
        experiments.get(key),
        experiments.change(key, DefinitionChange(description="x")),
        experiments.start(key),
        experiments.pause(key),
        experiments.resume(key),
        experiments.stop(key),
        experiments.archive(key),
    ):
        with pytest.raises(NotFound):
            await call


async def test_a_list_comes_in_pages_that_miss_and_repeat_nothing(experiments):
    keys = ["a", "A", "b.1", "b-1", "b_1", "Z", "10", "9"]
    for key in keys:
        await experiments.create(definition(key))
    seen, after = [], None
    while True:
        page, after = await experiments.list(after=after, limit=3)
        assert len(page) <= 3
        seen += [experiment.key for experiment in page]
        if after is None:
            break
    assert sorted(seen) == sorted(keys)


async def test_archived_experiments_are_listed_only_when_asked_for(experiments):
    for key in ("draft", "running", "archived"):
        await experiments.create(definition(key))
    await experiments.start("running")
    await experiments.archive("archived")

    async def keys(**arguments) -> set[str]:
        return {experiment.key for experiment in (await experiments.list(**arguments))[0]}

    assert await keys() == {"draft", "running"}
    assert await keys(state="archived") == {"archived"}
    assert await keys(state="running") == {"running"}
    assert await keys(state="paused") == set()
    assert isinstance((await experiments.get("archived")).state, Archived)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 501}, "limit"),
        ({"after": "a\0"}, "after"),
        ({"after": ""}, "after"),
    ],
)
async def test_a_page_that_cannot_be_is_refused_by_field(experiments, arguments, field):
    with pytest.raises(InvalidInput) as caught:
        await experiments.list(**arguments)
    assert caught.value.errors[0].field == field


async def test_epochs_are_recorded_from_the_start_on(experiments, engine):
    made = await experiments.create(definition())
    await experiments.change(made.key, DefinitionChange(policy=ThompsonPolicy(exploration_floor=0.1)))
    await experiments.start(made.key)
    await experiments.change(made.key, DefinitionChange(policy=HALVES, description="to halves"))
    await experiments.change(made.key, DefinitionChange(description="still halves"))
    await experiments.pause(made.key)
    await experiments.change(made.key, DefinitionChange(policy=ThompsonPolicy(exploration_floor=0.2)))
    last = await experiments.resume(made.key)
    async with engine.connect() as connection:
        rows = (await connection.execute(select(epochs).order_by(epochs.c.epoch))).all()
    assert last.epoch == 3
    assert [(row.epoch, row.policy["kind"], row.policy.get("exploration_floor")) for row in rows] == [
        (1, "thompson", 0.1),
        (2, "fixed", None),
        (3, "thompson", 0.2),
    ]
    assert rows[0].started_at < rows[1].started_at < rows[2].started_at


async def test_every_change_counts_and_is_announced_and_no_change_is_not(experiments, announced, engine):
    made = await experiments.create(definition())
    await experiments.start(made.key)
    await experiments.change(made.key, DefinitionChange(description="why"))
    same = await experiments.change(made.key, DefinitionChange(description="why", unit="request"))
    with pytest.raises(Conflict):
        await experiments.start(made.key)
    assert same.revision == 3
    assert announced == [made.id] * 3
    assert await wanted(engine, made.id) == 3


async def test_concurrent_changes_all_hold_and_number_themselves_without_a_gap(experiments, engine):
    made = await experiments.create(definition(targeting=()))
    changes = [DefinitionChange(description=f"number {number}") for number in range(10)]
    changes += [DefinitionChange(overrides={f"unit-{number}": "short"}) for number in range(10)]
    done = await asyncio.gather(*(experiments.change(made.key, one) for one in changes))
    assert sorted(experiment.revision for experiment in done) == list(range(2, 22))
    last = await experiments.get(made.key)
    final = max(done, key=lambda experiment: experiment.revision)
    assert last == final
    assert await wanted(engine, made.id) == 21


async def test_concurrent_starts_start_it_once(experiments):
    made = await experiments.create(definition())
    done = await asyncio.gather(*(experiments.start(made.key) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in done].count(Conflict) == 4
    assert (await experiments.get(made.key)).revision == 2


async def test_a_winner_is_one_of_the_variants_or_none(experiments):
    made = await experiments.create(definition())
    await experiments.start(made.key)
    with pytest.raises(UnprocessableInput):
        await experiments.stop(made.key, "long")
    stopped = await experiments.stop(made.key, "short")
    assert isinstance(stopped.state, Stopped)
    assert stopped.state.winner == "short"


async def test_a_change_stands_even_when_it_cannot_be_published(engine):
    async def away(_: int) -> None:
        raise ConnectionError("nobody there")

    experiments = ExperimentService(ExperimentStore(engine), SystemClock(), away)
    made = await experiments.create(definition())
    await experiments.start(made.key)
    assert (await experiments.get(made.key)).revision == 2
    assert await wanted(engine, made.id) == 2


async def test_on_change_is_called_after_the_commit(engine):
    seen = []

    async def look(experiment_id: int) -> None:
        async with engine.connect() as connection:
            query = text("SELECT revision FROM experiments WHERE id = :id")
            seen.append((await connection.execute(query, {"id": experiment_id})).scalar_one())

    experiments = ExperimentService(ExperimentStore(engine), SystemClock(), look)
    made = await experiments.create(definition())
    await experiments.start(made.key)
    assert seen == [1, 2]


async def test_a_change_and_the_writer_of_allocations_never_wait_for_each_other(experiments, engine):
    """Who allocates locks the publication, then by foreign key the experiment; a change the reverse."""
    made = await experiments.create(definition())
    allocate = text(
        "INSERT INTO allocations (experiment_id, version, epoch, weights)"
        " VALUES (:id, :version, 1, ARRAY[0, 4294967296])"
    )
    for version in range(1, 4):
        async with engine.begin() as connection:
            lock = select(publications).where(publications.c.experiment_id == made.id).with_for_update()
            await connection.execute(lock)
            change = asyncio.create_task(
                experiments.change(made.key, DefinitionChange(description=f"number {version}"))
            )
            await until_a_session_waits_for_a_lock(engine)
            await connection.execute(allocate, {"id": made.id, "version": version})
        await change
    assert (await experiments.get(made.key)).revision == 4


async def until_a_session_waits_for_a_lock(engine) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(10), engine.connect() as connection:
        while (await connection.execute(waiting)).scalar_one() == 0:
            await connection.rollback()  # a transaction would see the same activity again
            await asyncio.sleep(0.01)


async def test_a_warm_start_needs_an_experiment_that_is_there(experiments, announced):
    warm = ThompsonPolicy(warm_start=WarmStart(experiment="before"))
    await experiments.create(definition("after"))
    for attempt in (
        experiments.create(definition("warm", policy=warm)),
        experiments.change("after", DefinitionChange(policy=warm)),
    ):
        with pytest.raises(UnprocessableInput, match="no experiment is called 'before'") as caught:
            await attempt
        assert [error.field for error in caught.value.errors] == ["policy.warm_start.experiment"]
    await experiments.create(definition("before"))
    assert (await experiments.change("after", DefinitionChange(policy=warm))).definition.policy == warm
    assert (await experiments.create(definition("warm", policy=warm))).definition.policy == warm


def in_layer(key: str, start: float, end: float, **fields) -> Definition:
    return definition(key, layer=LayerRange("answers", start, end), **fields)


async def test_a_range_of_a_layer_belongs_to_one_experiment_from_its_start_to_its_end(experiments):
    for one in (in_layer("a", 0, 0.3), in_layer("b", 0.3, 0.6), in_layer("c", 0.2, 0.4)):
        await experiments.create(one)
    await experiments.start("a")
    await experiments.start("b")
    with pytest.raises(Conflict) as caught:
        await experiments.start("c")
    assert [(error.field, error.reason) for error in caught.value.errors] == [
        ("layer", "a holds [0, 0.3) of answers"),
        ("layer", "b holds [0.3, 0.6) of answers"),
    ]
    layer = await experiments.layer("answers")
    assert [(one.experiment, one.start, one.end) for one in layer.held] == [("a", 0, 0.3), ("b", 0.3, 0.6)]
    assert layer.free == ((0.6, 1.0),)
    await experiments.pause("a")
    with pytest.raises(Conflict, match="a holds"):
        await experiments.start("c")
    await experiments.stop("a")
    await experiments.stop("b")
    assert isinstance((await experiments.start("c")).state, Running)
    assert (await experiments.layer("answers")).free == ((0.0, 0.2), (0.4, 1.0))
    assert (await experiments.layer("nobody")).free == ((0.0, 1.0),)


async def test_a_layer_keeps_units_of_one_kind_apart_and_is_fixed_at_the_start(experiments):
    await experiments.create(in_layer("a", 0, 0.3, unit="user"))
    await experiments.create(in_layer("b", 0.3, 0.6, unit="session"))
    await experiments.start("a")
    with pytest.raises(Conflict, match="a randomises user"):
        await experiments.start("b")
    with pytest.raises(Conflict, match="layer cannot change while running"):
        await experiments.change("a", DefinitionChange(layer=None))
    await experiments.change("b", DefinitionChange(layer=None))
    await experiments.start("b")


async def test_of_starts_at_once_one_gets_the_range(experiments):
    keys = [f"e{number}" for number in range(6)]
    for key in keys:
        await experiments.create(in_layer(key, 0.1, 0.5))
    came = await asyncio.gather(*(experiments.start(key) for key in keys), return_exceptions=True)
    assert sum(isinstance(one, Conflict) for one in came) == 5
    assert len((await experiments.layer("answers")).held) == 1
