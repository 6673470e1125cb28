"""Workers that are killed at random points while they decide: no decision twice, none lost."""

import random

import pytest

from benchmarks.rollout_live import scene, survive, time_rollbacks

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(240)]

ROLLOUTS = 12


async def test_workers_that_are_killed_while_they_decide_lose_nothing_and_do_nothing_twice(tmp_path):
    async with scene(tmp_path) as (server, hook):
        decided = await survive(server, hook, random.Random(20260101), ROLLOUTS, prefix="killed")
        assert decided == ROLLOUTS
        assert len(await time_rollbacks(server, hook, 1)) == 1
