"""The answer of an A/A replay on a terminal. Pure."""

from rich.console import Group, RenderableType
from rich.text import Text

from app.analysis.aa import Aa, AaRate
from app.cli.amounts import count, number, percent
from app.cli.tables import Column, Table


def report(found: Aa) -> RenderableType:
    """The answer in words, and each metric."""
    table = Table(
        Column("metric", "name"),
        *map(Column, ("units", "noise floor", "of the mean", "decided", "95% interval", "may")),
        Column("role", "text"),
    )
    for one in found.metrics:
        floor, share = one.noise_floor, one.relative_noise_floor
        table.add(
            one.metric,
            count(one.units),
            number(floor),
            percent(share, decimals=2),
            *_rate(one.false_positives),
            one.role,
        )
    looks = "one look" if len(found.looks) == 1 else f"{len(found.looks)} looks"
    of_many = ", a random part of them" if found.sampled else ""
    return Group(
        Text(found.sentence, style="bold"),
        "",
        table,
        "",
        f"{found.replays:,} replays with {looks}, on {found.units:,} units of the control{of_many}",
    )


def _rate(rate: AaRate) -> tuple[str, str, str]:
    low, high = rate.interval
    return f"{rate.rate:.1%}", f"{low:.1%} to {high:.1%}", f"{rate.allowed:.1%}"
