"""A metric over time, on a terminal and as a figure."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from app.analysis.series import Point, Series, VariantSeries
from app.cli.client import read
from app.cli.display import figures
from app.cli.display.amounts import amounts_of, count, minute
from app.cli.display.pictures import BLOCKS
from app.cli.display.tables import Column, Picture, Table, visible

WIDTH: Final = 60
WIDTH_LEAST: Final = 8


def report(answer: bytes) -> RenderableType:
    """Return a line of blocks per variant, all on one scale from the lowest value to the highest."""
    series = read(answer, Series)
    known = [point for variant in series.variants for point in variant.known]
    if not known:
        return Text(f"{visible(series.metric)} of {series.key}: no unit has a value in this time")
    steps = round((series.until - series.since).total_seconds()) // series.step_s
    values = [point.value for point in known if point.value is not None]
    low, high = min(values), max(values)
    amounts = amounts_of(series.kind)
    scale = f"{amounts.value(low)} (lowest) to {amounts.value(high)} (highest)"
    table = Table(
        Column("variant", "name"),
        *map(Column, ("lowest", "highest", "newest", "standard error", "units", scale)),
    )
    for variant in series.variants:
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
                partial(line, series, variant, low, high),
                min(WIDTH_LEAST, steps),
                min(WIDTH, steps),
            ),
        )
    head = Text(visible(series.metric), style="bold")
    head.append(f" of {series.key}, steps of {_length(series.step_s)}", style="not bold")
    return Group(head, "", table, "", f"{minute(series.since)} to {minute(series.until)}, UTC")


def line(series: Series, variant: VariantSeries, low: float, high: float, room: int = WIDTH) -> str:
    """Return a variant as at most `room` blocks.

    A block that covers several steps shows their mean, weighted by units. A block without units is blank.
    """
    steps = round((series.until - series.since).total_seconds()) // series.step_s
    width = min(steps, room)
    columns: list[list[Point]] = [[] for _ in range(width)]
    for point in variant.known:
        step = round((point.at - series.since).total_seconds()) // series.step_s
        columns[step * width // steps].append(point)
    return "".join(_block(column, low, high) for column in columns)


def _block(points: Sequence[Point], low: float, high: float) -> str:
    n = sum(point.n for point in points)
    if not n:
        return " "
    mean = sum((point.value or 0.0) * point.n for point in points) / n
    place = (mean - low) / (high - low) if high > low else 0.5
    return BLOCKS[min(max(int(place * len(BLOCKS)), 0), len(BLOCKS) - 1)]


def write_figure(answer: bytes, path: Path) -> None:
    """Write the lines of a series as an HTML page."""
    series = read(answer, Series)
    lines = [
        figures.Line(
            variant.variant,
            [point.at for point in variant.known],
            [point.value for point in variant.known],
        )
        for variant in series.variants
    ]
    figures.write_lines(
        path,
        lines,
        title=f"{series.metric} of {series.key}, steps of {_length(series.step_s)}",
        x_label="first assignment of the units, UTC",
        y_label=series.metric,
    )


def _length(step_s: int) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if step_s % length == 0:
            return f"{step_s // length} {unit}"
    return f"{step_s} s"
