"""The command `wald aa`."""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import rich_click as click
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.analysis.aa import Aa, AaQuestion, AaRate, together
from app.clients.client import ClientError, WaldClient
from app.clients.commands import read_key_option, url_option
from app.clients.display import MISSING
from app.core import limits

_PART: Final = 20
"""Replays per request, so that the bar moves, and nobody else waits long for a computation."""


@click.command("aa")
@click.argument("experiment")
@url_option
@read_key_option
@click.option(
    "--replays",
    type=click.IntRange(1, limits.AA_REPLAYS_MAX),
    default=200,
    show_default=True,
    help="How often to split the control anew.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def aa_command(*, experiment: str, url: str, key: str, replays: int, as_json: bool) -> None:
    """Measure how often the plan of EXPERIMENT decides where nothing differs, on its own data.

    The units of the control are split in two at random, and judged by the experiment's own plan at its own
    looks, as if one half were another variant. They are the same thing, so whatever is decided is false.
    Then they are split anew, again and again:

        wald aa summary-prompt --replays 400

    How to read it:

    * *decided*: in how many replays the plan declared a difference at any look, beside how often it *may*.
      The interval says how exactly that is known: the more replays, the narrower.
    * Fewer than allowed is caution, no fault: a rule that may be looked at all the time spends its error over
      all looks, and heavy tails or rare events make it careful.
    * More than allowed, and surely so: do not trust its decisions on these data. Tails are too heavy, or
      events too rare, for so few units; cap the metric, or wait for more. (Units are split one by one: that
      one user came as many units is not seen here.)
    * *noise floor*: a difference smaller than this is what chance alone makes at one look, with as many units
      as were read. It shrinks with the square root of their number.

    The server reads at most 20,000 units; of more, a random part.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("replaying"),
        BarColumn(None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    try:
        with bar:
            task = bar.add_task("replaying", total=replays)
            found = asyncio.run(_ask(url, key, experiment, replays, lambda done: bar.advance(task, done)))
    except ClientError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
        return
    Console().print(report(found))


async def _ask(url: str, key: str, experiment: str, replays: int, progress: Callable[[int], None]) -> Aa:
    parts: list[Aa] = []
    done = 0
    async with WaldClient(url, key) as client:
        while done < replays:
            wanted = min(_PART, replays - done)
            part = await client.aa(experiment, AaQuestion(replays=wanted, first=done))
            parts.append(part)
            done += part.replays
            progress(part.replays)
    return together(parts)


def report(found: Aa) -> RenderableType:
    """The answer in words, and each metric."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric")
    table.add_column("role")
    for heading in ("units", "noise floor", "of the mean", "decided", "95 % interval", "may"):
        table.add_column(heading, justify="right")
    for one in found.metrics:
        floor, share = one.noise_floor, one.relative_noise_floor
        table.add_row(
            one.metric,
            one.role,
            f"{one.units:,}",
            MISSING if floor is None else f"{floor:.4g}",
            MISSING if share is None else f"{share:.2%}",
            *_rate(one.false_positives),
        )
    looks = "one look" if len(found.looks) == 1 else f"{len(found.looks)} looks"
    of_many = ", a random part of them" if found.sampled else ""
    return Group(
        f"[bold]{found.sentence}[/]",
        "",
        table,
        "",
        f"{found.replays:,} replays with {looks}, on {found.units:,} units of the control{of_many}",
    )


def _rate(rate: AaRate) -> tuple[str, str, str]:
    low, high = rate.interval
    return f"{rate.rate:.1%}", f"{low:.1%} to {high:.1%}", f"{rate.allowed:.1%}"
