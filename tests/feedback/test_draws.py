"""The ledger's sums of draws and their probabilities, against a count in plain Python."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from app.experiments.model import FixedPolicy, Policy, Reward, ThompsonPolicy
from app.feedback.model import Source
from app.feedback.rebuild import DrawsDifference, Rebuilt, rebuild_totals
from app.feedback.store import LedgerStore
from tests.feedback.support import (
    Assigned,
    Said,
    create_experiment,
    execute,
    exposures,
    numbered,
    open_epoch,
    rows,
    shuffled,
    signals,
)
from tests.feedback.test_ledger import deliver

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
    assert await rebuild_totals(database_url) == Rebuilt((), ())  # version 99 is not known: left as it is


async def test_a_rebuild_mends_draws_of_versions_that_are_known(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    events = [drawn(number, number % 2, 1 + number % 2) for number in range(6)]
    await deliver(stores[0], 0, numbered([exposures(events)]), Random(1))
    right = stored(database_url)
    assert right == [(1, 0, 3, 3 * WHOLE // 2 + 3 * WHOLE // 8), (1, 1, 3, 33 * WHOLE // 8)]
    execute(database_url, "UPDATE draws SET assignments = 4 WHERE variant = 1")

    assert (await rebuild_totals(database_url)).draws == (DrawsDifference(1, 1, 1),)

    assert stored(database_url) == right
    assert await rebuild_totals(database_url) == Rebuilt((), ())
    execute(database_url, "DELETE FROM allocations WHERE version = 2")
    execute(database_url, "UPDATE draws SET assignments = 4 WHERE variant = 1")
    assert await rebuild_totals(database_url) == Rebuilt((), ())
