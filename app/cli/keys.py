"""The commands `wald keys`, on the engines themselves."""

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import rich_click as click

from app.access.model import KeyKind, Scope, StoredKey
from app.cli.command_line import Group
from app.cli.display.amounts import minute
from app.cli.display.tables import Column, Table
from app.cli.engines import Stores, run_on_stores
from app.cli.options import MOMENT, engine_options, json_option
from app.cli.terminal import emit_json, err, show

if TYPE_CHECKING:  # loads the clients of both engines
    from app.access.service import AccessService


@click.group("keys", cls=Group)
def keys_command() -> None:
    """Create, list and revoke API keys; rotate the secrets that sign assignment ids."""


@keys_command.command("create", epilog='Example: wald keys create "summary service" --kind srv')
@engine_options
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in KeyKind]),
    default=KeyKind.SERVER.value,
    show_default=True,
    help="cli: for browsers, may assign and give feedback. srv: for your servers. adm: may do everything.",
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="Allow only this scope of the kind. Repeatable.",
)
@click.option("--expires-at", type=MOMENT, help="As in 2030-01-31T08:00+02:00. UTC unless it has an offset.")
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
    """Create a key and print it, once."""
    from app.access.service import KeyRequest

    async def run(access: "AccessService") -> None:
        chosen = frozenset(map(Scope, scopes)) or None
        stored, plaintext = await access.create(
            KeyRequest(name=name, kind=KeyKind(kind), scopes=chosen, expires_at=expires_at)
        )
        if as_json:
            from app.access.routes import CreatedKey, KeyView

            emit_json(CreatedKey(KeyView.of(stored), plaintext))
            return
        err().print(f"Key {stored.id} ({', '.join(sorted(stored.scopes))}). It is shown only now:")
        click.echo(plaintext)

    _run_with_access(flags, run)


@keys_command.command("list", epilog="Example: wald keys list")
@engine_options
@json_option
def list_keys(*, as_json: bool, **flags: Any) -> None:
    """List the valid keys, without their text."""

    async def run(access: "AccessService") -> None:
        from app.access.routes import KeyList, KeyView

        stored = await access.list()
        show(KeyList([KeyView.of(key) for key in stored]), lambda: keys_table(stored), as_json=as_json)

    _run_with_access(flags, run)


def keys_table(stored: Sequence[StoredKey]) -> Table:
    """Return a table of keys, which shows the beginning of each key only."""
    table = Table(
        Column("id"),
        Column("name", "name"),
        Column("kind", "text"),
        Column("scopes", "text"),
        Column("begins with"),
        Column("created (UTC)"),
        Column("expires (UTC)"),
    )
    for key in stored:
        expires = minute(key.expires_at) if key.expires_at else "never"
        scopes = " ".join(sorted(key.scopes))
        table.add(str(key.id), key.name, key.kind, scopes, key.hint, minute(key.created_at), expires)
    return table


@keys_command.command("revoke", epilog="Example: wald keys revoke 3")
@engine_options
@click.argument("key_id", type=int)
@json_option
def revoke_key(key_id: int, *, as_json: bool, **flags: Any) -> None:
    """Revoke a key for good. Every server refuses it within seconds."""

    async def run(access: "AccessService") -> None:
        await access.revoke(key_id)
        show({"id": key_id, "revoked": True}, f"Key {key_id} is revoked.", as_json=as_json)

    _run_with_access(flags, run)


@keys_command.command("rotate-signing", epilog="Example: wald keys rotate-signing")
@engine_options
@json_option
def rotate_signing(*, as_json: bool, **flags: Any) -> None:
    """Sign new assignment ids with a new secret. Older ids stay valid until you retire their secret."""

    async def run(access: "AccessService") -> None:
        key_id = await access.rotate_signing_key()
        show({"key_id": key_id}, f"Assignment ids are now signed with key {key_id}.", as_json=as_json)

    _run_with_access(flags, run)


@keys_command.command("retire-signing", epilog="Example: wald keys retire-signing 1")
@engine_options
@click.argument("key_id", type=click.IntRange(1, 255))
@json_option
def retire_signing(key_id: int, *, as_json: bool, **flags: Any) -> None:
    """Refuse assignment ids that were signed with an old secret."""

    async def run(access: "AccessService") -> None:
        await access.retire_signing_key(key_id)
        show({"key_id": key_id, "retired": True}, f"Signing key {key_id} is retired.", as_json=as_json)

    _run_with_access(flags, run)


def _run_with_access(
    flags: dict[str, Any], use: Callable[["AccessService"], Coroutine[Any, Any, None]]
) -> None:
    from app.access.service import AccessService
    from app.access.store import AccessStore
    from app.core.clock import SystemClock

    async def run(stores: Stores) -> None:
        await use(AccessService(AccessStore(stores.engine, stores.valkey), SystemClock()))

    run_on_stores(flags, run)
