"""The signals of an experiment on a terminal."""

from rich.console import Group, RenderableType
from rich.text import Text

from app.analysis.signals import SignalsReport
from app.cli.client import read
from app.cli.display.amounts import count, minute, percent
from app.cli.display.tables import Column, Table, visible


def report(answer: bytes) -> RenderableType:
    """Return the totals, the warnings, and a table of signals by name."""
    signals = read(answer, SignalsReport)
    head = Text(visible(signals.key), style="bold")
    head.append(
        f"  {signals.seen:,} signals about {signals.assignments:,} assignments, {signals.counted:,} counted",
        style="not bold",
    )
    counts = ("seen", "counted", "per assignment", "waiting", "late", "early", "no unit", "not read")
    table = Table(Column("signal", "name"), *map(Column, counts), Column("newest (UTC)"))
    for signal in signals.signals:
        hint = "" if signal.nearest is None else f" ({signal.nearest}?)"
        table.add(
            signal.signal + hint,
            count(signal.seen),
            count(signal.counted),
            percent(signal.share),
            *map(count, (signal.waiting, signal.late, signal.early, signal.unknown_unit, signal.unknown)),
            minute(signal.last_at) if signal.last_at else "",
        )
    others = []
    if signals.others is not None:
        others = [f"{signals.others.seen:,} signals of further names are not counted by name"]
    warnings = [Text(visible(f"warning: {warning}"), style="yellow") for warning in signals.warnings]
    return Group(head, *warnings, "", table, *others)
