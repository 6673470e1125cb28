"""Totals become published weights: in order, once per change, and again after whatever died."""

import asyncio
import itertools
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest
from sqlalchemy import select

from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore, Publication, read_latest
from app.allocation.tables import allocations
from app.assignment import snapshot
from app.assignment.bucketing import WHOLE
from app.assignment.snapshot import published
from app.core.clock import SystemClock
from app.core.errors import Unavailable
from app.core.postgres import create_engine
from app.core.valkey import CHANGES_CHANNEL, registry_key
from app.experiments.lifecycle import DefinitionChange
from app.experiments.model import Definition, Variant
from app.experiments.policies import BestArmPolicy, FixedPolicy, LinTsPolicy, LinUcbPolicy, ThompsonPolicy
from app.experiments.policies.forgetting import Discount, Window
from app.experiments.policies.rule import WarmStart
from app.experiments.tables import publications
from app.ledger.learning.model import RewardSums, part_of_bucket
from app.ledger.rebuild import rebuild_totals
from app.ledger.tables import policy_totals
from bandits.features import UNIT, Numeric
from bandits.identification import Winner
from bandits.linear import LinearTotals
from tests.support.clocks import SettableClock
from tests.support.dying import Dying
from tests.support.totals import record

pytestmark = pytest.mark.anyio

VARIANTS = (Variant("control", control=True), Variant("short", payload={"model": "m-small"}))
EVEN = (WHOLE // 2, WHOLE // 2)


@pytest.fixture
async def experiment(experiments):
    await experiments.create(Definition(key="summary", variants=VARIANTS))
    return await experiments.start("summary")


async def reallocate_due(allocation):
    for experiment_id in await allocation.due():
        await allocation.reallocate(experiment_id)


async def served(valkey, key="summary"):
    """What servers load."""
    body = await valkey.hget(registry_key("experiments"), key)
    return None if body is None else snapshot.decode(body)


async def versions(engine, experiment):
    async with engine.connect() as connection:
        mine = select(allocations.c.version).where(allocations.c.experiment_id == experiment.id)
        return sorted((await connection.execute(mine)).scalars())


async def latest(engine, experiment):
    async with engine.connect() as connection:
        return await read_latest(connection, experiment.id)


async def test_a_new_experiment_is_due_and_published_with_an_even_split(allocation, valkey, experiment):
    assert await allocation.due() == [experiment.id]
    await allocation.reallocate(experiment.id)
    assert await served(valkey) == published(experiment, 1, EVEN)
    assert int(await valkey.hget(registry_key("versions"), "summary")) == 1 + experiment.revision
    assert await allocation.due() == []


async def test_better_totals_get_more_traffic_under_a_new_version(allocation, engine, valkey, experiment):
    await allocation.reallocate(experiment.id)
    await record(engine, experiment, (100, 30), (100, 60))
    assert await allocation.due() == [experiment.id]
    await allocation.reallocate(experiment.id)
    now = await served(valkey)
    assert now.policy_version == 2
    assert now.weights[1] > 0.9 * WHOLE
    assert sum(now.weights) == WHOLE
    assert (await latest(engine, experiment)).weights == now.weights


async def test_totals_are_summed_over_epochs(allocation, engine, valkey, experiment):
    await record(engine, experiment, (100, 30), (100, 60), epoch=1)
    await record(engine, experiment, (100, 60), (100, 30), epoch=2)
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).weights == pytest.approx(EVEN, abs=WHOLE * 1e-9)


async def test_what_does_not_move_the_weights_makes_no_version(allocation, engine, valkey, experiment):
    await allocation.reallocate(experiment.id)
    body = await valkey.hget(registry_key("experiments"), "summary")
    await record(engine, experiment, (0, 0), (0, 0), pending=7)
    await allocation.reallocate(experiment.id)
    assert await versions(engine, experiment) == [1]
    assert await valkey.hget(registry_key("experiments"), "summary") == body
    assert await allocation.due() == []


