import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.processes import eventually, servers_on


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    """A data folder of the test's own. (pytest's `tmp_path` is closed to the account of PostgreSQL.)"""
    path = Path(tempfile.mkdtemp(prefix="wald-test-"))
    path.chmod(0o711)
    yield path / "data"
    await eventually(lambda: not any(servers_on(path).values()), within_s=5)
    shutil.rmtree(path)
