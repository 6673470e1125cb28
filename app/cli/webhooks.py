"""The commands `wald webhooks`, on the engines themselves."""

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import rich_click as click

from app.cli.command_line import Group
from app.cli.options import engine_options, json_option, run_with_engines
from app.cli.tables import Column, Table
from app.cli.terminal import answer, emit_json, err, out
from app.core.limits import PAGE_SIZE_MAX
from app.core.settings import Settings
from app.webhooks.model import Adapter, Endpoint

if TYPE_CHECKING:  # loads the clients of the engines
    from app.webhooks.service import WebhookService


@click.group(cls=Group)
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
@json_option
def add_webhook(
    url: str,
    adapter: str,
    events: tuple[str, ...],
    secret: str | None,
    description: str,
    *,
    as_json: bool,
    **flags: Any,
) -> None:
    """Add a receiver and print its signing secret, once.

    For example:

    wald webhooks add https://example.com/hooks/wald --event "rollout.*"
    """
    from app.webhooks.service import EndpointRequest  # noqa: PLC0415 - loads the clients of the engines

    async def run(service: "WebhookService") -> None:
        endpoint, made = await service.create(
            EndpointRequest(
                url=url,
                adapter=Adapter(adapter),
                events=events or ("*",),
                description=description,
                secret=secret,
            )
        )
        _print_secret(endpoint, made, f"Webhook {endpoint.id} is added.", as_json=as_json)

    _run_with_webhooks(flags, run)


@webhooks.command("list")
@engine_options
@json_option
def list_webhooks(*, as_json: bool, **flags: Any) -> None:
    """Show the receivers, never their secrets."""

    async def run(service: "WebhookService") -> None:
        listed = await service.list()
        if as_json:
            from app.webhooks.routes import WebhookList, WebhookView  # noqa: PLC0415 - loads the web framework

            emit_json(WebhookList([WebhookView.of(one) for one in listed]))
            return
        out().print(webhooks_table(listed))

    _run_with_webhooks(flags, run)


def webhooks_table(listed: Sequence[Endpoint]) -> Table:
    """Receivers, without their secrets."""
    table = Table(
        Column("id"),
        Column("url", "name"),
        Column("adapter", "text"),
        Column("events", "text"),
        Column("state", "text"),
        Column("made"),
    )
    for one in listed:
        made = one.created_at.isoformat(" ", "minutes")
        events = " ".join(one.events)
        table.add(str(one.id), one.shown_url, one.adapter, events, _webhook_state(one), made)
    return table


@webhooks.command("remove")
@engine_options
@click.argument("webhook_id", type=int)
@json_option
def remove_webhook(webhook_id: int, *, as_json: bool, **flags: Any) -> None:
    """Forget a receiver and its deliveries."""

    async def run(service: "WebhookService") -> None:
        await service.delete(webhook_id)
        answer(f"Webhook {webhook_id} is removed.", {"id": webhook_id, "removed": True}, as_json=as_json)

    _run_with_webhooks(flags, run)


@webhooks.command("rotate")
@engine_options
@click.argument("webhook_id", type=int)
@click.option("--secret", help="The receiver's new one, where it makes it.")
@json_option
def rotate_webhook(webhook_id: int, secret: str | None, *, as_json: bool, **flags: Any) -> None:
    """Take a new secret and print it, once; the one of before signs as well for a day."""
    from app.webhooks.service import RotateRequest  # noqa: PLC0415 - loads the clients of the engines

    async def run(service: "WebhookService") -> None:
        endpoint, made = await service.rotate(webhook_id, RotateRequest(secret))
        _print_secret(endpoint, made, f"Webhook {webhook_id} has a new secret.", as_json=as_json)

    _run_with_webhooks(flags, run)


@webhooks.command("ping")
@engine_options
@click.argument("webhook_id", type=int)
@json_option
def ping_webhook(webhook_id: int, *, as_json: bool, **flags: Any) -> None:
    """Have the worker send a test event."""

    async def run(service: "WebhookService") -> None:
        message = await service.ping(webhook_id)
        answer(f"Message {message} is on its way.", {"webhook_id": message}, as_json=as_json)

    _run_with_webhooks(flags, run)


@webhooks.command("deliveries")
@engine_options
@click.argument("webhook_id", type=int)
@click.option("--limit", type=click.IntRange(1, PAGE_SIZE_MAX), default=20, show_default=True)
@json_option
def list_deliveries(webhook_id: int, limit: int, *, as_json: bool, **flags: Any) -> None:
    """Show what was and will be sent to a receiver, newest first."""

    async def run(service: "WebhookService") -> None:
        deliveries, following = await service.deliveries(webhook_id, after=None, limit=limit)
        if as_json:
            from app.webhooks.routes import DeliveryPage  # noqa: PLC0415 - loads the web framework

            emit_json(DeliveryPage(deliveries, following))
            return
        table = Table(
            Column("id"),
            Column("message", "name"),
            Column("type", "text"),
            Column("state", "text"),
            Column("attempts"),
            Column("last answer", "text"),
            Column("next"),
        )
        for one in deliveries:
            last = one.attempts[0] if one.attempts else None
            said = "" if last is None else last.error or str(last.status)
            due = one.next_attempt_at.isoformat(" ", "seconds") if one.next_attempt_at else ""
            count = str(0 if last is None else last.number)
            table.add(str(one.id), one.webhook_id, one.type, one.state, count, said, due)
        out().print(table)

    _run_with_webhooks(flags, run)


@webhooks.command("redeliver")
@engine_options
@click.argument("delivery_id", type=int)
@json_option
def redeliver(delivery_id: int, *, as_json: bool, **flags: Any) -> None:
    """Send a message again, with the id that it had."""

    async def run(service: "WebhookService") -> None:
        delivery = await service.redeliver(delivery_id)
        answer(f"Message {delivery.webhook_id} is sent again.", delivery, as_json=as_json)

    _run_with_webhooks(flags, run)


def _run_with_webhooks(
    flags: dict[str, Any], use: Callable[["WebhookService"], Coroutine[Any, Any, None]]
) -> None:
    from app.core import process  # noqa: PLC0415 - loads the clients of the engines
    from app.core.clock import SystemClock  # noqa: PLC0415
    from app.core.postgres import create_engine  # noqa: PLC0415
    from app.core.timekeeping import TimeKeeper  # noqa: PLC0415
    from app.webhooks.destination import NetworkPolicy  # noqa: PLC0415
    from app.webhooks.service import WebhookService  # noqa: PLC0415
    from app.webhooks.store import WebhookStore  # noqa: PLC0415

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


def _print_secret(endpoint: Endpoint, secret: str | None, sentence: str, *, as_json: bool) -> None:
    """To standard output, alone, where it was made here; as JSON with the receiver."""
    if as_json:
        from app.webhooks.routes import WebhookView, WebhookWithSecret  # noqa: PLC0415 - loads the web framework

        emit_json(WebhookWithSecret(WebhookView.of(endpoint), secret))
        return
    err().print(sentence)
    if secret is not None:
        err().print("Its signing secret is shown only now:")
        click.echo(secret)


def _webhook_state(endpoint: Endpoint) -> str:
    if endpoint.disabled is not None:
        return f"disabled: {endpoint.disabled.reason}"
    if endpoint.failing_since is not None:
        return f"failing since {endpoint.failing_since.isoformat(' ', 'minutes')}"
    return "enabled"