async def test_a_pause_reaches_the_servers_without_a_new_version(
    allocation, experiments, engine, valkey, experiment
):
    await allocation.reallocate(experiment.id)
    await experiments.pause("summary")
    await allocation.reallocate(experiment.id)
    now = await served(valkey)
    assert (now.state, now.policy_version) == ("paused", 1)
    assert await versions(engine, experiment) == [1]


async def test_new_fixed_weights_open_an_epoch_and_are_published(
    allocation, experiments, engine, valkey, experiment
):
    await allocation.reallocate(experiment.id)
    policy = FixedPolicy({"control": 0.25, "short": 0.75})
    await experiments.change("summary", DefinitionChange(policy=policy))
    await record(engine, experiment, (100, 90), (100, 10))
    await allocation.reallocate(experiment.id)
    now = await served(valkey)
    assert (now.epoch, now.policy_version, now.weights) == (2, 2, (WHOLE // 4, 3 * WHOLE // 4))


async def test_an_experiment_that_is_gone_is_passed_over(allocation):
    await allocation.reallocate(999)


async def test_every_order_of_publications_ends_with_the_newest(store, valkey, experiment):
    """All interleavings of three publications, each of which may be repeated after any other."""
    states = [published(experiment, version, (WHOLE - version, version)) for version in (1, 2, 3)]
    for order in itertools.permutations([*states, *states]):
        await valkey.flushall()
        newest = 0
        for state in order:
            answer = await store.publish(state)
            if state.policy_version < newest:
                assert answer is Publication.KEPT_NEWER
            elif state.policy_version == newest:
                assert answer is Publication.UNCHANGED
            else:
                assert answer is Publication.PUBLISHED
                newest = state.policy_version
        assert await served(valkey) == states[-1]


async def test_each_publication_is_announced_once(store, valkey, experiment):
    async with valkey.pubsub() as changes:
        await changes.subscribe(CHANGES_CHANNEL)
        for version in (2, 1, 2, 3):
            await store.publish(published(experiment, version, EVEN))
        await valkey.publish(CHANGES_CHANNEL, "end")
        heard = []
        async with asyncio.timeout(10):
            async for message in changes.listen():
                if message["type"] == "message":
                    heard.append(message["data"].decode())
                if heard[-1:] == ["end"]:
                    break
    assert heard == ["summary", "summary", "end"]
    assert int(await valkey.get(registry_key("revision"))) == 2


async def test_without_valkey_the_version_is_kept_and_published_later(
    allocation, unreachable, engine, valkey, experiment
):
    await record(engine, experiment, (100, 30), (100, 60))
    with pytest.raises(Unavailable):
        await unreachable.reallocate(experiment.id)
    committed = await latest(engine, experiment)
    assert await served(valkey) is None
    assert await allocation.due() == [experiment.id]
    await allocation.reallocate(experiment.id)
    assert await versions(engine, experiment) == [1]
    assert (await served(valkey)).weights == committed.weights
    assert await allocation.due() == []


async def test_dying_at_any_step_loses_nothing_and_skips_no_version(allocation, engine, valkey, experiment):
    """A reallocation is cancelled at ever later waits, before or after the answer, until one gets through."""
    for number, answered in itertools.product(range(1, 1_000), (False, True)):
        await record(engine, experiment, (10, 3), (10, 4 + number % 3))
        dying = Dying(allocation.reallocate(experiment.id), number, answered=answered)
        await asyncio.gather(dying.task, return_exceptions=True)
        await reallocate_due(allocation)
        now, committed = await served(valkey), await latest(engine, experiment)
        assert (now.policy_version, now.weights) == (committed.version, committed.weights)
        assert await allocation.due() == []
        if dying.waits < number:
            break
    assert number > 10, "several waits of a transaction, of which each was cut off"
    history = await versions(engine, experiment)
    assert history == list(range(1, len(history) + 1))


async def test_two_workers_make_one_sequence_of_versions(
    allocation, database_url, engine, valkey, experiment
):
    other_engine = create_engine(database_url)
    other = AllocationService(AllocationStore(other_engine, valkey), SystemClock())
    for round_number in range(20):
        await asyncio.gather(
            record(engine, experiment, (10, 4), (10, 4 + round_number % 2)),
            *(worker.reallocate(experiment.id) for worker in (allocation, other, allocation, other)),
        )
    await reallocate_due(other)
    await other_engine.dispose()
    history, now, committed = (
        await versions(engine, experiment),
        await served(valkey),
        await latest(engine, experiment),
    )
    assert history == list(range(1, len(history) + 1))
    assert (now.policy_version, now.weights) == (history[-1], committed.weights)


async def test_what_valkey_lost_comes_back_with_equal_bytes(
    allocation, experiments, engine, valkey, experiment
):
    await experiments.create(Definition(key="other", variants=VARIANTS))
    await record(engine, experiment, (100, 30), (100, 37))
    assert await allocation.refill_if_lost() == 2, "a new Valkey gets what is defined"
    await reallocate_due(allocation)
    assert await allocation.refill_if_lost() is None
    before = await valkey.hgetall(registry_key("experiments"))
    await valkey.flushall()
    await allocation.reallocate((await experiments.get("other")).id)
    assert await allocation.refill_if_lost() == 2, "also where one publication came before the look"
    assert await allocation.due() == []
    assert await valkey.hgetall(registry_key("experiments")) == before
    assert set(before) == {b"summary", b"other"}
    assert await allocation.refill_if_lost() is None


async def test_a_version_postgresql_never_knew_gives_way(allocation, store, engine, valkey, experiment):
    """PostgreSQL was put back to a backup; servers must not stay with what came after it."""
    await store.publish(published(experiment, 50, (1, WHOLE - 1)))
    await allocation.reallocate(experiment.id)
    now = await served(valkey)
    assert (now.policy_version, now.weights) == (1, EVEN)


async def test_a_version_from_a_colleague_does_not_give_way(allocation, store, engine, valkey, experiment):
    """Somebody else was faster between our commit and our publication."""
    await allocation.reallocate(experiment.id)
    old = await served(valkey)
    await record(engine, experiment, (100, 30), (100, 60))
    await allocation.reallocate(experiment.id)
    assert await store.publish(old) is Publication.KEPT_NEWER
    assert (await served(valkey)).policy_version == 2


async def test_a_rebuild_of_what_is_sound_changes_no_bit(
    allocation, experiments, database_url, valkey, experiment
):
    await experiments.create(Definition(key="other", variants=VARIANTS))
    await reallocate_due(allocation)
    before = await valkey.hgetall(registry_key("experiments"))
    await valkey.flushall()
    rebuilt = await allocation.rebuild(partial(rebuild_totals, database_url))
    assert rebuilt.equal, rebuilt
    assert await valkey.hgetall(registry_key("experiments")) == before


async def test_a_rebuild_tells_what_was_wrong_and_rights_it(
    allocation, experiments, database_url, engine, valkey, experiment
):
    """Totals of which the log knows nothing had moved the weights."""
    await experiments.create(Definition(key="other", variants=VARIANTS))
    await record(engine, experiment, (100, 30), (100, 60))
    await reallocate_due(allocation)
    assert (await served(valkey)).weights != EVEN
    rebuilt = await allocation.rebuild(partial(rebuild_totals, database_url))
    assert not rebuilt.equal
    assert {difference.experiment_id for difference in rebuilt.ledger} == {experiment.id}
    assert rebuilt.weights == (experiment.id,)
    assert (await served(valkey)).weights == EVEN


async def test_a_rebuild_rights_weights_that_were_changed_behind_our_back(
    allocation, database_url, engine, valkey, experiment
):
    await allocation.reallocate(experiment.id)
    async with engine.begin() as connection:
        await connection.execute(allocations.update().values(weights=[1, WHOLE - 1]))
    rebuilt = await allocation.rebuild(partial(rebuild_totals, database_url))
    assert (rebuilt.ledger, rebuilt.weights) == ([], (experiment.id,))
    assert (await served(valkey)).weights == EVEN


BEST_ARM = BestArmPolicy(delta=0.05)


async def test_a_best_arm_once_decided_serves_alone_whatever_comes(
    allocation, experiments, database_url, engine, valkey, experiment
):
    await experiments.change("summary", DefinitionChange(policy=BEST_ARM))
    await record(engine, experiment, (110, 13), (110, 94), epoch=2)
    await allocation.reallocate(experiment.id)
    assert min((await served(valkey)).weights) > 0, "the readout decides, not the policy"
    winner = Winner(1, 220.0, 9.0, 3.0)
    assert not await allocation.conclude(experiment.id, 1, winner), "a readout of the rule before"
    assert await allocation.conclude(experiment.id, 2, winner)
    assert not await allocation.conclude(experiment.id, 2, Winner(0, 9.0, 9.0, 3.0)), "one winner stands"
    assert await allocation.due() == [experiment.id]
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).weights == (0, WHOLE)

    await record(engine, experiment, (1_000, 900), (1_000, 100), epoch=2)  # as revisions might
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).weights == (0, WHOLE)
    assert (await latest(engine, experiment)).winner == winner
    # Another rule is another question.
    await experiments.change("summary", DefinitionChange(policy=BestArmPolicy(delta=0.01)))
    await allocation.reallocate(experiment.id)
    assert min((await served(valkey)).weights) > 0
    assert (await latest(engine, experiment)).winner is None


