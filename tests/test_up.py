"""`wald up`: restarts what dies, ends in order, leaves nothing behind."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from app.core.engines import EmbeddedEngines
from tests.support.polling import eventually
from tests.support.processes import gone, next_line, python, servers_on

pytestmark = pytest.mark.anyio
RUN_UP = "tests.support.run_up"


@contextmanager
def up(folder: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run `wald up` on `folder`, on a free port."""
    settings = {
        "WALD_DATA_DIR": str(folder),
        "WALD_PORT": "0",
        "TMPDIR": str(folder.parent),
        "JOURNAL": str(folder.parent / "journal"),
    }
    with python(RUN_UP, environment=os.environ | settings | variables) as process:
        yield process


def parts(process: subprocess.Popen[str]) -> dict[str, int]:
    """Return the ids of its children by what they are."""
    found = {}
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):
            line = child.cmdline()
            found["serve" if "serve" in line else "worker" if "worker" in line else child.name()] = child.pid
    return found


async def test_it_says_when_all_is_ready_and_ends_in_order_with_status_zero(folder):
    with up(folder) as process:
        engines, ready = next_line(process), next_line(process)
        assert engines == {
            "valkey_url": EmbeddedEngines(folder).valkey_url,
            "database_url": EmbeddedEngines(folder).database_url,
        }
        assert httpx2.get(ready["ready"]).text == "ok"
        children = parts(process)
        assert set(children) == {"serve", "worker", "valkey-server", "postgres"}
        process.send_signal(signal.SIGTERM)
        assert next_line(process) == {"ended": "in order"}
        assert process.wait() == 0
        assert all(gone(pid) for pid in children.values())
        assert (folder.parent / "journal").read_text().split() == ["serve", "worker"]
        assert {path.name for path in folder.parent.iterdir()} == {"data", "journal"}


async def test_any_killed_process_is_restarted_within_ten_seconds(folder):
    with up(folder) as process:
        next_line(process)
        url = next_line(process)["ready"]
        for part in ("serve", "worker", "valkey-server", "postgres"):
            before = parts(process)
            os.kill(before[part], signal.SIGKILL)
            await eventually(lambda: parts(process).get(part, before[part]) != before[part], within_s=10)  # noqa: B023
            assert parts(process) | {part: 0} == before | {part: 0}
            await eventually(lambda: answers(url), within_s=10)
        await eventually(lambda: [len(pids) for pids in servers_on(folder).values()] == [1, 1], within_s=1)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


async def test_nothing_is_left_when_it_is_killed_itself(folder):
    with up(folder) as process:
        next_line(process)
        next_line(process)
        children = parts(process)
        process.kill()
        await eventually(lambda: all(gone(pid) for pid in children.values()), within_s=2)
    with up(folder) as process:
        assert "database_url" in next_line(process)
        assert "ready" in next_line(process)


async def test_a_second_signal_forces_the_end_of_programs_that_do_not_listen(folder):
    with up(folder, STUBBORN="1") as process:
        next_line(process)
        next_line(process)
        children = parts(process)
        process.send_signal(signal.SIGINT)
        await eventually(lambda: forced(process), within_s=5)
        assert process.wait() == 128 + signal.SIGINT
        await eventually(lambda: all(gone(pid) for pid in children.values()), within_s=2)


async def test_a_signal_during_the_start_ends_it_in_order(folder):
    with up(folder) as process:
        await eventually((folder / "lock").exists, within_s=10)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not any(servers_on(folder).values())


async def test_a_second_up_on_the_folder_says_who_holds_it(folder):
    with up(folder) as first:
        next_line(first)
        with up(folder) as second:
            assert f"another `wald up`, process {first.pid}" in next_line(second)["error"]
            assert second.wait() == 1


async def test_a_taken_port_is_named_before_anything_is_started(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with up(folder, WALD_PORT=str(port)) as process:
            assert f"cannot listen on 127.0.0.1:{port}" in next_line(process)["error"]
            assert process.wait() == 1
    assert not folder.exists()


async def test_engines_with_a_url_are_used_and_not_stopped(folder, engines):
    urls = {"WALD_VALKEY_URL": engines.valkey_url, "WALD_DATABASE_URL": engines.database_url}
    with up(folder, **urls) as process:
        assert next_line(process) == {
            "valkey_url": engines.valkey_url,
            "database_url": engines.database_url,
        }
        next_line(process)
        assert set(parts(process)) == {"serve", "worker"}
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert await engines.valkey.answers()
    assert [path.name for path in folder.iterdir()] == ["metrics"]


async def test_metrics_of_an_earlier_run_are_wiped(folder):
    stale = folder / "metrics/counter_1.db"
    stale.parent.mkdir(parents=True)
    stale.touch()
    with up(folder) as process:
        next_line(process)
        next_line(process)
        assert stale.parent.is_dir()
        assert not stale.exists()


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, verify=False).is_success
    except httpx2.HTTPError:
        return False


def forced(process: subprocess.Popen[str]) -> bool:
    process.send_signal(signal.SIGINT)
    return process.poll() is not None
