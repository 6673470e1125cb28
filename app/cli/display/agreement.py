"""The agreement of raters on a terminal."""

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.display.amounts import count, decimal, decimal_interval
from app.cli.display.tables import Column, Table, visible
from app.reviews.agreement import Agreement


def report(agreement: Agreement) -> RenderableType:
    """Return a table of the coefficients, and the reasons for those that are missing."""
    table = Table(
        Column("coefficient", "name"),
        *map(Column, ("items", "value", f"{100 * (1 - agreement.alpha):.6g}% interval")),
        Column("raters", "text"),
    )
    for row in agreement.coefficients:
        table.add(
            row.name,
            count(row.items),
            decimal(row.value),
            decimal_interval(row.interval),
            ", ".join(row.raters),
        )
    reasons = [
        Text(visible(f"{row.name} of {', '.join(row.raters)}: {row.reason}"))
        for row in agreement.coefficients
        if row.reason
    ]
    independent = "items are taken as independent; --unit names what they belong to"
    note = independent if agreement.clusters is None else f"errors from {agreement.clusters:,} units"
    return Group(Text(f"Agreement on a {agreement.scale} scale; {note}", style="bold"), table, *reasons)
