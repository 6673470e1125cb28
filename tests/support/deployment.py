"""A deployment on engines of its own: the installed command `wald`, run in a folder that is not ours."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import make_url

from app.core.postgres import psycopg_dsn
from tests.support.server import free_port

WALD = Path(sys.executable).parent / "wald"
OURS = ("app.py", "stats.py")
OF_PYTHON = ("random.py", "logging.py", "types.py", "signal.py", "secrets.py", "redis.py")


def hostile_folder(path: Path) -> Path:
    """A folder of a user's project, in which every name that we import is another file."""
    for name in (*OURS, *OF_PYTHON):
        (path / name).write_text("raise SystemExit('the file of the user was executed')\n")
    for package in ("bandits", "migrations"):
        (path / package).mkdir()
        (path / package / "__init__.py").write_text("raise SystemExit('the file of the user was executed')\n")
    return path


@contextmanager
def empty_database(server_url: str, name: str) -> Iterator[str]:
    """A database without any schema, on a running PostgreSQL."""
    with psycopg.connect(psycopg_dsn(server_url), autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        try:
            yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def clean_environment(**variables: str) -> dict[str, str]:
    """Ours without any setting of Wald's, and with `variables`. Each process would compile all it loads anew
    where Python may not keep what it compiled.
    """
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WALD_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    return ours | variables


class Running:
    """A process of the deployment, and what it has logged."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, url: str) -> None:
        self.process = process
        self.url = url
        self._log = log

    @property
    def log(self) -> str:
        """All that it wrote so far."""
        return self._log.read_text()

    def ready(self) -> tuple[int, str]:
        """Status and text of `/ready`; 0 while it does not listen."""
        try:
            answer = httpx2.get(f"{self.url}/ready", timeout=5, verify=False)
        except httpx2.HTTPError:
            return 0, ""
        return answer.status_code, answer.text

    def wait(self, status: int, containing: str = "", timeout_s: float = 120) -> None:
        """Until `/ready` answers so."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.ready()
            if found[0] == status and containing in found[1]:
                return
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, f"{found}\n{self.log}"
            time.sleep(0.05)


@contextmanager
def running(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[Running]:
    """One process on a port of its own, until the block ends; then it must end in order."""
    port = free_port()
    if command[0] == "worker":
        command = ["worker", "--port", str(port)]
    log = folder.parent / f"{'-'.join(command)}-{port}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [WALD, *command],
            cwd=folder,
            env={**environment, "WALD_PORT": str(port)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Running(process, log, f"http://127.0.0.1:{port}")
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [WALD, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def problems(text: str) -> list[dict[str, Any]]:
    """The checks of `/ready` that fail."""
    return [check for check in json.loads(text)["checks"] if not check["ok"]]
