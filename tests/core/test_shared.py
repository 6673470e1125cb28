"""One computation for all who ask."""

import asyncio

import pytest

from app.core.shared import Shared

pytestmark = pytest.mark.anyio


async def test_callers_that_come_together_share_one_run_and_its_age_is_bounded():
    runs, go = 0, asyncio.Event()

    async def compute() -> int:
        nonlocal runs
        runs += 1
        await go.wait()
        return runs

    shared = Shared(compute, max_age_s=3_600)
    waiting = [asyncio.create_task(shared.get()) for _ in range(200)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    go.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError), "one who goes does not end it for the others"
    assert found[1:] == [1] * 199
    assert await shared.get() == 1
    again = Shared(compute, max_age_s=0)
    assert [await again.get(), await again.get()] == [2, 3]


async def test_an_error_reaches_all_waiting_callers_and_is_not_kept():
    results = [ValueError("away"), "here"]

    async def compute() -> str:
        result = results.pop(0)
        await asyncio.sleep(0)
        if isinstance(result, Exception):
            raise result
        return str(result)

    shared = Shared(compute, max_age_s=3_600)
    found = await asyncio.gather(shared.get(), shared.get(), return_exceptions=True)
    assert [type(one) for one in found] == [ValueError, ValueError]
    assert await shared.get() == "here"
