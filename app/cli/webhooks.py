"""The commands `wald webhooks`, on the engines themselves."""

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import rich_click as click

from app.cli.command_line import Group
from app.cli.display.amounts import minute
from app.cli.display.tables import Column, Table
from app.cli.engines import Stores, run_on_stores
from app.cli.options import engine_options, json_option
from app.cli.terminal import emit_json, err, show
from app.core.limits import PAGE_SIZE_MAX
from app.webhooks.model import Adapter, Delivery, Endpoint

if TYPE_CHECKING:  # loads the clients of the engines
    from app.webhooks.service import WebhookService


@click.group("webhooks", cls=Group)
def webhooks_command() -> None:
    """Notify other systems of events. Manage receivers, their secrets, and deliveries."""


@webhooks_command.command(
    "add", epilog='Example: wald webhooks add https://example.com/hooks/wald --event "rollout.*"'
)
@engine_options
@click.argument("url")
@click.option(
    "--adapter",
    type=click.Choice([adapter.value for adapter in Adapter]),
    default=Adapter.STANDARD.value,
    show_default=True,
    help="The format that the receiver understands.",
)
@click.option("--event", "events", multiple=True, help="Send only these types: TYPE or PREFIX.*. Repeatable.")
@click.option("--secret", help="The routing key of PagerDuty, or the token of GitHub or Alertmanager.")
@click.option("--description", default="", help="A note for people.")
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
    """Add a receiver and print its signing secret, once."""
    from app.webhooks.service import EndpointRequest

    async def run(service: "WebhookService") -> None:
        endpoint, generated = await service.create(
            EndpointRequest(
                url=url,
                adapter=Adapter(adapter),
                events=events or ("*",),
                description=description,
                secret=secret,
            )
        )
        _print_secret(endpoint, generated, f"Webhook {endpoint.id} is added.", as_json=as_json)

    _run_with_webhooks(flags, run)


@webhooks_command.command("list", epilog="Example: wald webhooks list")
@engine_options
@json_option
def list_webhooks(*, as_json: bool, **flags: Any) -> None:
    """List the receivers, without their secrets."""

    async def run(service: "WebhookService") -> None:
        from app.webhooks.routes import WebhookList, WebhookView

        endpoints = await service.list()
        value = WebhookList([WebhookView.of(endpoint) for endpoint in endpoints])
        show(value, lambda: webhooks_table(endpoints), as_json=as_json)

    _run_with_webhooks(flags, run)


def webhooks_table(endpoints: Sequence[Endpoint]) -> Table:
    """Return a table of receivers, without their secrets."""
    table = Table(
        Column("id"),
        Column("url", "name"),
        Column("adapter", "text"),
        Column("events", "text"),
        Column("state", "text"),
        Column("created (UTC)"),
    )
    for endpoint in endpoints:
        events, created = " ".join(endpoint.events), minute(endpoint.created_at)
        state = _webhook_state(endpoint)
        table.add(str(endpoint.id), endpoint.shown_url, endpoint.adapter, events, state, created)
    return table


@webhooks_command.command("remove", epilog="Example: wald webhooks remove 3")
@engine_options
@click.argument("webhook_id", type=int)
@json_option
def remove_webhook(webhook_id: int, *, as_json: bool, **flags: Any) -> None:
    """Remove a receiver and its deliveries."""

    async def run(service: "WebhookService") -> None:
        await service.delete(webhook_id)
        show({"id": webhook_id, "removed": True}, f"Webhook {webhook_id} is removed.", as_json=as_json)

    _run_with_webhooks(flags, run)


