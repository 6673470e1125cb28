"""The commands `wald settings`, on the engines themselves."""

from typing import Any

import rich_click as click
from rich.table import Table

from app.core.agreement import NAMES, STREAM_SHARDS, read_agreed, variable
from app.core.commands import OUT, engine_options, run_with_engines
from app.core.postgres import create_engine
from app.core.settings import STREAM_SHARDS_MAX, Settings
from app.core.valkey import create_client
from app.feedback.resize import resize


@click.group("settings")
def settings_group() -> None:
    """Show and change the settings that all processes of this deployment share."""


@settings_group.command("show")
@engine_options
def show_settings(**flags: Any) -> None:
    """Show what is stored beside what the environment says here."""

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        engine = create_engine(settings.database_url)
        try:
            stored = await read_agreed(engine)
        finally:
            await engine.dispose()
        here = settings.environment()
        table = Table("setting", "stored", "here", box=None)
        for name in NAMES:
            table.add_row(variable(name), stored.get(name, "nothing yet"), here[variable(name)])
        OUT.print(table)

    run_with_engines(flags, run)


@settings_group.command("set")
@click.argument("name", type=click.Choice([STREAM_SHARDS]))
@click.argument("value", type=click.IntRange(1, STREAM_SHARDS_MAX))
@engine_options
def set_setting(name: str, value: int, **flags: Any) -> None:
    """Change the number of stream shards for all processes.

    More shards: set the number, then restart every worker and every server with WALD_STREAM_SHARDS of the
    same number. Fewer: stop all servers, let the workers finish, stop them, set the number, and start all.
    """

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        assert settings.valkey_url is not None
        engine, valkey = create_engine(settings.database_url), create_client(settings.valkey_url)
        try:
            await resize(engine, valkey, value)
        finally:
            await valkey.aclose()
            await engine.dispose()
        OUT.print(f"Stored. Start every server and worker with {variable(name)}={value}.")

    run_with_engines(flags, run)
