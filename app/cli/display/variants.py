"""The table of variants that `wald status` and `wald demo` show."""

from collections.abc import Sequence

from rich.text import Text

from app.cli.client import VariantStatus
from app.cli.display.amounts import count, decimal, decimal_interval, percent
from app.cli.display.tables import Cell, Column, Table


def variants_table(variants: Sequence[VariantStatus], heading: str, pictures: Sequence[Cell]) -> Table:
    """Return the present state of each variant, with a picture under `heading`. The leader is green."""
    table = Table(
        Column("variant", "name"),
        *map(Column, ("share", "P(best)", "mean reward", "95% interval", "assigned", "pending", heading)),
    )
    leader = max((variant.probability_best or 0.0 for variant in variants), default=0.0)
    for variant, picture in zip(variants, pictures, strict=True):
        leads = leader > 0 and variant.probability_best == leader
        table.add(
            Text(variant.key + _mark(variant), style="green" if leads else ""),
            percent(variant.allocation),
            percent(variant.probability_best),
            decimal(variant.mean),
            decimal_interval(variant.interval),
            count(variant.assignments),
            count(variant.pending),
            picture,
        )
    return table


def _mark(variant: VariantStatus) -> str:
    if variant.control:
        return " (control)"
    return " (retired)" if variant.retired else ""
