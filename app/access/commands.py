"""The commands `wald keys`, on the engines themselves."""

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

import rich_click as click
from rich.table import Table

from app.access.model import KeyKind, Scope
from app.access.service import AccessService, KeyRequest
from app.access.store import AccessStore
from app.core import process
from app.core.clock import SystemClock
from app.core.commands import ERR, OUT, Moment, engine_options, run_with_engines
from app.core.postgres import create_engine
from app.core.settings import Settings
from app.core.timekeeping import TimeKeeper
from app.core.valkey import create_client


@click.group()
def keys() -> None:
    """Make, list and revoke API keys; rotate the secrets that sign assignment ids."""


@keys.command("create")
@engine_options
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in KeyKind]),
    default=KeyKind.SERVER.value,
    show_default=True,
    help="cli: may be in a browser, assigns and gives feedback. srv: your servers. adm: everything.",
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="Only this scope of the kind; may be repeated.",
)
@click.option("--expires-at", type=Moment(), help="As in 2030-01-31T08:00+02:00; UTC without an offset.")
def create_key(
    name: str, kind: str, scopes: tuple[str, ...], expires_at: datetime | None, **flags: Any
) -> None:
    """Make a key and print it, once.

    For example:

    wald keys create "summary service" --kind srv
    """

    async def run(access: AccessService) -> None:
        chosen = frozenset(map(Scope, scopes)) or None
        stored, plaintext = await access.create(
            KeyRequest(name=name, kind=KeyKind(kind), scopes=chosen, expires_at=expires_at)
        )
        ERR.print(f"Key {stored.id} ({', '.join(sorted(stored.scopes))}). It is shown only now:")
        click.echo(plaintext)

    _run_with_access(flags, run)


@keys.command("list")
@engine_options
def list_keys(**flags: Any) -> None:
    """Show the keys in force, never their text."""

    async def run(access: AccessService) -> None:
        table = Table("id", "name", "kind", "scopes", "looks like", "made", "expires", box=None)
        for key in await access.list():
            expires = key.expires_at.isoformat(" ", "minutes") if key.expires_at else "never"
            made = key.created_at.isoformat(" ", "minutes")
            scopes = " ".join(sorted(key.scopes))
            table.add_row(str(key.id), key.name, key.kind, scopes, key.hint, made, expires)
        OUT.print(table)

    _run_with_access(flags, run)


@keys.command("revoke")
@engine_options
@click.argument("key_id", type=int)
def revoke_key(key_id: int, **flags: Any) -> None:
    """Take a key out of force on every server, within seconds and for good."""

    async def run(access: AccessService) -> None:
        await access.revoke(key_id)
        OUT.print(f"Key {key_id} is revoked.")

    _run_with_access(flags, run)


@keys.command("rotate-signing")
@engine_options
def rotate_signing(**flags: Any) -> None:
    """Sign new assignment ids with a new secret; ids signed before stay good until their key is retired."""

    async def run(access: AccessService) -> None:
        key_id = await access.rotate_signing_key()
        OUT.print(f"Assignment ids are now signed with key {key_id}.")

    _run_with_access(flags, run)


@keys.command("retire-signing")
@engine_options
@click.argument("key_id", type=click.IntRange(1, 255))
def retire_signing(key_id: int, **flags: Any) -> None:
    """Refuse assignment ids signed with an old secret from now on."""

    async def run(access: AccessService) -> None:
        await access.retire_signing_key(key_id)
        OUT.print(f"Signing key {key_id} is retired.")

    _run_with_access(flags, run)


def _run_with_access(
    flags: dict[str, Any], use: Callable[[AccessService], Coroutine[Any, Any, None]]
) -> None:
    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        await TimeKeeper(settings.database_url, process.NAME).start()
        assert settings.valkey_url is not None
        engine, valkey = create_engine(settings.database_url), create_client(settings.valkey_url)
        try:
            await use(AccessService(AccessStore(engine, valkey), SystemClock()))
        finally:
            await valkey.aclose()
            await engine.dispose()

    run_with_engines(flags, run)