async def test_a_policy_that_decides_nothing_takes_no_winner(allocation, engine, experiment):
    await allocation.reallocate(experiment.id)
    assert not await allocation.conclude(experiment.id, 1, Winner(1, 220.0, 9.0, 3.0))
    assert not await allocation.conclude(10**6, 1, Winner(1, 220.0, 9.0, 3.0)), "an experiment that is gone"
    assert (await latest(engine, experiment)).winner is None


async def test_shares_move_by_at_most_a_step_for_each_update(
    allocation, experiments, database_url, engine, valkey, experiment
):
    await experiments.change(
        "summary", DefinitionChange(policy=ThompsonPolicy(step_max=0.125, exploration_floor=0.0))
    )
    await allocation.reallocate(experiment.id)
    await record(engine, experiment, (1_000, 100), (1_000, 900))
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).weights == (WHOLE * 3 // 8, WHOLE * 5 // 8)
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).weights == (WHOLE * 3 // 8, WHOLE * 5 // 8), "nothing new, no step"
    before = await valkey.hgetall(registry_key("experiments"))
    await valkey.flushall()
    assert await allocation.refill_if_lost()
    await reallocate_due(allocation)
    assert await valkey.hgetall(registry_key("experiments")) == before
    for _ in range(3):
        await record(engine, experiment, (0, 0), (0, 0), pending=1)
        await allocation.reallocate(experiment.id)
    assert (await served(valkey)).weights == (0, WHOLE)


async def test_a_posterior_that_changed_is_a_new_version_even_where_the_weights_stay(
    allocation, experiments, engine, valkey, experiment
):
    """And the epochs of the same features are read as one sample, those of others not."""
    policy = LinTsPolicy(features=(Numeric("length"),))
    await experiments.change("summary", DefinitionChange(policy=policy))
    await allocation.reallocate(experiment.id)
    nothing = await served(valkey)
    assert (nothing.policy_version, nothing.weights) == (1, EVEN)
    await learn(engine, experiment, epoch=2, contexts=[(UNIT, UNIT), (UNIT, -UNIT)], rewards=[1.0, 0.0])
    await allocation.reallocate(experiment.id)
    learned = await served(valkey)
    assert (learned.policy_version, learned.weights) == (2, EVEN)
    assert learned.contextual != nothing.contextual

    await experiments.change("summary", DefinitionChange(policy=LinUcbPolicy(features=policy.features)))
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).contextual.means == learned.contextual.means
    await experiments.change("summary", DefinitionChange(policy=LinTsPolicy(features=(Numeric("other"),))))
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).contextual.means == nothing.contextual.means


