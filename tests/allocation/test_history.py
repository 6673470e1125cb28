"""The history of an experiment's allocation, drawn and thinned."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from app.allocation.store import read_history
from app.allocation.tables import allocations
from app.assignment.bucketing import WHOLE
from app.experiments.model import Definition, Variant

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC).replace(second=0, microsecond=0)


@pytest.fixture
async def experiment(experiments):
    variants = (Variant("control", control=True), Variant("short"))
    return await experiments.create(Definition(key="summary", variants=variants))


async def write(engine, experiment, times, *, epoch=1, first_version=1):
    rows = [
        {
            "experiment_id": experiment.id,
            "version": version,
            "epoch": epoch,
            "weights": [version, WHOLE - version],
            "created_at": at,
        }
        for version, at in enumerate(times, start=first_version)
    ]
    async with engine.begin() as connection:
        await connection.execute(allocations.insert(), rows)


async def history(engine, experiment, points_max):
    async with engine.connect() as connection:
        return await read_history(connection, experiment.id, points_max)


async def test_without_versions_there_is_no_history(engine, experiment):
    assert await history(engine, experiment, 10) == []


async def test_a_short_history_is_whole(engine, experiment):
    await write(engine, experiment, [NOW + timedelta(seconds=second) for second in range(5)])
    points = await history(engine, experiment, 100)
    assert [point.version for point in points] == [1, 2, 3, 4, 5]
    assert points[2].shares == (3 / WHOLE, 1 - 3 / WHOLE)


@pytest.mark.parametrize("points_max", [2, 3, 10, 100])
async def test_a_long_history_is_thinned_evenly_between_its_ends(engine, experiment, points_max):
    await write(engine, experiment, [NOW + timedelta(seconds=second) for second in range(1_000)])
    points = await history(engine, experiment, points_max)
    assert len(points) == points_max
    assert (points[0].version, points[-1].version) == (1, 1_000)
    gaps = [(after.at - before.at).total_seconds() for before, after in pairwise(points)]
    assert max(gaps) <= 1_000 / (points_max - 1) + 1


async def test_versions_of_one_moment_are_no_trouble(engine, experiment):
    await write(engine, experiment, [NOW, NOW, NOW])
    assert [point.version for point in await history(engine, experiment, 10)] == [1, 3]


async def test_after_an_hour_one_version_a_minute_is_kept(store, engine, experiment):
    hours_ago = NOW - timedelta(hours=3)
    await write(engine, experiment, [hours_ago + timedelta(seconds=second) for second in range(0, 180, 10)])
    young = [NOW - timedelta(seconds=second) for second in (30, 20, 10)]
    await write(engine, experiment, young, first_version=19)
    assert await store.thin() == 15
    assert [point.version for point in await history(engine, experiment, 20_000)] == [6, 12, 18, 19, 20, 21]
    assert await store.thin() == 0


async def test_the_allocation_in_force_and_the_last_of_an_epoch_are_never_thinned(store, engine, experiment):
    hours_ago = NOW - timedelta(hours=3)
    await write(engine, experiment, [hours_ago + timedelta(seconds=second) for second in range(3)])
    later = [hours_ago + timedelta(seconds=second) for second in (3, 4)]
    await write(engine, experiment, later, epoch=2, first_version=4)
    assert await store.thin() == 3
    assert [point.version for point in await history(engine, experiment, 100)] == [3, 5]
