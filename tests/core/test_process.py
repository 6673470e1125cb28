"""Child processes: awaited, stopped by force if need be, and bound to our life."""

import asyncio
import signal
import sys
import threading

import pytest

from app.core.process import ChildProcess
from tests.support.polling import eventually

pytestmark = pytest.mark.anyio
STUBBORN = "import signal, sys; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"


async def test_all_waiting_tasks_get_the_exit_status():
    child = ChildProcess([sys.executable, "-c", "raise SystemExit(7)"])
    assert await asyncio.gather(child.wait(), child.wait()) == [7, 7]
    assert await child.wait() == 7
    assert not child.running


async def test_a_child_that_ignores_its_signal_is_killed(tmp_path):
    with (tmp_path / "output").open("wb") as output:
        child = ChildProcess([sys.executable, "-c", STUBBORN], output=output)
    await eventually((tmp_path / "output").read_text, within_s=5)
    assert await child.stop(signal.SIGTERM, grace_s=0.05) == -signal.SIGKILL


async def test_stopping_what_has_ended_is_harmless():
    child = ChildProcess([sys.executable, "-c", ""])
    await child.wait()
    assert await child.stop(signal.SIGTERM, grace_s=1) == 0


async def test_a_waiter_that_gives_up_leaves_the_child_running():
    child = ChildProcess([sys.executable, "-c", "import signal; signal.pause()"])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await child.wait()
    assert child.running
    await child.stop(signal.SIGKILL, grace_s=1)


async def test_a_thread_cannot_start_children():
    errors = []

    def start() -> None:
        try:
            ChildProcess([sys.executable, "-c", ""])
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert errors == ["only the main thread may start children, which end with it"]
