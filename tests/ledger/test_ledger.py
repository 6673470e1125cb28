"""The ledger on real PostgreSQL: whatever the order, repeats and batches, totals are those of the model."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.experiments.plan import Segments
from app.experiments.policies import (
    Exp3IxPolicy,
    LinTsPolicy,
    LinUcbPolicy,
    LogisticTsPolicy,
    SegmentedThompsonPolicy,
    ThompsonPolicy,
)
from app.experiments.policies.forgetting import Window
from app.experiments.reward import Reward, RewardSignal
from app.feedback.model import Source
from app.ledger.learning.model import Key, RewardSums, Rows, Seen, learning_of
from app.ledger.learning.step import delete_forgotten
from app.ledger.log.batch import StreamEntry, stage
from app.ledger.rebuild import Difference, rebuild_totals
from app.ledger.store import LedgerStore
from bandits.features import Boolean, Categorical, Numeric
from tests.ledger.support import (
    T0_MS,
    Assigned,
    Model,
    Said,
    create_experiment,
    execute,
    exposures,
    moment,
    numbered,
    open_epoch,
    rows,
    shuffled,
    signals,
    stored_learned,
    stored_states,
    stored_totals,
)

pytestmark = pytest.mark.anyio

REWARDS = {
    1: Reward(signals={"up": 1.0, "down": 0.0}, combine="last", horizon_s=0.05, silence=None),
    2: Reward(
        signals={"up": 3.0, "down": -1.5}, combine="sum", range=(-2.0, 5.0), horizon_s=0.1, silence=0.25
    ),
    3: Reward(signals={"up": 7.0, "down": 2.0}, combine="max", range=(1.0, 8.0), horizon_s=0.02, silence=0.0),
    4: Reward(
        signals={
            "up": RewardSignal(weight=2.0, range=(0.0, 4.0)),
            "down": RewardSignal(weight=-0.5, reference=2.0),
        },
        combine="mean",
        required=("up",),
        horizon_s=0.05,
        silence=0.125,
    ),
}
# What the contexts of the tests hold is the assignment's number; a context without fit comes to nothing.
NUMBER = Numeric("number", location=3.0, scale=7.0)
POLICIES = {
    (1, 1): LinTsPolicy(features=(NUMBER,)),
    (1, 2): LinUcbPolicy(features=(Boolean("number"),)),
    (2, 1): ThompsonPolicy(),
    (3, 1): Exp3IxPolicy(eta=0.2),
    (3, 2): ThompsonPolicy(forgetting=Window(60.0)),
    (1, 3): SegmentedThompsonPolicy(by=(Segments("number", ("1", "2", "3")), Segments("device", ("phone",)))),
    (2, 2): LogisticTsPolicy(features=(NUMBER, Categorical("device", ("phone",), other_column=True))),
}
VALUES = {
    "last": [0.0, 0.25, 0.3, 1.0],
    "sum": [-3.0, -0.1, 0.7, 9.9, 100.0],
    "max": [1.0, 2.2, 7.75],
    "mean": [0.0, 1.0, 2.0, 4.0],
}


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Assigned], list[Said], Random]:
    """Assignments of a few units in four experiments, and what was said about them."""
    assigned = [
        Assigned(
            experiment_id=draw(st.integers(1, 4)),
            unit=draw(st.integers(-2, 2)),
            number=number,
            at_ms=draw(st.integers(0, 120)),
            variant=draw(st.integers(0, 1)),
            epoch=draw(st.integers(1, 3)),
        )
        for number in range(draw(st.integers(1, 12)))
    ]
    said = []
    for number in range(draw(st.integers(0, 25))):
        target = draw(st.sampled_from(assigned))
        reward = REWARDS[target.experiment_id]
        said.append(
            Said(
                about=draw(st.sampled_from([target, target, target.unit])),
                experiment_id=target.experiment_id,
                signal=draw(st.sampled_from(["up", "down", "latency"])),
                source=draw(st.sampled_from([Source.EXPLICIT, Source.AUTOMATED])),
                value=draw(st.sampled_from(VALUES[reward.combine])),
                at_ms=target.at_ms + draw(st.integers(-10, 120) | st.integers(-60_010, -59_990)),
                id=draw(st.sampled_from([None, None, f"id-{number}"])),
            )
        )
    return assigned, said, Random(draw(st.integers(0, 2**32)))


def delivered(assigned: Sequence[Assigned], said: Sequence[Said], random: Random) -> list[StreamEntry]:
    """Every event once or twice, in any order, cut anyhow."""
    events = [*assigned, *said]
    entries = []
    waiting = shuffled(events + [one for one in events if random.random() < 0.4], random)
    while waiting:
        size = random.randint(1, 6)
        taken, waiting = waiting[:size], waiting[size:]
        if exposed := [one for one in taken if isinstance(one, Assigned)]:
            entries.append(exposures(exposed))
        if spoken := [one for one in taken if isinstance(one, Said)]:
            entries.append(signals(spoken))
    return numbered(entries)


async def deliver(store: LedgerStore, shard: int, entries: Sequence[StreamEntry], random: Random) -> None:
    lease = await store.acquire(shard, "test")
    assert lease is not None
    entries = list(entries)
    while entries:
        size = random.randint(1, 4)
        batch, entries = entries[:size], entries[size:]
        lease, _ = await store.apply(lease, stage(batch), batch, moment(random.randint(0, 150)))
        if random.random() < 0.3:
            await store.sweep()
    await store.renew(lease, moment(150))


async def forget_everything(store: LedgerStore) -> None:
    await store._connection.execute(
        "TRUNCATE assignments, signals, unit_signals, totals, stream_positions, dead_letters, publications,"
        " overdue_assignments, policy_totals, unit_totals, metric_totals, metric_series, share_totals,"
        " draws, signal_totals"
    )
    await store._connection.execute("UPDATE horizons SET swept_until = '-infinity'")


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[LedgerStore, LedgerStore]]:
    """Two sessions, as of two consumers."""
    for number, reward in REWARDS.items():
        assert create_experiment(database_url, f"experiment-{number}", reward) == number
    for key, policy in POLICIES.items():
        open_epoch(database_url, *key, policy)
    async with LedgerStore.open(database_url) as first, LedgerStore.open(database_url) as second:
        yield first, second


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories(), never_exposed=st.sets(st.integers(0, 11), max_size=3))
async def test_totals_do_not_depend_on_order_repeats_batches_or_shards(
    database_url: str,
    stores: tuple[LedgerStore, LedgerStore],
    history: tuple[list[Assigned], list[Said], Random],
    never_exposed: set[int],
) -> None:
    assigned, said, random = history
    exposed = [one for one in assigned if one.number not in never_exposed]
    await forget_everything(stores[0])
    entries = delivered(exposed, said, random)
    shards: tuple[list[StreamEntry], list[StreamEntry]] = [], []
    for entry in entries:
        random.choice(shards).append(entry)
    await asyncio.gather(
        *(deliver(store, shard, shards[shard], Random(random.random())) for shard, store in enumerate(stores))
    )
    while (await stores[0].sweep())[0]:
        pass
    assert stored_totals(database_url) == Model(REWARDS).totals(exposed, said, silent_until_ms=150)
    assert learned_of_rewards(database_url) == expected_learned(
        Model(REWARDS).rewards(exposed, said, silent_until_ms=150)
    )
    assert stored_states(database_url) == Model(REWARDS).states(exposed, said)
    assert await rebuild_totals(database_url) == []


def learned_of_rewards(database_url: str) -> dict[Key, bytes]:
    """What policies learned; rows that came to nothing again are as good as none."""
    nothing = {learning_of(policy).empty.to_bytes() for policy in POLICIES.values() if learning_of(policy)}
    return {key: body for key, body in stored_learned(database_url).items() if body not in nothing}


def expected_learned(rewards: Iterable[tuple[Assigned, Any]]) -> dict[Key, bytes]:
    """All rewards of a variant at once, in any order."""
    found: dict[Key, Rows] = {}
    for one, reward in rewards:
        learning = learning_of(POLICIES.get((one.experiment_id, one.epoch), ThompsonPolicy()))
        if learning is None or reward in {None, "censored"}:
            continue
        seen = Seen({"number": one.number}, 0.5, (T0_MS + one.at_ms) * 1_000)
        x = learning.row(seen)
        if x is not None:
            some = found.setdefault(
                (one.experiment_id, one.epoch, one.variant, learning.part(seen)), Rows([], [])
            )
            some.given.append(x)
            some.rewards.append(reward)
    return {key: learning_of(POLICIES[key[:2]]).of_rows(some).to_bytes() for key, some in found.items()}


async def test_rewards_that_swap_move_what_is_learned_and_want_a_publication(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    """Two assignments of a variant exchange their rewards: its totals stay, its regression turns over."""
    pair = [Assigned(experiment_id=1, unit=number, number=number, at_ms=0, variant=0) for number in (1, 9)]
    first = [Said(one, 1, "up", Source.EXPLICIT, value, 1) for one, value in zip(pair, (0, 1), strict=True)]
    then = [Said(one, 1, "up", Source.EXPLICIT, value, 2) for one, value in zip(pair, (1, 0), strict=True)]
    entries = numbered([exposures(pair), signals(first), signals(then)])
    lease = await stores[0].acquire(0, "test")
    lease, _ = await stores[0].apply(lease, stage(entries[:2]), entries[:2], moment(0))
    before = stored_totals(database_url), rows(database_url, "SELECT wanted FROM publications")
    lease, changed = await stores[0].apply(lease, stage(entries[2:]), entries[2:], moment(0))

    assert stored_totals(database_url) == before[0]
    assert changed == [1]
    assert rows(database_url, "SELECT wanted FROM publications")[0][0] == before[1][0][0] + 1
    given = zip(pair, (10**9, 0), strict=True)
    assert learned_of_rewards(database_url) == expected_learned(given)


async def test_what_a_policy_forgets_is_kept_by_the_minute_of_the_assignment(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    """Assigned 1 ms before and at the turn of a minute; both signals come after it."""
    pair = [Assigned(experiment_id=3, unit=1, number=at, at_ms=at, variant=0, epoch=2) for at in (59, 60)]
    said = [
        Said(pair[0], 3, "up", Source.EXPLICIT, 8.0, 62),
        Said(pair[1], 3, "up", Source.EXPLICIT, 4.5, 62),
    ]
    await deliver(stores[0], 0, numbered([exposures(pair), signals(said)]), Random(1))

    turn = (T0_MS + 60) // 1_000
    assert turn % 60 == 0
    assert learned_of_rewards(database_url) == {
        (3, 2, 0, f"00{turn - 60}"): RewardSums(1, 10**9, 10**18).to_bytes(),
        (3, 2, 0, f"00{turn}"): RewardSums(1, 10**9 // 2, 10**18 // 4).to_bytes(),
    }
    assert await rebuild_totals(database_url) == []


async def test_what_no_policy_can_read_any_more_is_deleted_and_a_rebuild_agrees(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    """One assignment of long ago, whose reward is revised after that, and one of now."""
    now_ms = time.time_ns() // 1_000_000 - T0_MS
    old, new = (
        Assigned(experiment_id=3, unit=1, number=number, at_ms=at_ms, variant=0, epoch=2)
        for number, at_ms in enumerate((0, now_ms))
    )
    said = [Said(one, 3, "up", Source.EXPLICIT, 4.5, one.at_ms + 1) for one in (old, new)]
    await deliver(stores[0], 0, numbered([exposures([old, new]), signals(said)]), Random(1))
    before = stored_learned(database_url)

    assert await stores[0].transact(delete_forgotten) == 1
    assert await stores[0].transact(delete_forgotten) == 0

    (kept,) = stored_learned(database_url).items()
    assert kept == max(before.items())
    assert await rebuild_totals(database_url) == []
    assert stored_learned(database_url) == dict([kept])
    revised = Said(old, 3, "up", Source.EXPLICIT, 8.0, old.at_ms + 2)
    await deliver(stores[0], 0, numbered([signals([revised])], 9), Random(1))
    assert len(stored_learned(database_url)) == 2
    assert await rebuild_totals(database_url) == []
    assert await stores[0].transact(delete_forgotten) == 1
    execute(database_url, "UPDATE policy_totals SET body = ''")
    assert await rebuild_totals(database_url) == [Difference("policy_totals", 3, 2, 0)]
    assert stored_learned(database_url) == dict([kept])


async def test_a_rebuild_mends_what_policies_learned_and_the_ledger_does_not_stop_at_it(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    one = Assigned(experiment_id=1, unit=1, number=1, at_ms=0, variant=0)
    other = Assigned(experiment_id=1, unit=2, number=2, at_ms=0, variant=0)
    said = [Said(about, 1, "up", Source.EXPLICIT, 1.0, at_ms=1) for about in (one, other)]
    await deliver(stores[0], 0, numbered([exposures([one]), signals(said[:1])]), Random(1))
    execute(database_url, "UPDATE policy_totals SET body = 'nonsense'")
    await deliver(stores[0], 0, numbered([exposures([other]), signals(said[1:])], 9), Random(1))

    assert await rebuild_totals(database_url) == [Difference("policy_totals", 1, 1, 0)]
    assert stored_totals(database_url)[1, 1, 0][:2] == (2, 2)
    given = zip((one, other), (10**9, 10**9), strict=True)
    assert learned_of_rewards(database_url) == expected_learned(given)
    assert await rebuild_totals(database_url, [1]) == []


async def test_a_rebuild_finds_and_mends_what_is_wrong(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    one = Assigned(experiment_id=1, unit=1, number=1, at_ms=0, variant=0)
    said = [Said(one, 1, "up", Source.EXPLICIT, 1.0, at_ms=1)]
    await deliver(stores[0], 0, numbered([exposures([one]), signals(said)]), Random(1))
    right = stored_totals(database_url)
    execute(database_url, "UPDATE assignments SET reward = 5")
    execute(database_url, "UPDATE totals SET rewards = 7, reward_sum = 8")

    totals, *_, assignments = await rebuild_totals(database_url)

    assert totals.detail.startswith("(1, 7, 0, 8, ")
    assert str(assignments) == "experiment 1: a stored reward differed from its signals"
    assert stored_totals(database_url) == right
    assert await rebuild_totals(database_url, [1]) == []
