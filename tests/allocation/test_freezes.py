"""Broken data hold the allocation until a person overrides it: what freezes, what is held, what is lifted."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx2
import numpy as np
import pytest

from app.access.model import Scope
from app.allocation.freezes import Cause, Freeze, merged, unexcused
from app.allocation.routes import ROUTES
from app.assignment import snapshot
from app.assignment.bucketing import WHOLE
from app.core.valkey import registry_key
from app.experiments.lifecycle import DefinitionChange
from app.experiments.model import Definition, Variant
from app.experiments.policies import FixedPolicy, LinTsPolicy, UcbPolicy
from app.ledger.tables import policy_totals
from bandits.features import UNIT, Numeric
from bandits.linear import LinearTotals
from tests.support.api import KEYS, MASTER_KEY, api, bearer, keyring_of_scopes
from tests.support.totals import record

pytestmark = pytest.mark.anyio

VARIANTS = (Variant("control", control=True), Variant("short"))
EVEN = (WHOLE // 2, WHOLE // 2)
LEAK = Cause(kind="zero_weight", variant="short", size=100, detail="100 assignments to short")
STALE = Cause(
    kind="stale_totals", size=90, detail="events of the last 90 seconds may be missing", passing=True
)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def worse(cause: Cause, size: float) -> Cause:
    return Cause(
        kind=cause.kind, variant=cause.variant, size=size, detail=f"now {size:g}", passing=cause.passing
    )


# What freezes


def overridden(*causes: Cause) -> Freeze:
    return Freeze(since=AT, causes=causes, lifted_at=AT, lifted_by="ops", reason="known")


def test_what_was_overridden_freezes_again_once_it_is_twice_as_large():
    assert unexcused([worse(LEAK, 199)], [overridden(LEAK)]) == ()
    assert unexcused([worse(LEAK, 200)], [overridden(LEAK)]) == (worse(LEAK, 200),)


def test_an_override_covers_its_own_check_and_variant_alone():
    other = Cause(kind="zero_weight", variant="long", size=1, detail="1 assignment to long")
    ratio = Cause(kind="sample_ratio", size=0.01, detail="1 % more")
    assert unexcused([LEAK, other, ratio], [overridden(LEAK)]) == (other, ratio)


def test_what_passed_by_itself_was_not_overridden():
    passed = Freeze(since=AT, causes=(STALE,), lifted_at=AT, lifted_by=None, reason="passed")
    assert unexcused([STALE], [passed]) == (STALE,)


def test_a_freeze_keeps_each_cause_at_its_worst_and_lets_passing_ones_go():
    assert merged([LEAK, STALE], []) == (LEAK,)
    assert merged([LEAK], [worse(LEAK, 50), STALE]) == (STALE, LEAK)
    assert merged([LEAK, STALE], [worse(LEAK, 150), worse(STALE, 60)]) == (worse(STALE, 60), worse(LEAK, 150))


# What is held


@pytest.fixture
async def experiment(experiments, allocation):
    await experiments.create(Definition(key="summary", variants=VARIANTS))
    started = await experiments.start("summary")
    await allocation.reallocate(started.id)
    return started


async def served(valkey):
    return snapshot.decode(await valkey.hget(registry_key("experiments"), "summary"))


async def test_a_frozen_policy_holds_its_allocation_whatever_comes(
    allocation, engine, valkey, experiments, experiment
):
    await record(engine, experiment, (100, 30), (100, 60))
    await allocation.reallocate(experiment.id)
    before = await served(valkey)
    assert before.weights != EVEN
    await allocation.freeze(experiment.id, [LEAK])
    await record(engine, experiment, (1_000, 900), (1_000, 100))
    assert not await allocation.reallocate(experiment.id)
    assert await served(valkey) == before
    await experiments.pause("summary")  # serving goes on as people say
    await allocation.reallocate(experiment.id)
    paused = await served(valkey)
    assert (paused.state, paused.weights) == ("paused", before.weights)


async def test_an_override_lets_it_learn_again_at_once(allocation, engine, valkey, experiment):
    await allocation.freeze(experiment.id, [LEAK])
    await record(engine, experiment, (100, 30), (100, 60))
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).weights == EVEN
    lifted = await allocation.unfreeze("summary", "a known crawler", key_id=7)
    assert (lifted.reason, lifted.lifted_by, lifted.causes) == ("a known crawler", "key 7", (LEAK,))
    assert (await served(valkey)).weights != EVEN
    assert await allocation.freeze(experiment.id, [worse(LEAK, 150)]) is None
    assert (await allocation.freeze(experiment.id, [worse(LEAK, 250)])) is not None


async def test_finding_the_same_again_changes_nothing(allocation, experiment):
    first = await allocation.freeze(experiment.id, [LEAK])
    assert await allocation.freeze(experiment.id, [LEAK]) == first
    assert await allocation.freeze(experiment.id, []) == first
    assert (await allocation.freezes("summary")) == [first]


async def test_stale_totals_freeze_only_while_they_are_stale(allocation, engine, valkey, experiment):
    await allocation.freeze(experiment.id, [STALE])
    await record(engine, experiment, (100, 30), (100, 60))
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).weights == EVEN
    assert await allocation.freeze(experiment.id, []) is None
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).weights != EVEN
    (passed,) = await allocation.freezes("summary")
    assert (passed.lifted_by, passed.reason) == (None, "all its causes have passed")


async def test_a_fixed_policy_is_not_affected(allocation, experiments, valkey, experiment):
    await allocation.freeze(experiment.id, [LEAK])
    await experiments.change(
        "summary", DefinitionChange(policy=FixedPolicy({"control": 0.25, "short": 0.75}))
    )
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).weights == (WHOLE // 4, 3 * WHOLE // 4)


async def test_a_policy_set_while_frozen_begins_at_the_allocation_in_force(
    allocation, engine, experiments, valkey, experiment
):
    await record(engine, experiment, (100, 30), (100, 60))
    await allocation.reallocate(experiment.id)
    before = (await served(valkey)).weights
    await allocation.freeze(experiment.id, [LEAK])
    await experiments.change("summary", DefinitionChange(policy=UcbPolicy()))
    await allocation.reallocate(experiment.id)
    assert ((await served(valkey)).epoch, (await served(valkey)).weights) == (2, before)


async def test_a_contextual_policy_goes_on_deciding_by_what_it_believed(
    allocation, engine, experiments, valkey
):
    policy = LinTsPolicy(features=(Numeric("length"),))
    await experiments.create(Definition(key="summary", variants=VARIANTS, policy=policy))
    experiment = await experiments.start("summary")
    await allocation.reallocate(experiment.id)

    async def learn(reward: float) -> None:
        learned = LinearTotals.of_rows(np.array([[UNIT, UNIT // 2]]), np.array([reward]))
        row = {
            "experiment_id": experiment.id,
            "epoch": 1,
            "variant": 1,
            "part": "",
            "body": learned.to_bytes(),
        }
        async with engine.begin() as connection:
            await connection.execute(policy_totals.delete())
            await connection.execute(policy_totals.insert(), row)
        await record(engine, experiment)  # a publication is due

    await learn(1.0)
    await allocation.reallocate(experiment.id)
    before = (await served(valkey)).contextual
    await allocation.freeze(experiment.id, [LEAK])
    await learn(0.0)
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).contextual == before
    await valkey.flushall()
    await allocation.refill_if_lost()
    await allocation.reallocate(experiment.id)
    assert (await served(valkey)).contextual == before
    await allocation.unfreeze("summary", "checked", key_id=1)
    assert (await served(valkey)).contextual != before


async def test_a_freeze_outlives_a_rebuild(allocation, engine, valkey, experiment):
    await allocation.freeze(experiment.id, [LEAK])
    await record(engine, experiment, (100, 30), (100, 60))
    await allocation.rebuild(_nothing)
    assert (await served(valkey)).weights == EVEN


async def _nothing():
    return None


# Over HTTP


@pytest.fixture
async def client(allocation) -> AsyncIterator[httpx2.AsyncClient]:
    async with api(ROUTES, {"allocation_service": allocation}, keyring_of_scopes()) as client:
        client.headers.update(bearer(MASTER_KEY))
        yield client


async def test_who_overrides_needs_a_reason_and_a_freeze(client, allocation, experiment):
    path, reason = "/experiments/summary/unfreeze", {"reason": "a known crawler"}
    assert (await client.post(path, json=reason)).status_code == 409
    await allocation.freeze(experiment.id, [LEAK])
    for hostile in ({}, {"reason": ""}, {"reason": "x" * 1_001}, {"reason": "a\0b"}, {"reason": 1}, []):
        assert (await client.post(path, json=hostile)).status_code == 400, hostile
    assert (await client.post(path, json=reason, headers=bearer(KEYS[Scope.READ]))).status_code == 403
    answer = await client.post(path, json=reason)
    assert answer.status_code == 200
    assert answer.json()["reason"] == "a known crawler"
    listed = (await client.get("/experiments/summary/freezes")).json()["freezes"]
    assert listed == [answer.json()]
    assert listed[0]["causes"][0]["detail"] == LEAK.detail


@pytest.mark.parametrize("key", ["nobody", "a%00b", "x" * 200])
async def test_what_is_not_there_is_not_found(client, key):
    assert (await client.get(f"/experiments/{key}/freezes")).status_code in {400, 404}
    answer = await client.post(f"/experiments/{key}/unfreeze", json={"reason": "?"})
    assert answer.status_code in {400, 404}
