"""The command `wald`."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec
import rich_click as click
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app import __version__
from app.access.model import KeyKind, Scope
from app.access.service import AccessService, KeyRequest
from app.access.store import AccessStore
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.clients.aa import aa_command
from app.clients.commands import demo_command, replay_command
from app.clients.evaluate import evaluate_command
from app.clients.export import export_command
from app.clients.offline import analyze_command, power_command
from app.clients.rollout import explain_command, kill_command, revive_command, rollout_group
from app.clients.series import series_command
from app.clients.simulate import simulate_command
from app.core import limits, logs, migrations
from app.core.clock import SystemClock
from app.core.engines import EmbeddedEngines
from app.core.errors import WaldError
from app.core.postgres import create_engine
from app.core.settings import Durability, Settings
from app.core.valkey import create_client
from app.feedback.rebuild import rebuild_totals
from app.webhooks.destination import NetworkPolicy
from app.webhooks.model import Adapter, Endpoint
from app.webhooks.service import EndpointRequest, RotateRequest, WebhookService
from app.webhooks.store import WebhookStore

P = ParamSpec("P")
T = TypeVar("T")

click.rich_click.TEXT_MARKUP = "markdown"
click.rich_click.COMMAND_GROUPS = {
    "wald": [
        {"name": "Run", "commands": ["up", "serve", "worker"]},
        {"name": "Operate", "commands": ["keys", "webhooks", "migrate", "rebuild", "doctor"]},
        {"name": "Roll out", "commands": ["rollout", "explain", "kill", "revive"]},
        {"name": "Try", "commands": ["demo", "replay"]},
        {
            "name": "Plan and analyze",
            "commands": ["power", "simulate", "analyze", "series", "evaluate", "aa"],
        },
    ]
}

_OUT = Console()
_ERR = Console(stderr=True)


def engine_options(command: Callable[P, T]) -> Callable[P, T]:
    """The options that say where the engines are."""
    options = (
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help="Folder of the embedded engines.  [env: WALD_DATA_DIR; default: .wald]",
        ),
        click.option(
            "--valkey-url",
            help="A Valkey or Redis 7+ of your own instead of the embedded one.  [env: WALD_VALKEY_URL]",
        ),
        click.option(
            "--database-url",
            help="A PostgreSQL 15+ of your own instead of the embedded one.  [env: WALD_DATABASE_URL]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def serving_options(command: Callable[P, T]) -> Callable[P, T]:
    """The options of whatever listens."""
    options = (
        click.option("--host", help="Address to listen on.  [env: WALD_HOST; default: 127.0.0.1]"),
        click.option("--port", type=int, help="Port to listen on.  [env: WALD_PORT; default: 8000]"),
        click.option(
            "--log-level", help="debug, info, warning, error.  [env: WALD_LOG_LEVEL; default: info]"
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wald")
def main() -> None:
    """Wald decides which variant of your LLM product serves each request, and learns from what happens next.

    Start everything on this machine, with its own Valkey and PostgreSQL in one folder:

        wald up --data-dir .wald --port 8000

    Then watch it learn on a simulated product, in another terminal:

        wald demo --key KEY

    Every option can be set as an environment variable `WALD_...`; a flag wins.
    """


@main.command()
@engine_options
@serving_options
@click.option("--workers", type=int, help="Number of serving processes.  [env: WALD_WORKERS; default: 1]")
@click.option(
    "--demo/--no-demo", default=False, help="Define a demo experiment and send it a trickle of traffic."
)
def up(**flags: Any) -> None:
    """Run everything on this machine: engines, servers and worker, and restart what dies.

    Engines that are not named by a URL run embedded, with their data in the data folder. The first start
    prints an admin key, once; set WALD_ADMIN_KEY to choose it yourself.
    """
    from app import up as composition  # noqa: PLC0415  (each command loads only what it needs)
    from app import welcome  # noqa: PLC0415

    with_demo = flags.pop("demo")
    settings = _settings(flags)
    logs.configure(settings.log_level, process="up")

    async def run() -> None:
        await composition.run(
            settings,
            on_engines_ready=partial(welcome.ensure_keys, settings),
            on_ready=partial(welcome.greet, settings, demo=with_demo),
        )

    with _errors_told():
        uvloop.run(run())


@main.command()
@engine_options
@serving_options
@click.option(
    "--durability",
    type=click.Choice([level.value for level in Durability]),
    help="What an answered assignment survives.  [env: WALD_DURABILITY; default: durable]",
)
def serve(**flags: Any) -> None:
    """Answer HTTP from one process. Needs the engines by URL, or a running `wald up` on the data folder.

    Run as many as you like behind a balancer, or on one port of one machine.
    """
    from app import server  # noqa: PLC0415

    _run_process("serve", flags, server.serve)


@main.command()
@engine_options
@serving_options
def worker(**flags: Any) -> None:
    """Do all that is not a request: ledger, horizons, allocation, publication.

    Run one or several: they share the stream shards by leases. Its port answers /health, /ready and /metrics;
    port 0, the default here, leaves that out.
    """
    from app import worker as composition  # noqa: PLC0415

    flags["port"] = flags["port"] or 0
    _run_process("worker", flags, composition.work)


@main.command()
@engine_options
@click.option("--to", default="head", show_default=True, help="The revision to migrate to.")
def migrate(to: str, **flags: Any) -> None:
    """Bring the database to the schema of this version. Safe to run from several places at once."""

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        revision = await asyncio.to_thread(migrations.upgrade, settings.database_url, to)
        _OUT.print(f"The database is at revision [bold]{revision}[/].")

    _run_with_engines(flags, run)


@main.command()
@engine_options
def rebuild(**flags: Any) -> None:
    """Compute everything anew from the log: rewards, totals, shares, and what servers load.

    Harmless at any time. Says what was not as the log has it; exit status 1 if there was anything.
    """

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        assert settings.valkey_url is not None
        engine, valkey = create_engine(settings.database_url), create_client(settings.valkey_url)
        allocation = AllocationService(AllocationStore(engine, valkey), SystemClock())
        try:
            with _ERR.status("Reading the log"):
                rebuilt = await allocation.rebuild(partial(rebuild_totals, settings.database_url))
            await AccessService(AccessStore(engine, valkey), SystemClock()).publish()
        finally:
            await valkey.aclose()
            await engine.dispose()
        for total in rebuilt.ledger.totals:
            where = f"experiment {total.experiment_id}, epoch {total.epoch}, variant {total.variant}"
            _OUT.print(f"{where}: totals were {total.before}, are now {total.after}")
        for one in rebuilt.ledger.learned:
            where = f"experiment {one.experiment_id}, epoch {one.epoch}, variant {one.variant}"
            _OUT.print(f"{where}: what its policy learned was not what the log gives")
        for cell in rebuilt.ledger.cells:
            where = f"experiment {cell.experiment_id}, epoch {cell.epoch}, variant {cell.variant}"
            _OUT.print(f"{where}: totals of its metrics were not what its units come to")
        for drawn in rebuilt.ledger.draws:
            where = f"experiment {drawn.experiment_id}, epoch {drawn.epoch}, variant {drawn.variant}"
            _OUT.print(f"{where}: its draws and their probabilities were not what the log gives")
        for moved in rebuilt.ledger.series:
            where = f"experiment {moved.experiment_id}, epoch {moved.epoch}, variant {moved.variant}"
            _OUT.print(f"{where}: its series were not what its units come to")
        for experiment_id in rebuilt.ledger.rewards:
            _OUT.print(f"experiment {experiment_id}: a stored reward was not what its signals give")
        for experiment_id in rebuilt.weights:
            _OUT.print(f"experiment {experiment_id}: its shares were not what its totals give")
        if not rebuilt.equal:
            sys.exit(1)
        _OUT.print("Log, totals and shares agree bit for bit; everything is published.")

    _run_with_engines(flags, run)


@main.command("doctor")
@engine_options
def examine_all(**flags: Any) -> None:
    """Check engines, versions, durability, schema, clocks, disk and memory, and say what to do.

    Exit status 1 if something does not work or may lose what was acknowledged.
    """
    from app import doctor  # noqa: PLC0415

    async def run(settings: Settings) -> None:
        findings = await doctor.examine(settings, SystemClock())
        _OUT.print(doctor.table(findings))
        if doctor.verdict(findings) is doctor.Verdict.FAIL:
            sys.exit(1)

    _run_with_engines(flags, run)


@main.group()
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
@click.option(
    "--expires-at", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]), help="As in 2030-01-31T00:00:00+00:00."
)
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
        _ERR.print(f"Key {stored.id} ({', '.join(sorted(stored.scopes))}). It is shown only now:")
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
        _OUT.print(table)

    _run_with_access(flags, run)


@keys.command("revoke")
@engine_options
@click.argument("key_id", type=int)
def revoke_key(key_id: int, **flags: Any) -> None:
    """Take a key out of force on every server, within seconds and for good."""

    async def run(access: AccessService) -> None:
        await access.revoke(key_id)
        _OUT.print(f"Key {key_id} is revoked.")

    _run_with_access(flags, run)


@keys.command("rotate-signing")
@engine_options
def rotate_signing(**flags: Any) -> None:
    """Sign new assignment ids with a new secret; ids signed before stay good until their key is retired."""

    async def run(access: AccessService) -> None:
        key_id = await access.rotate_signing_key()
        _OUT.print(f"Assignment ids are now signed with key {key_id}.")

    _run_with_access(flags, run)


@keys.command("retire-signing")
@engine_options
@click.argument("key_id", type=click.IntRange(1, 255))
def retire_signing(key_id: int, **flags: Any) -> None:
    """Refuse assignment ids signed with an old secret from now on."""

    async def run(access: AccessService) -> None:
        await access.retire_signing_key(key_id)
        _OUT.print(f"Signing key {key_id} is retired.")

    _run_with_access(flags, run)


@main.group()
def webhooks() -> None:
    """Tell other systems what happens: who is told, with which secret, and what became of it."""


@webhooks.command("add")
@engine_options
@click.argument("url")
@click.option(
    "--adapter",
    type=click.Choice([adapter.value for adapter in Adapter]),
    default=Adapter.STANDARD.value,
    show_default=True,
    help="What the receiver understands.",
)
@click.option("--event", "events", multiple=True, help="Only these types: TYPE or PREFIX.*; may be repeated.")
@click.option("--secret", help="PagerDuty's routing key, the token of GitHub or Alertmanager.")
@click.option("--description", default="", help="For people.")
def add_webhook(
    url: str, adapter: str, events: tuple[str, ...], secret: str | None, description: str, **flags: Any
) -> None:
    """Add a receiver and print its signing secret, once.

    For example:

    wald webhooks add https://example.com/hooks/wald --event "rollout.*"
    """

    async def run(service: WebhookService) -> None:
        endpoint, made = await service.create(
            EndpointRequest(
                url=url,
                adapter=Adapter(adapter),
                events=events or ("*",),
                description=description,
                secret=secret,
            )
        )
        _ERR.print(f"Webhook {endpoint.id} is added.")
        _print_secret(made)

    _run_with_webhooks(flags, run)


@webhooks.command("list")
@engine_options
def list_webhooks(**flags: Any) -> None:
    """Show the receivers, never their secrets."""

    async def run(service: WebhookService) -> None:
        table = Table("id", "url", "adapter", "events", "state", "made", box=None)
        for one in await service.list():
            made = one.created_at.isoformat(" ", "minutes")
            row = (str(one.id), one.shown_url, one.adapter, " ".join(one.events), _webhook_state(one), made)
            table.add_row(*map(escape, row))
        _OUT.print(table)

    _run_with_webhooks(flags, run)


@webhooks.command("remove")
@engine_options
@click.argument("webhook_id", type=int)
def remove_webhook(webhook_id: int, **flags: Any) -> None:
    """Forget a receiver and its deliveries."""

    async def run(service: WebhookService) -> None:
        await service.delete(webhook_id)
        _OUT.print(f"Webhook {webhook_id} is removed.")

    _run_with_webhooks(flags, run)


@webhooks.command("rotate")
@engine_options
@click.argument("webhook_id", type=int)
@click.option("--secret", help="The receiver's new one, where it makes it.")
def rotate_webhook(webhook_id: int, secret: str | None, **flags: Any) -> None:
    """Take a new secret and print it, once; the one of before signs as well for a day."""

    async def run(service: WebhookService) -> None:
        _, made = await service.rotate(webhook_id, RotateRequest(secret))
        _ERR.print(f"Webhook {webhook_id} has a new secret.")
        _print_secret(made)

    _run_with_webhooks(flags, run)


@webhooks.command("ping")
@engine_options
@click.argument("webhook_id", type=int)
def ping_webhook(webhook_id: int, **flags: Any) -> None:
    """Have the worker send a test event."""

    async def run(service: WebhookService) -> None:
        _OUT.print(f"Message {await service.ping(webhook_id)} is on its way.")

    _run_with_webhooks(flags, run)


@webhooks.command("deliveries")
@engine_options
@click.argument("webhook_id", type=int)
@click.option("--limit", type=click.IntRange(1, limits.PAGE_SIZE_MAX), default=20, show_default=True)
def list_deliveries(webhook_id: int, limit: int, **flags: Any) -> None:
    """Show what was and will be sent to a receiver, newest first."""

    async def run(service: WebhookService) -> None:
        table = Table("id", "message", "type", "state", "attempts", "last answer", "next", box=None)
        deliveries, _ = await service.deliveries(webhook_id, after=None, limit=limit)
        for one in deliveries:
            last = one.attempts[0] if one.attempts else None
            answer = "" if last is None else last.error or str(last.status)
            following = one.next_attempt_at.isoformat(" ", "seconds") if one.next_attempt_at else ""
            count = str(0 if last is None else last.number)
            row = (str(one.id), one.webhook_id, one.type, one.state, count, answer, following)
            table.add_row(*map(escape, row))
        _OUT.print(table)

    _run_with_webhooks(flags, run)


@webhooks.command("redeliver")
@engine_options
@click.argument("delivery_id", type=int)
def redeliver(delivery_id: int, **flags: Any) -> None:
    """Send a message again, with the id that it had."""

    async def run(service: WebhookService) -> None:
        delivery = await service.redeliver(delivery_id)
        _OUT.print(f"Message {delivery.webhook_id} is sent again.")

    _run_with_webhooks(flags, run)


main.add_command(analyze_command)
main.add_command(power_command)
main.add_command(demo_command)
main.add_command(replay_command)
main.add_command(simulate_command)
main.add_command(evaluate_command)
main.add_command(series_command)
main.add_command(aa_command)
main.add_command(rollout_group)
main.add_command(explain_command)
main.add_command(kill_command)
main.add_command(revive_command)
main.add_command(export_command)


def _settings(flags: dict[str, Any]) -> Settings:
    try:
        return Settings.load(**flags)
    except WaldError as error:
        raise click.UsageError(error.detail) from error


def _run_process(
    name: str, flags: dict[str, Any], main: Callable[[Settings], Coroutine[Any, Any, None]]
) -> None:
    """Run one of the processes of a deployment until SIGTERM or SIGINT."""

    async def run(settings: Settings) -> None:
        logs.configure(settings.log_level, process=name)
        await main(settings)

    _run_with_engines(flags, run)


def _run_with_access(
    flags: dict[str, Any], use: Callable[[AccessService], Coroutine[Any, Any, None]]
) -> None:
    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        assert settings.valkey_url is not None
        engine, valkey = create_engine(settings.database_url), create_client(settings.valkey_url)
        try:
            await use(AccessService(AccessStore(engine, valkey), SystemClock()))
        finally:
            await valkey.aclose()
            await engine.dispose()

    _run_with_engines(flags, run)


def _run_with_webhooks(
    flags: dict[str, Any], use: Callable[[WebhookService], Coroutine[Any, Any, None]]
) -> None:
    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        engine = create_engine(settings.database_url)
        policy = NetworkPolicy.of(settings.webhook_allowed_networks, settings.webhook_allowed_ports)
        try:
            await use(WebhookService(WebhookStore(engine), policy, SystemClock()))
        finally:
            await engine.dispose()

    _run_with_engines(flags, run)


def _print_secret(secret: str | None) -> None:
    """To standard output, alone, where it was made here."""
    if secret is not None:
        _ERR.print("Its signing secret is shown only now:")
        click.echo(secret)


def _webhook_state(endpoint: Endpoint) -> str:
    if endpoint.disabled is not None:
        return f"disabled: {endpoint.disabled.reason}"
    if endpoint.failing_since is not None:
        return f"failing since {endpoint.failing_since.isoformat(' ', 'minutes')}"
    return "enabled"


def _run_with_engines(flags: dict[str, Any], use: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """Run `use` with both URLs known: as given, or of the engines of the data folder."""
    settings = _settings(flags)

    async def run() -> None:
        async with AsyncExitStack() as stack:
            await use(await connected(settings, stack))

    with _errors_told():
        uvloop.run(run())


@contextmanager
def _errors_told() -> Iterator[None]:
    """What can go wrong in words, and exit status 1; anything else is a bug and keeps its traceback."""
    try:
        yield
    except WaldError as error:
        raise click.ClickException(error.detail) from error


async def connected(settings: Settings, stack: AsyncExitStack) -> Settings:
    """The settings with both URLs; engines that none names run embedded until `stack` closes."""
    if settings.valkey_url and settings.database_url:
        return settings
    engines = await stack.enter_async_context(
        EmbeddedEngines(
            settings.data_dir, valkey=settings.valkey_url is None, postgres=settings.database_url is None
        )
    )
    return msgspec.structs.replace(
        settings,
        valkey_url=settings.valkey_url or engines.valkey_url,
        database_url=settings.database_url or engines.database_url,
    )


if __name__ == "__main__":
    main()
