"""The command `wald aa`, over HTTP."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import rich_click as click

from app.analysis.limits import AA_REPLAYS_MAX
from app.cli import display
from app.cli.calls import Server, reads_server
from app.cli.client import COMPUTATION_TIMEOUT_S, WaldClient, path_of
from app.cli.options import json_option
from app.cli.terminal import progress, show

if TYPE_CHECKING:  # loads numerical libraries
    from app.analysis.aa import Aa

_PART: Final = 20
"""Replays per request. Small parts let the progress bar move, and do not keep other callers waiting."""


@click.command("aa")
@click.argument("experiment")
@reads_server
@click.option(
    "--replays",
    type=click.IntRange(1, AA_REPLAYS_MAX),
    default=200,
    show_default=True,
    help="Number of random splits of the control.",
)
@json_option
def aa_command(*, experiment: str, server: Server, replays: int, as_json: bool) -> None:
    """Measure how often the plan of EXPERIMENT decides between equal halves of its control.

    Wald splits the units of the control in two at random, and analyzes the halves by the experiment's own
    plan at its own looks. The halves are equal, so every decision is false. It repeats this for every replay:

        wald aa summary-prompt --replays 400

    How to read it:

    * *decided*: the share of replays in which the plan declared a difference at any look, beside the share
      that is *allowed*. More replays make the interval narrower.
    * Fewer decisions than allowed are no fault. A plan that is valid at every look spreads its error over
      all looks, and is cautious about heavy tails and rare events.
    * If the whole interval is above the allowed share, do not trust decisions on these data: tails are too
      heavy, or events too rare, for so few units. Cap the metric, or wait for more units. (Units are split
      one by one: the replay does not notice one user who came as many units.)
    * *noise floor*: chance alone makes differences of this size at one look with this number of units. It
      shrinks with the square root of that number.

    The server reads at most 20,000 units; of more units, a random part.
    """
    from app.analysis.aa import together

    with progress("replaying", replays) as advance:
        result = together(server.ask(lambda client: _parts(client, experiment, replays, advance)))
    show(result, lambda: display.aa.report(result), as_json=as_json)


async def _parts(
    client: WaldClient, experiment: str, replays: int, advance: Callable[[float], None]
) -> "list[Aa]":
    """Return the answers of the server, one for each part of the replays."""
    from app.analysis.aa import Aa

    path, parts, done = path_of("experiments", experiment, "aa"), [], 0
    while done < replays:
        question = {"replays": min(_PART, replays - done), "first": done}
        part = await client.call("POST", path, Aa, question, timeout_s=COMPUTATION_TIMEOUT_S)
        parts.append(part)
        done += part.replays
        advance(part.replays)
    return parts
