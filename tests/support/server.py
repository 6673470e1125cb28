"""A whole Wald, as a user starts it: `wald up` in its own process, on its own data folder and port."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import psutil
import psycopg

ADMIN_KEY = "an-admin-key-of-the-tests"
START_S = 240


class Up(NamedTuple):
    """A running `wald up`."""

    url: str
    key: str
    process: psutil.Process
    data_dir: Path

    def client(self, **options: Any) -> httpx2.Client:
        """A client with the admin key."""
        headers = {"Authorization": f"Bearer {self.key}"}
        # To load certificates, for which `http:` has no use, takes longer than any answer.
        return httpx2.Client(base_url=self.url, headers=headers, timeout=10, verify=False, **options)

    def async_client(self, **options: Any) -> httpx2.AsyncClient:
        """The same, for asyncio."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=10, verify=False, **options)

    def part(self, name: str) -> list[psutil.Process]:
        """Its processes of one kind: `serve`, `worker`, `valkey-server` or `postgres` (the postmaster)."""
        found = []
        for child in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                line = child.cmdline()
                if name in {"serve", "worker"}:
                    matches = "app.cli" in line and name in line
                elif name == "postgres":
                    matches = child.name() == "postgres" and child.parent().name() != "postgres"
                else:
                    matches = child.name() == name
                if matches and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
        return found

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Until `/ready` answers 200; the last answer stands in the error."""
        deadline, last = time.monotonic() + timeout_s, "no answer"
        with self.client() as client:
            while time.monotonic() < deadline:
                with suppress(httpx2.HTTPError):
                    answer = client.get("/ready", timeout=2)
                    if answer.status_code == 200:
                        return
                    last = f"{answer.status_code} {answer.text}"
                if not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE:
                    raise AssertionError("`wald up` has ended")
                time.sleep(0.05)
        raise AssertionError(f"not ready within {timeout_s} s: {last}")

    def wait_no_lag(self, experiment: str, timeout_s: float = 60) -> dict[str, Any]:
        """Until the ledger holds everything acknowledged; the experiment's status then."""
        deadline = time.monotonic() + timeout_s
        with self.client() as client:
            while True:
                answer = client.get(f"/experiments/{experiment}/status")
                if answer.is_success and answer.json()["lag_events"] == 0:
                    status: dict[str, Any] = answer.json()
                    return status
                if time.monotonic() > deadline:
                    raise AssertionError(f"lag after {timeout_s} s: {answer.status_code} {answer.text}")
                time.sleep(0.05)

    def wait_published(self, timeout_s: float = 30) -> None:
        """Until no totals wait for their allocation any more."""
        deadline = time.monotonic() + timeout_s
        url = self.part("worker")[0].environ()["WALD_DATABASE_URL"]
        with psycopg.connect(url, autocommit=True) as connection:
            while connection.execute("SELECT 1 FROM publications WHERE published < wanted").fetchone():
                assert time.monotonic() < deadline, "allocations were not published"
                time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def listening(port: int) -> None:
    """Until somebody listens on a port of this machine."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


@contextmanager
def up(
    data_dir: Path, *arguments: str, workers: int = 1, environment: dict[str, str] | None = None
) -> Iterator[Up]:
    """Run `wald up` until the block ends, then stop it in order. Its log is `data_dir/../up.log`."""
    port = free_port()
    command = [sys.executable, "-m", "app.cli", "up", "--data-dir", str(data_dir), "--port", str(port)]
    with (data_dir.parent / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--workers", str(workers), *arguments],
            env=os.environ | {"WALD_ADMIN_KEY": ADMIN_KEY} | (environment or {}),
            cwd=Path(__file__).parents[2],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        running = Up(f"http://127.0.0.1:{port}", ADMIN_KEY, psutil.Process(process.pid), data_dir)
        try:
            running.wait_ready()
            yield running
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    for child in running.process.children(recursive=True):
                        child.kill()
                    process.kill()
                    process.wait()
                    raise
