"""A series on a terminal, and as a page with a figure. Pure but for writing the page."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from app.analysis.series import Point, Series, VariantSeries
from app.cli.amounts import amounts_of, count
from app.cli.client import read
from app.cli.display import BLOCKS
from app.cli.tables import Column, Picture, Table, visible

WIDTH: Final = 60
WIDTH_LEAST: Final = 8


def series_of(answer: bytes) -> Series:
    """The series of an answer."""
    return read(answer, Series)


def report(found: Series) -> RenderableType:
    """A line of blocks per variant on one scale, from the lowest value to the highest, and the newest."""
    known = [point for variant in found.variants for point in variant.known]
    if not known:
        return Text(f"{visible(found.metric)} of {found.key}: no units with a value in this time")
    steps = round((found.until - found.since).total_seconds()) // found.step_s
    values = [point.value for point in known if point.value is not None]
    low, high = min(values), max(values)
    amounts = amounts_of(found.kind)
    scale = f"{amounts.value(low)} (lowest) to {amounts.value(high)} (highest)"
    table = Table(
        Column("variant", "name"),
        *map(Column, ("lowest", "highest", "newest", "standard error", "units", scale)),
    )
    for variant in found.variants:
        known_values = [point.value for point in variant.known if point.value is not None]
        newest = variant.known[-1] if variant.known else None
        table.add(
            variant.variant + (" (control)" if variant.control else ""),
            amounts.value(min(known_values, default=None)),
            amounts.value(max(known_values, default=None)),
            amounts.value(None if newest is None else newest.value),
            amounts.value(None if newest is None else newest.standard_error),
            count(sum(point.units for point in variant.points)),
            Picture(
                partial(line, found, variant, low, high),
                min(WIDTH_LEAST, steps),
                min(WIDTH, steps),
            ),
        )
    head = Text(visible(found.metric), style="bold")
    head.append(f" of {found.key}, steps of {_length(found.step_s)}", style="not bold")
    return Group(head, "", table, "", f"{_minute(found.since)} to {_minute(found.until)}, UTC")


def line(found: Series, variant: VariantSeries, low: float, high: float, room: int = WIDTH) -> str:
    """Blocks, at most `room`: of steps that share one the mean, weighted by units; blank without any."""
    steps = round((found.until - found.since).total_seconds()) // found.step_s
    width = min(steps, room)
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