@pytest.mark.parametrize("forgetting", [Window(480.0), Discount(480.0)])
async def test_what_was_best_is_forgotten_as_time_passes_without_any_event(
    store, experiments, engine, valkey, experiment, forgetting
):
    """The second variant was best long ago, the first is now: with time only the first's rewards count."""
    clock = SettableClock(datetime(2026, 1, 1, tzinfo=UTC))
    allocation = AllocationService(store, clock)
    policy = ThompsonPolicy(forgetting=forgetting, exploration_floor=0.0)
    await experiments.change("summary", DefinitionChange(policy=policy))
    await remember(engine, experiment, clock, (100, 30), (100, 50))
    clock.forward(480)
    await remember(engine, experiment, clock, (40, 24), (40, 16))
    await reallocate_due(allocation)
    first = await served(valkey)
    assert await allocation.due() == []

    clock.forward(59)
    assert await allocation.due() == [], "the bucket is the same"
    clock.forward(1)
    await reallocate_due(allocation)
    second = await served(valkey)
    assert second.weights[0] > first.weights[0]
    assert second.policy_version == first.policy_version + 1
    assert await allocation.due() == []

    before = await valkey.hgetall(registry_key("experiments"))
    await valkey.flushall()
    assert await allocation.refill_if_lost()
    await reallocate_due(allocation)
    assert await valkey.hgetall(registry_key("experiments")) == before

    clock.forward(480 * 21)
    await reallocate_due(allocation)
    assert (await served(valkey)).weights == EVEN
    clock.forward(480 * 21)
    assert await allocation.due() == [], "there is nothing left to forget"


