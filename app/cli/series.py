"""The commands `wald series` and `wald aa`, which ask a server."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import rich_click as click

from app.cli.calls import ask
from app.cli.client import COMPUTATION_TIMEOUT_S, WaldClient, path_of
from app.cli.options import Moment, json_option
from app.cli.terminal import emit_json, err, out, progress
from app.cli.traffic import read_key_option, url_option
from app.core import limits

if TYPE_CHECKING:
    from app.analysis.aa import Aa

_PART: Final = 20
"""Replays per request, so that the bar moves, and nobody else waits long for a computation."""


@click.command("series")
@click.argument("experiment")
@url_option
@read_key_option
@click.option("--metric", default="reward", show_default=True, help="Which metric.")
@click.option("--since", type=Moment(), help="From then on; UTC unless it has an offset.")
@click.option("--until", type=Moment(), help="Up to then.")
@click.option("--step-s", type=int, default=3_600, show_default=True, help="Length of a step in seconds.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with a figure.")
@json_option
def series_command(
    *,
    experiment: str,
    url: str,
    key: str,
    metric: str,
    since: datetime | None,
    until: datetime | None,
    step_s: int,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Show a metric of EXPERIMENT over time, one line per variant.

        wald series summary-prompt --metric latency

        wald series summary-prompt --since 2026-01-05 --step-s 86400 --figure latency.html

    A unit stands at its first assignment, with all that is known of it by now: so the newest steps are not
    finished while rewards are still to come. Steps without units are blank. Minutes are kept for two days,
    hours for 35, days for good: older times need longer steps.

    It describes. Whether variants differ is for the readout to say, which adds all this up in the right way.
    """
    params = {"metric": metric, "step_s": str(step_s)}
    params |= {name: at.isoformat() for name, at in (("since", since), ("until", until)) if at is not None}
    path = path_of("experiments", experiment, "series")
    answer = ask(url, key, lambda client: client.raw("GET", path, params=params))
    if as_json and figure is None:
        emit_json(answer)
        return
    from app.cli.series import report, series_of, write_figure  # noqa: PLC0415 - loads numerical libraries

    found = series_of(answer)
    if figure is not None:
        write_figure(found, figure)
        err().print(f"The figure is in {figure}.")
    if as_json:
        emit_json(answer)
    else:
        out().print(report(found))


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
@json_option
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
    from app.analysis.aa import together  # noqa: PLC0415 - loads numerical libraries
    from app.cli.aa import report  # noqa: PLC0415

    with progress("replaying", replays) as advance:
        parts = ask(url, key, lambda client: _parts(client, experiment, replays, advance))
    found = together(parts)
    if as_json:
        emit_json(found)
    else:
        out().print(report(found))


async def _parts(
    client: WaldClient, experiment: str, replays: int, advance: Callable[[float], None]
) -> "list[Aa]":
    """Answers of the server, for a part of the replays each."""
    from app.analysis.aa import Aa  # noqa: PLC0415 - loads numerical libraries

    path, parts, done = path_of("experiments", experiment, "aa"), [], 0
    while done < replays:
        question = {"replays": min(_PART, replays - done), "first": done}
        part = await client.call("POST", path, Aa, question, timeout_s=COMPUTATION_TIMEOUT_S)
        parts.append(part)
        done += part.replays
        advance(part.replays)
    return parts
