"""The answer of the power calculator, on a terminal and as a figure."""

from pathlib import Path
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.display import figures
from app.cli.display.amounts import count, number, percent
from app.cli.display.pictures import resampled, sparkline
from app.cli.display.tables import Column, Picture, Table
from app.planning.power import PowerAnswer, PowerQuestion

_PICTURE_MIN: Final = 9


def report(question: PowerQuestion, answer: PowerAnswer) -> RenderableType:
    """Return the answer in words, the power over units, and the smallest effect over days."""
    parts: list[RenderableType] = [Text(answer.sentence, style="bold")]
    shares = " + ".join(f"{n:,}" for n in answer.per_variant)
    size = f"{answer.inflation:.3f} times a fixed design, {answer.expected_units:,} on average"
    parts.append(Text(f"{shares} units; {size}"))
    if answer.duration is not None:
        parts += [Text(f"* {line}") for line in answer.duration.advice]
    parts += [Text(""), _curve(answer)]
    if answer.detectable_by_day:
        table = Table(Column("days"), Column(f"smallest effect found with probability {question.power:.0%}"))
        for point in answer.detectable_by_day:
            shown = "none"
            if point.effect is not None:
                shown = f"{point.effect:.4%}" if question.relative else number(point.effect)
            table.add(str(point.days), shown)
        parts += [Text(""), table]
    return Group(*parts)


def _curve(answer: PowerAnswer) -> Table:
    """Return the power from few units to many: both ends as numbers, and a line of blocks."""
    first, last = answer.power_curve[0], answer.power_curve[-1]
    curve = [point.power for point in answer.power_curve]
    table = Table(Column("units"), Column("power", "text"), Column("power over units"))
    line = Picture(lambda width: sparkline(resampled(curve, width)), _PICTURE_MIN, len(curve))
    table.add(count(first.units), percent(first.power), line)
    table.add(count(last.units), percent(last.power), "")
    return table


def write_figure(answer: PowerAnswer, path: Path) -> None:
    """Write the smallest effect by day, if it is known, or else the power by units, as an HTML page."""
    title, curve = answer.sentence, answer.power_curve
    if answer.detectable_by_day:
        known = [point for point in answer.detectable_by_day if point.effect is not None]
        line = figures.Line("effect", [point.days for point in known], [point.effect for point in known])
        figures.write_lines(path, [line], title=title, x_label="days", y_label="smallest effect")
    else:
        line = figures.Line("power", [point.units for point in curve], [point.power for point in curve])
        figures.write_lines(path, [line], title=title, x_label="units", y_label="power")
