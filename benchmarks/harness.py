"""Cores, server processes, interleaved runs and medians, which all benchmarks share."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final, TypeVar

from rich.console import Console
from rich.table import Table

CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORE: Final = CORES[0]
LOAD_CORE: Final = CORES[-1]
"""Core of the load generator, and of engines that start after `pin`."""

_START_S: Final = 60
T = TypeVar("T")


def pin(core: int) -> None:
    """Keep this process and its later children on one core."""
    os.sched_setaffinity(0, {core})


@contextmanager
def server(module: str, *arguments: str) -> Iterator[int]:
    """Run `python -m MODULE PORT ARGUMENTS...`, yield its port once it listens, and kill it."""
    port = _free_port()
    command = [sys.executable, "-m", module, str(port), *arguments]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
    os.sched_setaffinity(process.pid, {SERVER_CORE})
    try:
        _wait_until_listening(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def interleaved(runs: Mapping[str, Callable[[], T]], *, rounds: int) -> dict[str, list[T]]:
    """Call each of `runs` once a round, so that a slow minute of the machine hits all of them."""
    results: dict[str, list[T]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            results[name].append(run())
    return results


def middle(values: list[float]) -> float:
    """Return the median, rounded to four digits for `baseline.json`."""
    return float(f"{median(values):.4g}")


def rss_mib() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*row)
    # Without a terminal, leave room so that rich cuts nothing.
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"{process.args!r} does not listen after {_START_S} s")
