"""The quality of variants on a terminal."""

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.display.amounts import MISSING, count, interval, number, p_value
from app.cli.display.tables import Column, Table, visible
from app.cli.files.quality import Quality


def report(quality: Quality) -> RenderableType:
    """Return a table of the quality of each variant, and the reasons for missing estimates."""
    table = Table(
        Column("variant", "name"),
        *map(Column, ("units", "labels", "quality", "interval", "judge alone", "labels worth")),
        *map(Column, ("effect", "effect interval", "p-value")),
    )
    for row in quality.variants:
        table.add(
            row.variant,
            count(row.units),
            count(row.labels),
            number(row.quality),
            interval(row.interval),
            number(row.judge_mean),
            MISSING if row.label_gain is None else f"x {row.label_gain:.2f}",
            number(row.effect, signed=True),
            interval(row.effect_interval, signed=True),
            p_value(row.p_value),
        )
    heading = Text(visible(f"{quality.label}, with the help of {quality.judge}"), style="bold")
    heading.append(f"\nprediction-powered means; {quality.guarantee}", style="not bold dim")
    reasons = [Text(visible(f"{row.variant}: {row.reason}")) for row in quality.variants if row.reason]
    return Group(heading, table, *reasons)
