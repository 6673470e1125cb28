"""What `wald power` does: the answer of the planning calculator, with its curve."""

from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Group, RenderableType
from rich.text import Text

from app.cli import figures
from app.cli.amounts import count, number, percent
from app.cli.display import WINDOWS_MIN, resampled, sparkline
from app.cli.tables import Column, Picture, Table
from app.cli.terminal import emit_json, out
from app.core.errors import InvalidInput
from app.planning.power import PowerAnswer, PowerQuestion, answer, question_of


def show_power(options: dict[str, Any], *, figure: Path | None, as_json: bool) -> None:
    """Print the answer. Raises ClickException naming the option."""
    given = {name: value for name, value in options.items() if value is not None}
    given["design"] = given["design"].replace("-", "_")
    try:
        question = question_of(given)
        found = answer(question)
    except InvalidInput as error:
        raise click.UsageError(f"{_option(error.errors[0].field)}: {error.detail}") from error
    if figure is not None:
        _draw(found, figure)
    if as_json:
        emit_json(found)
        return
    console = out()
    console.print(power_report(question, found))
    if figure is not None:
        console.print(f"\nThe curve is in {figure}")


def power_report(question: PowerQuestion, found: PowerAnswer) -> RenderableType:
    """The answer in words, then power over units, then what could be found over days."""
    parts: list[RenderableType] = [Text(found.sentence, style="bold")]
    shares = " + ".join(f"{n:,}" for n in found.per_variant)
    parts.append(
        Text(
            f"{shares} units; {found.inflation:.3f} times a fixed design, {found.expected_units:,} on average"
        )
    )
    if found.duration is not None:
        parts += [Text(f"* {line}") for line in found.duration.advice]
    parts += [Text(""), _curve(found)]
    if found.detectable_by_day:
        table = Table(Column("days"), Column(f"smallest effect found with probability {question.power:.0%}"))
        for point in found.detectable_by_day:
            shown = "none"
            if point.effect is not None:
                shown = f"{point.effect:.4%}" if question.relative else number(point.effect)
            table.add(str(point.days), shown)
        parts += [Text(""), table]
    return Group(*parts)


def _curve(found: PowerAnswer) -> Table:
    """Power from few units to many: both ends in numbers, and a line of blocks where there is room."""
    first, last = found.power_curve[0], found.power_curve[-1]
    curve = [point.power for point in found.power_curve]
    table = Table(Column("units"), Column("power", "text"), Column("power over units"))
    line = Picture(lambda width: sparkline(resampled(curve, width)), WINDOWS_MIN, len(curve))
    table.add(count(first.units), percent(first.power), line)
    table.add(count(last.units), percent(last.power), "")
    return table


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")


def _draw(found: PowerAnswer, path: Path) -> None:
    if found.detectable_by_day:
        known = [point for point in found.detectable_by_day if point.effect is not None]
        line = figures.Line("effect", [p.days for p in known], [p.effect or 0.0 for p in known])
        figures.write_lines(
            path, title=found.sentence, x_label="days", y_label="smallest effect", lines=[line]
        )
        return
    points = found.power_curve
    line = figures.Line("power", [point.units for point in points], [point.power for point in points])
    figures.write_lines(path, title=found.sentence, x_label="units", y_label="power", lines=[line])
