"""The command `wald series`."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
import rich_click as click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.analysis.series import Point, Series, VariantSeries
from app.clients.client import ClientError, WaldClient
from app.clients.commands import read_key_option, url_option
from app.clients.display import BLOCKS, MISSING
from app.core.commands import Moment
from app.experiments.metrics import REWARD

WIDTH: Final = 60


@click.command("series")
@click.argument("experiment")
@url_option
@read_key_option
@click.option("--metric", default=REWARD, show_default=True, help="Which metric.")
@click.option("--since", type=Moment(), help="From then on; UTC unless it has an offset.")
@click.option("--until", type=Moment(), help="Up to then.")
@click.option("--step-s", type=int, default=3_600, show_default=True, help="Length of a step in seconds.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with a figure.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's answer.")
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

    async def ask() -> Series:
        async with WaldClient(url, key) as client:
            return await client.series(experiment, params)

    try:
        found = asyncio.run(ask())
    except ClientError as error:
        raise click.ClickException(str(error)) from error
    if figure is not None:
        write_figure(found, figure)
        Console(stderr=True).print(f"The figure is in {figure}.")
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
        return
    Console().print(report(found))


def report(found: Series) -> RenderableType:
    """A line of blocks per variant on one scale, from the lowest value to the highest, and the newest."""
    known = [point for variant in found.variants for point in variant.known]
    if not known:
        return Text(f"{found.metric} of {found.key}: no units with a value in this time")
    values = [point.value for point in known if point.value is not None]
    low, high = min(values), max(values)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variant")
    table.add_column(f"{low:.4g} (lowest) to {high:.4g} (highest)", no_wrap=True)
    for heading in ("newest", "standard error", "units"):
        table.add_column(heading, justify="right")
    for variant in found.variants:
        newest = variant.known[-1] if variant.known else None
        table.add_row(
            Text(variant.variant + (" (control)" if variant.control else "")),
            Text(line(found, variant, low, high)),
            MISSING if newest is None else f"{newest.value:.4g}",
            MISSING if newest is None or newest.standard_error is None else f"{newest.standard_error:.2g}",
            f"{sum(point.units for point in variant.points):,}",
        )
    head = f"[bold]{found.metric}[/] of {found.key}, steps of {_length(found.step_s)}"
    return Group(head, "", table, "", f"{_minute(found.since)} to {_minute(found.until)}, UTC")


def line(found: Series, variant: VariantSeries, low: float, high: float) -> str:
    """Blocks, at most `WIDTH`: of steps that share one the mean, weighted by units; blank without any."""
    steps = round((found.until - found.since).total_seconds()) // found.step_s
    width = min(steps, WIDTH)
    columns: list[list[Point]] = [[] for _ in range(width)]
    for point in variant.known:
        step = round((point.at - found.since).total_seconds()) // found.step_s
        columns[step * width // steps].append(point)
    return "".join(_block(column, low, high) for column in columns)


def _block(points: Sequence[Point], low: float, high: float) -> str:
    n = sum(point.n for point in points)
    if not n:
        return " "
    mean = sum((point.value or 0.0) * point.n for point in points) / n
    place = (mean - low) / (high - low) if high > low else 0.5
    return BLOCKS[min(max(int(place * len(BLOCKS)), 0), len(BLOCKS) - 1)]


def write_figure(found: Series, path: Path) -> None:
    """A page with the lines that needs nothing else to be shown."""
    from plotly import graph_objects  # noqa: PLC0415  (takes a second to load)

    figure = graph_objects.Figure()
    for variant in found.variants:
        figure.add_scatter(
            x=[point.at for point in variant.known],
            y=[point.value for point in variant.known],
            name=variant.variant,
            mode="lines+markers",
        )
    figure.update_layout(
        title=f"{found.metric} of {found.key}, steps of {_length(found.step_s)}",
        xaxis_title="first assignment of the units, UTC",
        yaxis_title=found.metric,
        template="plotly_white",
    )
    path.write_text(figure.to_html(include_plotlyjs=True, full_html=True), encoding="utf-8")


def _minute(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M")


def _length(step_s: int) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if step_s % length == 0:
            return f"{step_s // length} {unit}"
    return f"{step_s} s"