async def remember(engine, experiment, clock, *observed):
    """As the ledger does, `(rewards, successes)` of assignments at this time; totals are not touched."""
    part = part_of_bucket(int(clock.now().timestamp()) // 60 * 60)
    async with engine.begin() as connection:
        for variant, (n, won) in enumerate(observed):
            body = RewardSums(n, won * 10**9, won * 10**18).to_bytes()
            row = {"experiment_id": experiment.id, "epoch": 2, "variant": variant, "part": part, "body": body}
            await connection.execute(policy_totals.insert().values(row))
        await connection.execute(publications.update().values(wanted=publications.c.wanted + 1))


async def learn(engine, experiment, *, epoch, contexts, rewards):
    """As the ledger does, of the first variant."""
    totals = LinearTotals.of_rows(np.array(contexts), np.array(rewards))
    async with engine.begin() as connection:
        row = {"experiment_id": experiment.id, "epoch": epoch, "variant": 0, "part": ""}
        await connection.execute(policy_totals.insert().values(row | {"body": totals.to_bytes()}))
        await connection.execute(publications.update().values(wanted=publications.c.wanted + 1))


async def test_a_warm_start_begins_with_what_the_other_experiment_knew_at_the_start(
    allocation, experiments, engine, valkey, experiment
):
    """Variants are matched by key; what the other learns later, or has revised, does not move the prior."""
    policy = ThompsonPolicy(warm_start=WarmStart(experiment="summary"))
    variants = (Variant("long"), *VARIANTS)
    await experiments.create(Definition(key="next", variants=variants, policy=policy))
    await reallocate_due(allocation)
    drafted = (await served(valkey, "next")).weights
    assert drafted == pytest.approx([WHOLE / 3] * 3, abs=1)
    await record(engine, experiment, (100, 10), (100, 90))
    started = await experiments.start("next")
    await allocation.reallocate(started.id)
    begun = await served(valkey, "next")
    long, control, short = begun.weights
    assert short > 0.8 * WHOLE, "a draft does not fix what it begins with"
    assert long > control
    await record(engine, experiment, (1_000, 1_000), (1_000, 0))
    await record(engine, started, (0, 0), (0, 0), (0, 0))
    await allocation.reallocate(started.id)
    assert await served(valkey, "next") == begun
    softer = ThompsonPolicy(warm_start=WarmStart(experiment="summary", discount=0.5))
    await experiments.change("next", DefinitionChange(policy=softer))
    await allocation.reallocate(started.id)
    assert (await served(valkey, "next")).weights[1] > 0.8 * WHOLE, "a new policy begins anew"
