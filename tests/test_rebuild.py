"""`wald rebuild` as a user runs it."""

import asyncio
import sys

import pytest

from app.access.service import AccessService
from app.access.store import AccessStore
from app.core.clock import SystemClock
from app.core.postgres import create_engine
from app.core.valkey import create_client, registry_key
from app.experiments.model import Definition, Variant
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from tests.support.totals import record

pytestmark = pytest.mark.anyio


async def rebuild(database_url, valkey_url):
    """Exit status and output."""
    urls = ("--database-url", database_url, "--valkey-url", valkey_url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "rebuild", *urls, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_it_logs_a_problem_once_and_fills_an_empty_valkey(database_url, valkey_url):
    engine, valkey = create_engine(database_url), create_client(valkey_url)

    async def leave_it_due(experiment_id): ...

    experiments = ExperimentService(ExperimentStore(engine), SystemClock(), leave_it_due)
    variants = (Variant("control", control=True), Variant("short"))
    experiment = await experiments.create(Definition(key="summary", variants=variants))
    await record(engine, experiment, (100, 30), (100, 60))

    status, output = await rebuild(database_url, valkey_url)
    assert status == 1
    assert "experiment 1, epoch 1, variant 0: its totals differed from its log" in " ".join(output.split())

    await AccessService(AccessStore(engine, valkey), SystemClock()).ensure_signing_key()
    await valkey.flushall()
    status, output = await rebuild(database_url, valkey_url)
    assert status == 0, output
    assert "agree bit for bit" in output
    assert await valkey.hexists(registry_key("experiments"), "summary")
    assert await valkey.hexists(registry_key("access"), "body")
    await valkey.aclose()
    await engine.dispose()
