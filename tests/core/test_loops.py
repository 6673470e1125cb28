"""Background loops: failing is seen, never final, and never spreads."""

import asyncio
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import loops as loops_module
from app.core.backoff import FIRST_S, Backoff
from app.core.limits import RESTART_BACKOFF_S_MAX
from app.core.loops import Loop, Loops
from app.core.telemetry import DEGRADED
from tests.support.polling import eventually

pytestmark = pytest.mark.anyio
START = datetime(2026, 1, 1, tzinfo=UTC)


class StepClock:
    """A second later every time somebody looks."""

    def __init__(self) -> None:
        self.looks = 0

    def now(self) -> datetime:
        self.looks += 1
        return START + timedelta(seconds=self.looks)

    def now_ms(self) -> int:
        return round(self.now().timestamp() * 1_000)


class Scripted:
    """Does what its script says, run by run; after the last line it waits for ever."""

    def __init__(self, *script: Exception | None) -> None:
        self.script = list(script)
        self.exhausted = asyncio.Event()
        self.cancelled = False

    async def __call__(self) -> None:
        if self.script:
            if (error := self.script.pop(0)) is not None:
                raise error
            return
        self.exhausted.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def running(*loops: Loop) -> Loops:
    return Loops(loops, clock=StepClock(), random=Random(1))


async def test_a_failure_is_shown_with_its_time_and_counted_and_the_loop_runs_again():
    run = Scripted(ValueError("no"), ValueError("still no"))
    async with running(Loop("sweep", run)) as loops:
        await run.exhausted.wait()
        health = loops.health()["sweep"]
        assert health.error == "ValueError: still no"
        assert health.since == START + timedelta(seconds=2)  # of the first of the two
        assert health.failures == 2
        assert DEGRADED.labels("loop:sweep")._value.get() == 1


async def test_a_run_that_returns_after_a_failure_clears_the_error_and_keeps_the_count():
    run = Scripted(ValueError("once"), None)
    async with running(Loop("sweep", run)) as loops:
        await run.exhausted.wait()
        health = loops.health()["sweep"]
        assert health.error is None
        assert health.since == health.succeeded_at
        assert health.failures == 1
        assert DEGRADED.labels("loop:sweep")._value.get() == 0


async def test_a_run_that_lasts_clears_the_error_without_returning(monkeypatch):
    monkeypatch.setattr(loops_module, "STEADY_S", 0.05)
    run = Scripted(ValueError("once"))
    async with running(Loop("consumer", run)) as loops:
        await run.exhausted.wait()
        assert loops.health()["consumer"].error == "ValueError: once"
        await eventually(lambda: loops.health()["consumer"].error is None, within_s=5)


async def test_a_failing_loop_leaves_the_others_alone():
    broken, sound = Scripted(*[ValueError("no")] * 3), Scripted(None, None)
    async with running(Loop("broken", broken), Loop("sound", sound)) as loops:
        await asyncio.gather(broken.exhausted.wait(), sound.exhausted.wait())
        health = loops.health()
    assert health["broken"].error is not None
    assert health["sound"].error is None


async def test_the_end_cancels_every_loop_and_waits_for_it():
    one, two = Scripted(), Scripted()
    async with running(Loop("one", one), Loop("two", two)):
        await asyncio.gather(one.exhausted.wait(), two.exhausted.wait())
    assert one.cancelled
    assert two.cancelled


@given(seed=st.integers(0, 2**32), attempts=st.integers(1, 40))
def test_waits_grow_within_bounds_and_restart_after_a_success(seed, attempts):
    backoff = Backoff(Random(seed))
    for attempt in range(attempts):
        full_s = min(FIRST_S * 2**attempt, RESTART_BACKOFF_S_MAX)
        assert full_s / 2 <= backoff.next_s() <= full_s
    backoff.reset()
    assert backoff.next_s() <= FIRST_S
