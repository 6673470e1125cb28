"""Strata of shares in the ledger: what comparisons under an adaptive policy are made of."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from app.experiments.policies import FixedPolicy, ThompsonPolicy
from app.experiments.reward import Reward
from app.feedback.model import Source
from app.ledger.rebuild import Difference, rebuild_totals
from app.ledger.rewards.composite import NANO
from app.ledger.store import LedgerStore
from app.ledger.units.measures import CellTotals
from stats.concurrent import strata_of_shares
from tests.ledger.support import (
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
from tests.ledger.test_ledger import deliver, forget_everything

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[LedgerStore, LedgerStore]]:
    """Two sessions; experiment 1 has rewards only, 2 has sticky units. Epoch 2 of both is fixed."""
    for number in (1, 2):
        assert create_experiment(database_url, f"moving-{number}", Reward()) == number
        open_epoch(database_url, number, 1, ThompsonPolicy())
        open_epoch(database_url, number, 2, FixedPolicy({"control": 0.5, "other": 0.5}))
    execute(
        database_url,
        "UPDATE experiments SET definition = jsonb_set(definition::jsonb, '{stickiness}', '\"unit\"')"
        " WHERE id = 2",
    )
    async with LedgerStore.open(database_url) as first, LedgerStore.open(database_url) as second:
        yield first, second


def stored(database_url: str) -> dict[tuple[int, ...], CellTotals]:
    found = rows(
        database_url, "SELECT experiment_id, epoch, stratum, variant, body FROM share_totals WHERE body <> ''"
    )
    return {tuple(key): CellTotals.from_bytes(body) for *key, body in found}


def thumb(about: Assigned, value: float, at_ms: int) -> Said:
    return Said(about, about.experiment_id, "thumbs_up", Source.EXPLICIT, value, at_ms)


def history() -> tuple[list[Assigned], list[Said]]:
    """Draws at shares 1/2 and 4/5 of the second variant; one thumb is revised, one epoch is fixed."""
    assigned = [
        Assigned(1, 1, 1, 0, 1, propensity=0.5),
        Assigned(1, 2, 2, 1, 0, propensity=0.5),
        Assigned(1, 3, 3, 2, 1, propensity=0.8),
        Assigned(1, 4, 4, 3, 0, propensity=0.2),
        Assigned(1, 5, 5, 4, 0, epoch=2, propensity=0.5),
        Assigned(2, 6, 6, 0, 1, propensity=0.5),
        Assigned(2, 6, 7, 5, 1, propensity=0.8),  # the unit comes back: its first draw counts
        Assigned(2, 6, 8, 6, 0, propensity=0.2),  # and is drawn for the other variant
    ]
    said = [thumb(one, 1.0, one.at_ms + 10) for one in assigned]
    return assigned, [*said, thumb(assigned[0], 0.0, 20)]


def sums(rewards: list[float], propensity: float) -> tuple[int, ...]:
    """Sums of units, of rewards and of 1 / p, then of products (reward^2, reward / p, 1 / p^2), in nanos."""
    x, w = [round(reward * NANO) for reward in rewards], round(NANO / propensity)
    n = len(x)
    return n, sum(x), n * w, sum(one * one for one in x), sum(one * w for one in x), n * w * w


async def test_units_are_summed_by_the_shares_of_their_first_draw(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    assigned, said = history()
    half, most = strata_of_shares([0.5, 0.8]).tolist()
    expected = {
        (1, 1, half, 1): (1, sums([0.0], 0.5)),
        (1, 1, half, 0): (1, sums([1.0], 0.5)),
        (1, 1, most, 1): (1, sums([1.0], 0.8)),
        (1, 1, most, 0): (1, sums([1.0], 0.2)),
        (2, 1, half, 1): (1, sums([1.0], 0.5)),
    }
    for seed in range(4):
        await forget_everything(stores[0])
        random = Random(seed)
        entries = [
            exposures([one]) if isinstance(one, Assigned) else signals([one])
            for one in shuffled([*assigned, *assigned, *said], random)
        ]
        shards = numbered(entries[::2]), numbered(entries[1::2])
        await asyncio.gather(
            *(deliver(store, shard, shards[shard], Random(shard)) for shard, store in enumerate(stores))
        )
        found = {key: (one.units, one.metrics[0]) for key, one in stored(database_url).items()}
        assert found == expected, f"seed {seed}"
        assert await rebuild_totals(database_url) == []


async def test_a_rebuild_mends_strata(database_url: str, stores: tuple[LedgerStore, LedgerStore]) -> None:
    assigned, said = history()
    await deliver(stores[0], 0, numbered([exposures(assigned), signals(said)]), Random(1))
    right = stored(database_url)
    execute(database_url, "UPDATE share_totals SET body = '' WHERE variant = 1 AND experiment_id = 1")
    execute(database_url, "DELETE FROM share_totals WHERE experiment_id = 2")
    differences = [Difference("share_totals", number, 1, 1) for number in (1, 2)]
    assert await rebuild_totals(database_url) == differences
    assert stored(database_url) == right
    assert await rebuild_totals(database_url) == []


async def test_a_rebuild_fills_the_strata_of_units_from_before_there_were_any(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    assigned, said = history()
    await deliver(stores[0], 0, numbered([exposures(assigned), signals(said)]), Random(1))
    right = stored(database_url)
    execute(database_url, "UPDATE unit_totals SET stratum = NULL, weight = NULL")
    execute(database_url, "TRUNCATE share_totals")
    await rebuild_totals(database_url)
    assert stored(database_url) == right
    assert await rebuild_totals(database_url) == []
