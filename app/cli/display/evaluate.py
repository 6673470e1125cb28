"""An evaluation on a terminal. Pure."""

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.client import read
from app.cli.tables import Column, Table, visible
from app.evaluation.model import Evaluation


def evaluation_of(answer: bytes) -> Evaluation:
    """The evaluation of an answer."""
    return read(answer, Evaluation)


def report(found: Evaluation) -> RenderableType:
    """The answer, its estimates, and how far to trust them."""
    table = Table(
        Column("estimate", "name"),
        *map(Column, ("per request", "standard error", "interval for one look")),
    )
    for name, one in (*found.estimates.items(), ("as it was served", found.logged)):
        low, high = one.interval
        table.add(name, f"{one.value:.4f}", f"{one.standard_error:.4f}", f"{low:.4f} to {high:.4f}")
    low, high = found.anytime_interval
    overlap = found.overlap
    shares = ", ".join(f"{key} {share:.1%}" for key, share in found.shares.items())
    return Group(
        Text(found.summary, style="bold"),
        "",
        table,
        "",
        f"interval at every look {low:.4f} to {high:.4f}",
        f"effective rows {overlap.effective_rows:,.0f} of {overlap.rows:,}, largest weight "
        f"{overlap.largest_weight:.3g} ({overlap.largest_weight_share:.2%} of all)",
        Text(visible(f"shares: {shares}")),
        f"{found.fitted}",
        *(Text(f"warning: {warning}", style="yellow") for warning in found.warnings),
    )
