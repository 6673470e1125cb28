"""The commands `wald settings`, on the engines themselves."""

from typing import Any

import rich_click as click

from app.cli.command_line import Group
from app.cli.display.tables import Column, Table
from app.cli.engines import Stores, run_on_stores
from app.cli.options import engine_options, json_option
from app.cli.terminal import show
from app.core.settings import STREAM_SHARDS_MAX


@click.group("settings", cls=Group)
def settings_command() -> None:
    """Show and change the settings that all processes of a deployment share."""


@settings_command.command("show", epilog="Example: wald settings show")
@engine_options
@json_option
def show_settings(*, as_json: bool, **flags: Any) -> None:
    """Show the stored settings beside those of the environment here."""
    from app.core.agreement import NAMES, read_agreed, variable

    async def run(stores: Stores) -> None:
        stored, here = await read_agreed(stores.engine), stores.settings.environment()
        table = Table(Column("setting", "name"), Column("stored", "text"), Column("here", "text"))
        for name in NAMES:
            table.add(variable(name), stored.get(name, "not yet"), here[variable(name)])
        value = {variable(name): {"stored": stored.get(name), "here": here[variable(name)]} for name in NAMES}
        show(value, lambda: table, as_json=as_json)

    run_on_stores(flags, run)


@settings_command.command("set")
@click.argument("name", type=click.Choice(["stream_shards"]))
@click.argument("value", type=click.IntRange(1, STREAM_SHARDS_MAX))
@engine_options
@json_option
def set_setting(name: str, value: int, *, as_json: bool, **flags: Any) -> None:
    """Change the number of stream shards for all processes.

        wald settings set stream_shards 8

    For more shards: set the number, then restart every worker and every server with WALD_STREAM_SHARDS set
    to it. For fewer: stop all servers, let the workers finish, stop them, set the number, and start all.
    """
    from app.core.agreement import variable
    from app.ledger.resize import resize

    async def run(stores: Stores) -> None:
        await resize(stores.engine, stores.valkey, value)
        text = f"Stored. Start every server and worker with {variable(name)}={value}."
        show({"name": variable(name), "value": value}, text, as_json=as_json)

    run_on_stores(flags, run)
