"""Real engines for every test: started once, each test on its own database and an empty Valkey."""

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from redis.asyncio import Redis
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core import migrations
from app.core.engines import EmbeddedEngines
from app.core.postgres import create_engine, psycopg_dsn
from app.core.valkey import create_client
from tests.support.polling import eventually
from tests.support.processes import servers_on

_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 2 << 30
if "TMPDIR" not in os.environ and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES:
    # All folders of the tests, those of the engines among them, are in memory where there is enough of it.
    # What a killed process has written stays there as it does on a disk, whose waits prove nothing.
    os.environ["TMPDIR"] = str(_MEMORY)
    tempfile.tempdir = None

os.environ.pop("COLUMNS", None)  # processes that run tests side by side set it; commands would obey it

_TEMPLATE = "wald_template"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
async def engines(anyio_backend: str) -> AsyncIterator[EmbeddedEngines]:
    """Both engines, shared by all tests. A test that kills an engine starts its own."""
    # Not pytest's own folder: that one is closed again to other accounts by every new run of pytest.
    with tempfile.TemporaryDirectory(prefix="wald-test-") as folder:
        async with EmbeddedEngines(Path(folder) / "data") as running:
            yield running


@pytest.fixture(scope="session")
async def _migrated(engines: EmbeddedEngines) -> str:
    """The name of a migrated database to copy."""
    await _execute(engines.database_url, "CREATE DATABASE {}", _TEMPLATE)
    migrations.upgrade(_with_database(engines.database_url, _TEMPLATE))
    return _TEMPLATE


@pytest.fixture
async def database_url(engines: EmbeddedEngines, _migrated: str) -> AsyncIterator[str]:
    """A fresh, migrated database."""
    name = f"wald_{next(_numbers)}"
    await _execute(engines.database_url, "CREATE DATABASE {} TEMPLATE {}", name, _migrated)
    yield _with_database(engines.database_url, name)
    await _execute(engines.database_url, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture(scope="module")
async def module_database(engines: EmbeddedEngines, _migrated: str) -> AsyncIterator[str]:
    """A migrated database for all tests of a file, which empty it: making it takes longer than most."""
    name = f"wald_module_{next(_numbers)}"
    await _execute(engines.database_url, "CREATE DATABASE {} TEMPLATE {}", name, _migrated)
    yield _with_database(engines.database_url, name)
    await _execute(engines.database_url, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture
async def valkey_url(engines: EmbeddedEngines) -> str:
    """An empty Valkey."""
    client = create_client(engines.valkey_url)
    await client.flushall()
    await client.aclose()
    return engines.valkey_url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A pool on it."""
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of it."""
    client = create_client(valkey_url)
    yield client
    await client.aclose()


@pytest.fixture
async def folder(anyio_backend: str) -> AsyncIterator[Path]:
    """A data folder for a test's own engines. (pytest's `tmp_path` is closed to PostgreSQL's account.)"""
    path = Path(tempfile.mkdtemp(prefix="wald-test-"))
    path.chmod(0o711)  # noqa: ASYNC240
    yield path / "data"
    await eventually(lambda: not any(servers_on(path).values()), within_s=5)
    shutil.rmtree(path)


def _with_database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


async def _execute(url: str, statement: str, *names: str) -> None:
    async with await psycopg.AsyncConnection.connect(psycopg_dsn(url), autocommit=True) as connection:
        await connection.execute(SQL(statement).format(*map(Identifier, names)))
