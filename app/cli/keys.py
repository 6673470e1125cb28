"""The commands `wald keys`, on the engines themselves."""

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import rich_click as click

from app.access.model import KeyKind, Scope, StoredKey
from app.cli.command_line import Group
from app.cli.options import Moment, engine_options, json_option, run_with_engines
from app.cli.tables import Column, Table
from app.cli.terminal import answer, emit_json, err, out
from app.core.settings import Settings

if TYPE_CHECKING:  # loads the clients of both engines
    from app.access.service import AccessService


@click.group(cls=Group)
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
@json_option
def create_key(
    name: str,
    kind: str,
    scopes: tuple[str, ...],
    expires_at: datetime | None,
    *,
    as_json: bool,
    **flags: Any,
) -> None:
    """Make a key and print it, once.

    For example:

    wald keys create "summary service" --kind srv
    """
    from app.access.service import KeyRequest  # noqa: PLC0415 - loads the clients of both engines

    async def run(access: "AccessService") -> None:
        chosen = frozenset(map(Scope, scopes)) or None
        stored, plaintext = await access.create(
            KeyRequest(name=name, kind=KeyKind(kind), scopes=chosen, expires_at=expires_at)
        )
        if as_json:
            from app.access.routes import CreatedKey, KeyView  # noqa: PLC0415 - loads the web framework

            emit_json(CreatedKey(KeyView.of(stored), plaintext))
            return
        err().print(f"Key {stored.id} ({', '.join(sorted(stored.scopes))}). It is shown only now:")
        click.echo(plaintext)

    _run_with_access(flags, run)


@keys.command("list")
@engine_options
@json_option
def list_keys(*, as_json: bool, **flags: Any) -> None:
    """Show the keys in force, never their text."""

    async def run(access: "AccessService") -> None:
        listed = await access.list()
        if as_json:
            from app.access.routes import KeyList, KeyView  # noqa: PLC0415 - loads the web framework

            emit_json(KeyList([KeyView.of(key) for key in listed]))
            return
        out().print(keys_table(listed))

    _run_with_access(flags, run)


def keys_table(listed: Sequence[StoredKey]) -> Table:
    """Keys as their administrators know them."""
    table = Table(
        Column("id"),
        Column("name", "name"),
        Column("kind", "text"),
        Column("scopes", "text"),
        Column("looks like"),
        Column("made"),
        Column("expires"),
    )
    for key in listed:
        expires = key.expires_at.isoformat(" ", "minutes") if key.expires_at else "never"
        made = key.created_at.isoformat(" ", "minutes")
        scopes = " ".join(sorted(key.scopes))
        table.add(str(key.id), key.name, key.kind, scopes, key.hint, made, expires)
    return table


@keys.command("revoke")
@engine_options
@click.argument("key_id", type=int)
@json_option
def revoke_key(key_id: int, *, as_json: bool, **flags: Any) -> None:
    """Take a key out of force on every server, within seconds and for good."""

    async def run(access: "AccessService") -> None:
        await access.revoke(key_id)
        answer(f"Key {key_id} is revoked.", {"id": key_id, "revoked": True}, as_json=as_json)

    _run_with_access(flags, run)


@keys.command("rotate-signing")
@engine_options
@json_option
def rotate_signing(*, as_json: bool, **flags: Any) -> None:
    """Sign new assignment ids with a new secret; ids signed before stay good until their key is retired."""

    async def run(access: "AccessService") -> None:
        key_id = await access.rotate_signing_key()
        answer(f"Assignment ids are now signed with key {key_id}.", {"key_id": key_id}, as_json=as_json)

    _run_with_access(flags, run)


@keys.command("retire-signing")
@engine_options
@click.argument("key_id", type=click.IntRange(1, 255))
@json_option
def retire_signing(key_id: int, *, as_json: bool, **flags: Any) -> None:
    """Refuse assignment ids signed with an old secret from now on."""

    async def run(access: "AccessService") -> None:
        await access.retire_signing_key(key_id)
        answer(f"Signing key {key_id} is retired.", {"key_id": key_id, "retired": True}, as_json=as_json)

    _run_with_access(flags, run)


def _run_with_access(
    flags: dict[str, Any], use: Callable[["AccessService"], Coroutine[Any, Any, None]]
) -> None:
    from app.access.service import AccessService  # noqa: PLC0415 - loads the clients of both engines
    from app.access.store import AccessStore  # noqa: PLC0415
    from app.core import process  # noqa: PLC0415
    from app.core.clock import SystemClock  # noqa: PLC0415
    from app.core.postgres import create_engine  # noqa: PLC0415
    from app.core.timekeeping import TimeKeeper  # noqa: PLC0415
    from app.core.valkey import create_client  # noqa: PLC0415

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
