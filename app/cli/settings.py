"""The commands `wald settings`, on the engines themselves."""

from typing import Any

import rich_click as click

from app.cli.command_line import Group
from app.cli.options import engine_options, json_option, run_with_engines
from app.cli.tables import Column, Table
from app.cli.terminal import answer, emit_json, out
from app.core.settings import STREAM_SHARDS_MAX, Settings


@click.group("settings", cls=Group)
def settings_group() -> None:
    """Show and change the settings that all processes of this deployment share."""


@settings_group.command("show")
@engine_options
@json_option
def show_settings(*, as_json: bool, **flags: Any) -> None:
    """Show what is stored beside what the environment says here."""
    from app.core.agreement import NAMES, read_agreed, variable  # noqa: PLC0415 - loads the engines' clients
    from app.core.postgres import create_engine  # noqa: PLC0415

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        engine = create_engine(settings.database_url)
        try:
            stored = await read_agreed(engine)
        finally:
            await engine.dispose()
        here = settings.environment()
        if as_json:
            emit_json(
                {variable(name): {"stored": stored.get(name), "here": here[variable(name)]} for name in NAMES}
            )
            return
        table = Table(Column("setting", "name"), Column("stored", "text"), Column("here", "text"))
        for name in NAMES:
            table.add(variable(name), stored.get(name, "nothing yet"), here[variable(name)])
        out().print(table)

    run_with_engines(flags, run)


@settings_group.command("set")
@click.argument("name", type=click.Choice(["stream_shards"]))
@click.argument("value", type=click.IntRange(1, STREAM_SHARDS_MAX))
@engine_options
@json_option
def set_setting(name: str, value: int, *, as_json: bool, **flags: Any) -> None:
    """Change the number of stream shards for all processes.

    More shards: set the number, then restart every worker and every server with WALD_STREAM_SHARDS of the
    same number. Fewer: stop all servers, let the workers finish, stop them, set the number, and start all.
    """
    from app.core.agreement import variable  # noqa: PLC0415 - loads the engines' clients
    from app.core.postgres import create_engine  # noqa: PLC0415
    from app.core.valkey import create_client  # noqa: PLC0415
    from app.ledger.resize import resize  # noqa: PLC0415

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        assert settings.valkey_url is not None
        engine, valkey = create_engine(settings.database_url), create_client(settings.valkey_url)
        try:
            await resize(engine, valkey, value)
        finally:
            await valkey.aclose()
            await engine.dispose()
        said = f"Stored. Start every server and worker with {variable(name)}={value}."
        answer(said, {"name": variable(name), "value": value}, as_json=as_json)

    run_with_engines(flags, run)
