"""Commands that work on the engines themselves, on a database without a schema."""

import asyncio

import pytest
from click.testing import CliRunner

from app.cli.main import main
from tests.support.deployment import empty_database

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "command", ["keys list", "webhooks list", "settings show", "settings set stream_shards 4", "rebuild"]
)
async def test_a_database_without_schema_is_refused_with_the_command_that_creates_it(
    engines, valkey_url, command
):
    with empty_database(engines.database_url, "without_schema") as database_url:
        arguments = [*command.split(), "--database-url", database_url, "--valkey-url", valkey_url]
        # In a thread: the command has an event loop of its own.
        done = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "Error: the database has no schema: run `wald migrate`\n"
