"""The command `wald evaluate`."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console, Group, RenderableType
from rich.table import Table

from app.clients.client import ClientError, WaldClient
from app.clients.commands import read_key_option, url_option
from app.clients.simulate import NameOrJson
from app.core.commands import Moment
from app.evaluation.model import Evaluation


@click.command("evaluate")
@click.argument("experiment")
@url_option
@read_key_option
@click.option(
    "--policy",
    type=NameOrJson(),
    required=True,
    help="A name (fixed is an even split), or an object as in a definition, such as "
    '{"kind": "fixed", "weights": {"short": 1}}.',
)
@click.option(
    "--schema",
    metavar="JSON|@FILE",
    help='How contexts become numbers, as {"features": [{"type": "numeric", "name": "length"}]}. '
    "lin_ts, lin_ucb and logistic_ts need it; others are estimated more sharply with it.",
)
@click.option("--since", type=Moment(), help="Only assignments from then on; UTC unless it has an offset.")
@click.option("--until", type=Moment(), help="Only assignments before.")
@click.option("--level", type=float, default=0.95, show_default=True, help="Of all intervals.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's answer.")
def evaluate_command(
    *,
    experiment: str,
    url: str,
    key: str,
    policy: str | dict[str, Any],
    schema: str | None,
    since: datetime | None,
    until: datetime | None,
    level: float,
    as_json: bool,
) -> None:
    """Ask what another policy would have earned on the traffic of EXPERIMENT.

    Nothing is served anew. Every logged assignment has the probability with which its variant was drawn;
    weighting it by how much more, or less, likely the other policy would have drawn it makes the log speak
    for that policy:

        wald evaluate summary-prompt --policy '{"kind": "fixed", "weights": {"short": 1}}'
        wald evaluate summary-prompt --policy thompson
        wald evaluate summary-prompt --policy lin_ts --schema @schema.json --since 2026-01-05

    A policy that learns is judged only on rows that it has not learned from: the log is split into five
    parts, and for each part it decides as it would after the other four. That is the policy at the end of its
    learning, not the way there.

    How to read it:

    * *doubly_robust* is the number to quote. It starts from predicted rewards and corrects them by the log;
      *ips* does without predictions, *self_normalised* divides by the sum of weights. Three readings far
      apart mean that the log says little.
    * The *interval for one look* is right when you look once, at a time you did not choose by the results.
      The one *at every look* is right however often you look, and wider.
    * *effective rows*: so many requests served by the other policy itself would tell as much. Below 100 be
      careful, below 30 there is no answer: the log hardly ever served what the policy would serve. A higher
      exploration floor makes logs that can answer more questions.
    * *largest weight*: how often a single row counts. If one row carries a tenth of all weight, an estimate
      stands and falls with it.
    * *shares*: what the policy would have served on average.

    It is about the traffic as it was: another policy does not change who comes, and the variants of the
    experiment are all there is to choose from.
    """
    request = {
        "policy": policy,
        "schema": _schema(schema),
        "since": since,
        "until": until,
        "level": level,
    }

    async def ask() -> Evaluation:
        async with WaldClient(url, key) as client:
            return await client.evaluate(experiment, request)

    try:
        found = asyncio.run(ask())
    except ClientError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
        return
    Console().print(report(found))


def report(found: Evaluation) -> RenderableType:
    """The answer, its estimates, and how far to trust them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("estimate")
    for heading in ("per request", "standard error", "interval for one look"):
        table.add_column(heading, justify="right")
    for name, one in (*found.estimates.items(), ("as it was served", found.logged)):
        low, high = one.interval
        table.add_row(name, f"{one.value:.4f}", f"{one.standard_error:.4f}", f"{low:.4f} to {high:.4f}")
    low, high = found.anytime_interval
    overlap = found.overlap
    shares = ", ".join(f"{key} {share:.1%}" for key, share in found.shares.items())
    return Group(
        f"[bold]{found.summary}[/]",
        "",
        table,
        "",
        f"interval at every look {low:.4f} to {high:.4f}",
        f"effective rows {overlap.effective_rows:,.0f} of {overlap.rows:,}, largest weight "
        f"{overlap.largest_weight:.3g} ({overlap.largest_weight_share:.2%} of all)",
        f"shares: {shares}",
        f"{found.fitted}",
        *(f"[yellow]warning:[/] {warning}" for warning in found.warnings),
    )


def _schema(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        source = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        found: dict[str, Any] = json.loads(source)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--schema: {error}") from error
    return found
