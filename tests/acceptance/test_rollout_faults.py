"""Workers that are killed, or stopped, while they decide: no decision twice, none lost."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import psycopg
import pytest

from benchmarks.rollout_live import (
    Began,
    begin,
    broken,
    check_decided_once,
    scene,
    send,
    survive,
    time_rollbacks,
    watching,
)
from tests.support.server import Up

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(240)]

ROLLOUTS = 12
WAITS_TO_TELL = """
SELECT 1 FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query ILIKE 'INSERT INTO webhook_messages%'
"""


@pytest.mark.long
async def test_workers_that_are_killed_or_stopped_while_they_decide_lose_nothing_and_do_nothing_twice(
    tmp_path,
):
    async with scene(tmp_path) as (server, hook), server.async_client() as client:
        decided = await survive(server, hook, random.Random(20260101), ROLLOUTS, prefix="killed")
        assert decided == ROLLOUTS
        began = await stopped_before_its_commit(server, client, tmp_path / "another.log")
        assert len(await time_rollbacks(server, hook, 1)) == 1, "the one that was stopped works again"
        await check_decided_once(client, hook, began)


async def stopped_before_its_commit(server: Up, client: httpx2.AsyncClient, log: Path) -> Began:
    """A worker is stopped when all of its decision is done but the commit, until another one has decided."""
    async with watching(server) as watched:
        began = await begin(client, "stopped")
        await watched.until([began.experiment], 0.5)
        events = await broken(client, [began.experiment])
        (worker,) = server.part("worker")
        url = worker.environ()["WALD_DATABASE_URL"]
        with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as observer:
            holder.execute("LOCK TABLE webhook_messages IN EXCLUSIVE MODE")
            await send(client, events)
            while observer.execute(WAITS_TO_TELL).fetchone() is None:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.02)
            worker.send_signal(signal.SIGSTOP)
        with another(worker, log):
            await watched.until([began.experiment], 0.0)
            worker.send_signal(signal.SIGCONT)
    return began


@contextmanager
def another(worker: psutil.Process, log: Path) -> Iterator[None]:
    """A second worker of the same engines, until the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "worker"], env=worker.environ(), stdout=file, stderr=file
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)
