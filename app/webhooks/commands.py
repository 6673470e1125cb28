"""The commands `wald webhooks`, on the engines themselves."""

from collections.abc import Callable, Coroutine
from typing import Any

import rich_click as click
from rich.markup import escape
from rich.table import Table

from app.core import limits, process
from app.core.clock import SystemClock
from app.core.commands import ERR, OUT, engine_options, run_with_engines
from app.core.postgres import create_engine
from app.core.settings import Settings
from app.core.timekeeping import TimeKeeper
from app.webhooks.destination import NetworkPolicy
from app.webhooks.model import Adapter, Endpoint
from app.webhooks.service import EndpointRequest, RotateRequest, WebhookService
from app.webhooks.store import WebhookStore


@click.group()
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
        ERR.print(f"Webhook {endpoint.id} is added.")
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
        OUT.print(table)

    _run_with_webhooks(flags, run)


@webhooks.command("remove")
@engine_options
@click.argument("webhook_id", type=int)
def remove_webhook(webhook_id: int, **flags: Any) -> None:
    """Forget a receiver and its deliveries."""

    async def run(service: WebhookService) -> None:
        await service.delete(webhook_id)
        OUT.print(f"Webhook {webhook_id} is removed.")

    _run_with_webhooks(flags, run)


@webhooks.command("rotate")
@engine_options
@click.argument("webhook_id", type=int)
@click.option("--secret", help="The receiver's new one, where it makes it.")
def rotate_webhook(webhook_id: int, secret: str | None, **flags: Any) -> None:
    """Take a new secret and print it, once; the one of before signs as well for a day."""

    async def run(service: WebhookService) -> None:
        _, made = await service.rotate(webhook_id, RotateRequest(secret))
        ERR.print(f"Webhook {webhook_id} has a new secret.")
        _print_secret(made)

    _run_with_webhooks(flags, run)


@webhooks.command("ping")
@engine_options
@click.argument("webhook_id", type=int)
def ping_webhook(webhook_id: int, **flags: Any) -> None:
    """Have the worker send a test event."""

    async def run(service: WebhookService) -> None:
        OUT.print(f"Message {await service.ping(webhook_id)} is on its way.")

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
        OUT.print(table)

    _run_with_webhooks(flags, run)


@webhooks.command("redeliver")
@engine_options
@click.argument("delivery_id", type=int)
def redeliver(delivery_id: int, **flags: Any) -> None:
    """Send a message again, with the id that it had."""

    async def run(service: WebhookService) -> None:
        delivery = await service.redeliver(delivery_id)
        OUT.print(f"Message {delivery.webhook_id} is sent again.")

    _run_with_webhooks(flags, run)


def _run_with_webhooks(
    flags: dict[str, Any], use: Callable[[WebhookService], Coroutine[Any, Any, None]]
) -> None:
    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        await TimeKeeper(settings.database_url, process.NAME).start()
        engine = create_engine(settings.database_url)
        policy = NetworkPolicy.of(settings.webhook_allowed_networks, settings.webhook_allowed_ports)
        try:
            await use(WebhookService(WebhookStore(engine), policy, SystemClock()))
        finally:
            await engine.dispose()

    run_with_engines(flags, run)


def _print_secret(secret: str | None) -> None:
    """To standard output, alone, where it was made here."""
    if secret is not None:
        ERR.print("Its signing secret is shown only now:")
        click.echo(secret)


def _webhook_state(endpoint: Endpoint) -> str:
    if endpoint.disabled is not None:
        return f"disabled: {endpoint.disabled.reason}"
    if endpoint.failing_since is not None:
        return f"failing since {endpoint.failing_since.isoformat(' ', 'minutes')}"
    return "enabled"