@webhooks_command.command("rotate", epilog="Example: wald webhooks rotate 3")
@engine_options
@click.argument("webhook_id", type=int)
@click.option("--secret", help="The new secret, if the receiver chooses it.")
@json_option
def rotate_webhook(webhook_id: int, secret: str | None, *, as_json: bool, **flags: Any) -> None:
    """Sign with a new secret and print it, once. The old secret also signs for another day."""
    from app.webhooks.service import RotateRequest

    async def run(service: "WebhookService") -> None:
        endpoint, generated = await service.rotate(webhook_id, RotateRequest(secret))
        _print_secret(endpoint, generated, f"Webhook {webhook_id} has a new secret.", as_json=as_json)

    _run_with_webhooks(flags, run)


@webhooks_command.command("ping", epilog="Example: wald webhooks ping 3")
@engine_options
@click.argument("webhook_id", type=int)
@json_option
def ping_webhook(webhook_id: int, *, as_json: bool, **flags: Any) -> None:
    """Let the worker send a test event to a receiver."""

    async def run(service: "WebhookService") -> None:
        message = await service.ping(webhook_id)
        show({"webhook_id": message}, f"Message {message} is on its way.", as_json=as_json)

    _run_with_webhooks(flags, run)


@webhooks_command.command("deliveries", epilog="Example: wald webhooks deliveries 3")
@engine_options
@click.argument("webhook_id", type=int)
@click.option("--limit", type=click.IntRange(1, PAGE_SIZE_MAX), default=20, show_default=True)
@json_option
def list_deliveries(webhook_id: int, limit: int, *, as_json: bool, **flags: Any) -> None:
    """List the messages that were or will be sent to a receiver, newest first."""

    async def run(service: "WebhookService") -> None:
        from app.webhooks.routes import DeliveryPage

        deliveries, following = await service.deliveries(webhook_id, after=None, limit=limit)
        show(DeliveryPage(deliveries, following), lambda: _deliveries_table(deliveries), as_json=as_json)

    _run_with_webhooks(flags, run)


def _deliveries_table(deliveries: Sequence[Delivery]) -> Table:
    table = Table(
        Column("id"),
        Column("message", "name"),
        Column("type", "text"),
        Column("state", "text"),
        Column("attempts"),
        Column("last answer", "text"),
        Column("next attempt"),
    )
    for delivery in deliveries:
        last = delivery.attempts[0] if delivery.attempts else None
        answer = "" if last is None else last.error or str(last.status)
        due = delivery.next_attempt_at.isoformat(" ", "seconds") if delivery.next_attempt_at else ""
        attempts = str(0 if last is None else last.number)
        table.add(str(delivery.id), delivery.webhook_id, delivery.type, delivery.state, attempts, answer, due)
    return table


@webhooks_command.command("redeliver", epilog="Example: wald webhooks redeliver 12")
@engine_options
@click.argument("delivery_id", type=int)
@json_option
def redeliver(delivery_id: int, *, as_json: bool, **flags: Any) -> None:
    """Send a message again, with the same message id."""

    async def run(service: "WebhookService") -> None:
        delivery = await service.redeliver(delivery_id)
        show(delivery, f"Message {delivery.webhook_id} is sent again.", as_json=as_json)

    _run_with_webhooks(flags, run)


def _run_with_webhooks(
    flags: dict[str, Any], use: Callable[["WebhookService"], Coroutine[Any, Any, None]]
) -> None:
    from app.core.clock import SystemClock
    from app.webhooks.destination import NetworkPolicy
    from app.webhooks.service import WebhookService
    from app.webhooks.store import WebhookStore

    async def run(stores: Stores) -> None:
        settings = stores.settings
        policy = NetworkPolicy.of(settings.webhook_allowed_networks, settings.webhook_allowed_ports)
        await use(WebhookService(WebhookStore(stores.engine), policy, SystemClock()))

    run_on_stores(flags, run)


def _print_secret(endpoint: Endpoint, secret: str | None, sentence: str, *, as_json: bool) -> None:
    """Print the receiver and its secret as JSON; or a generated secret alone to standard output."""
    if as_json:
        from app.webhooks.routes import WebhookView, WebhookWithSecret

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
        return f"failing since {minute(endpoint.failing_since)}"
    return "enabled"
