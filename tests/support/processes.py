"""Looking at real processes, and waiting for what nothing announces."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]


def servers_on(folder: Path) -> dict[str, list[int]]:
    """The ids of the server processes on a data folder; PostgreSQL's own children are left out."""
    found: dict[str, list[int]] = {"valkey-server": [], "postgres": []}
    for process in psutil.process_iter():
        try:
            name, cwd = process.name(), Path(process.cwd())
            if name in found and cwd.is_relative_to(folder.resolve()):
                parent = process.parent()
                if not (name == "postgres" and parent is not None and parent.name() == "postgres"):
                    found[name].append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def heed_interrupts() -> None:
    """In a child before it starts: heed SIGINT, also where the tests run in the background and ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def python(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """`python -m module` as a process, killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def next_line(process: subprocess.Popen[str]) -> Any:
    """The next line of its output, as JSON."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"ended with status {process.wait()}"
    return json.loads(line)
