"""The command `wald migrate`."""

import asyncio
from typing import Any

import rich_click as click

from app.cli.engines import run_with_urls
from app.cli.options import engine_options, json_option
from app.cli.terminal import show
from app.core.settings import Settings


@click.command("migrate")
@engine_options
@click.option("--to", default="head", show_default=True, help="The revision to migrate to.")
@json_option
def migrate_command(to: str, *, as_json: bool, **flags: Any) -> None:
    """Bring the database to the schema of this version. Safe to run from several places at once.

        wald migrate --database-url postgresql://db/wald --valkey-url redis://valkey

    Also creates the signing key, and stores the admin key of WALD_ADMIN_KEY, if they are missing.
    """
    from app import start
    from app.core import logs, migrations

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        revision = await asyncio.to_thread(migrations.upgrade, settings.database_url, to)
        doubts: list[str] = []
        if revision == migrations.head():
            logs.configure("error", process="migrate")  # to migrate, Valkey may be away
            doubts += await start.ensure_access_of(settings)
        notes = "".join(f"\nNote: {doubt}" for doubt in doubts)
        text = f"The database is at revision {revision}.{notes}"
        show({"revision": revision, "notes": doubts}, text, as_json=as_json)

    run_with_urls(flags, run)
