"""The result of an A/A replay on a terminal."""

from rich.console import Group, RenderableType
from rich.text import Text

from app.analysis.aa import Aa, AaRate
from app.cli.display.amounts import count, number, percent
from app.cli.display.tables import Column, Table


def report(result: Aa) -> RenderableType:
    """Return the result in words, and a table of the metrics."""
    table = Table(
        Column("metric", "name"),
        *map(Column, ("units", "noise floor", "of the mean", "decided", "95% interval", "allowed")),
        Column("role", "text"),
    )
    for metric in result.metrics:
        table.add(
            metric.metric,
            count(metric.units),
            number(metric.noise_floor),
            percent(metric.relative_noise_floor, decimals=2),
            *_rate(metric.false_positives),
            metric.role,
        )
    looks = "one look" if len(result.looks) == 1 else f"{len(result.looks)} looks"
    part = ", a random part of them" if result.sampled else ""
    return Group(
        Text(result.sentence, style="bold"),
        "",
        table,
        "",
        f"{result.replays:,} replays with {looks}, on {result.units:,} units of the control{part}",
    )


def _rate(rate: AaRate) -> tuple[str, str, str]:
    low, high = rate.interval
    return f"{rate.rate:.1%}", f"{low:.1%} to {high:.1%}", f"{rate.allowed:.1%}"
