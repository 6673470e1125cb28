"""The ledger's sums of draws and their probabilities, against a count in plain Python."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from app.experiments.policies import FixedPolicy, Policy, ThompsonPolicy
from app.experiments.reward import Reward
from app.feedback.model import Source
from app.ledger.rebuild import Difference, rebuild_totals
from app.ledger.store import LedgerStore
from tests.ledger.support import (
    Assigned,
    Said,
    assignment_order,
    create_experiment,
    execute,
    exposures,
    numbered,
    open_epoch,
    rows,
    shuffled,
    signals,
)
from tests.ledger.test_ledger import deliver

pytestmark = pytest.mark.anyio

WHOLE = 2**32
EPOCHS: dict[int, Policy] = {1: ThompsonPolicy(), 2: FixedPolicy({"control": 0.5, "other": 0.5})}
VERSIONS = {1: (1, WHOLE // 2), 2: (1, WHOLE // 8), 3: (2, WHOLE // 2), 4: (1, 0)}
"""Of each version its epoch and the weight of the first variant."""


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[LedgerStore, LedgerStore]]:
    """Two sessions, as of two consumers, and an experiment whose shares moved."""
    assert create_experiment(database_url, "moving", Reward()) == 1
    for epoch, policy in EPOCHS.items():
        open_epoch(database_url, 1, epoch, policy)
    for version, (epoch, weight) in VERSIONS.items():
        execute(
            database_url,
            "INSERT INTO allocations (experiment_id, version, epoch, weights)"
            f" VALUES (1, {version}, {epoch}, '{{{weight}, {WHOLE - weight}}}')",
        )
    async with LedgerStore.open(database_url) as first, LedgerStore.open(database_url) as second:
        yield first, second


def drawn(number: int, variant: int, version: int) -> Assigned:
    epoch = VERSIONS[version][0] if version in VERSIONS else 1
    return Assigned(1, number % 3, number, 0, variant, epoch, policy_version=version)


def stored(database_url: str) -> list[tuple[int, ...]]:
    found = rows(
        database_url, "SELECT epoch, variant, assignments, probability_sum FROM draws ORDER BY epoch, variant"
    )
    return [tuple(map(int, row)) for row in found]


async def test_draws_are_counted_once_beside_the_probabilities_of_their_versions(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    """By hand: three draws at 1/2, two at 1/8, one at 0. Those at fixed weights are in the totals anyway."""
    random = Random(20260140)
    events = [
        drawn(1, 0, 1),
        drawn(2, 1, 1),
        drawn(3, 1, 1),
        drawn(4, 0, 2),
        drawn(5, 1, 2),
        drawn(6, 0, 4),
        drawn(7, 0, 3),
        drawn(8, 0, 99),  # thinned away: left out, whatever it drew
    ]
    early = signals([Said(events[0], 1, "thumbs_up", Source.EXPLICIT, 1.0, 1)])
    unexposed = signals([Said(drawn(9, 1, 1), 1, "thumbs_up", Source.EXPLICIT, 1.0, 1)])
    entries = [early, unexposed, *(exposures([one]) for one in shuffled(events * 2, random))]
    shards = numbered(entries[::2]), numbered(entries[1::2])
    await asyncio.gather(
        *(deliver(store, shard, shards[shard], Random(shard)) for shard, store in enumerate(stores))
    )

    first = 3 * WHOLE // 2 + 2 * WHOLE // 8
    assert stored(database_url) == [(1, 0, 3, first), (1, 1, 3, 6 * WHOLE - first)]
    assert await rebuild_totals(database_url) == []  # version 99 is not known: left as it is


async def test_a_rebuild_mends_draws_of_versions_that_are_known(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    events = [drawn(number, number % 2, 1 + number % 2) for number in range(6)]
    await deliver(stores[0], 0, numbered([exposures(events)]), Random(1))
    right = stored(database_url)
    assert right == [(1, 0, 3, 3 * WHOLE // 2 + 3 * WHOLE // 8), (1, 1, 3, 33 * WHOLE // 8)]
    execute(database_url, "UPDATE draws SET assignments = 4 WHERE variant = 1")

    assert await rebuild_totals(database_url) == [Difference("draws", 1, 1, 1)]

    assert stored(database_url) == right
    assert await rebuild_totals(database_url) == []
    execute(database_url, "DELETE FROM allocations WHERE version = 2")
    execute(database_url, "UPDATE draws SET assignments = 4 WHERE variant = 1")
    assert await rebuild_totals(database_url) == []


@pytest.fixture
async def sticky(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> tuple[LedgerStore, LedgerStore]:
    """The same experiment, of which units are sticky."""
    sticking = "jsonb_set(definition::jsonb, '{stickiness}', '\"unit\"')"
    execute(database_url, f"UPDATE experiments SET definition = {sticking}")
    return stores


def first_draws(exposed: list[Assigned]) -> list[tuple[int, ...]]:
    """In plain Python: each unit's first exposed assignment, where its version's shares moved."""
    first: dict[int, Assigned] = {}
    for one in sorted(exposed, key=assignment_order):
        first.setdefault(one.unit, one)
    counts = {0: [0, 0], 1: [0, 0]}
    for one in first.values():
        if one.epoch == 1:
            weight = VERSIONS[one.policy_version][1]
            counts[one.variant][0] += 1
            counts[0][1] += weight
            counts[1][1] += WHOLE - weight
    return [(1, variant, *counts[variant]) for variant in (0, 1)]


@pytest.mark.parametrize("seed", range(8))
async def test_a_sticky_unit_is_drawn_for_once_with_its_first_exposure_in_the_experiment(
    database_url: str, sticky: tuple[LedgerStore, LedgerStore], seed: int
) -> None:
    """Whatever the order, the repeats, the batches and the shards; later epochs and signals add nothing."""
    random = Random(20260150 + seed)
    events = [
        Assigned(
            1, random.randrange(12), number, random.randrange(5), random.randrange(2), epoch, False, version
        )
        for number in range(60)
        for version in [random.choice([1, 1, 2, 2, 3])]
        for epoch in [VERSIONS[version][0]]
    ]
    said = [signals([Said(one, 1, "thumbs_up", Source.EXPLICIT, 1.0, one.at_ms + 1)]) for one in events[::3]]
    entries = shuffled([*(exposures([one]) for one in events * 2), *said], random)
    shards = numbered(entries[::2]), numbered(entries[1::2])
    await asyncio.gather(
        *(deliver(store, shard, shards[shard], Random(shard)) for shard, store in enumerate(sticky))
    )

    right = [row for row in first_draws(events) if row[2] or row[3]]
    assert [row for row in stored(database_url) if row[2] or row[3]] == right
    assert await rebuild_totals(database_url) == []
    execute(database_url, "UPDATE draws SET assignments = assignments + 1")
    assert {difference.table for difference in await rebuild_totals(database_url)} == {"draws"}
    assert [row for row in stored(database_url) if row[2] or row[3]] == right
