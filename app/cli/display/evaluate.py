"""The evaluation of a policy on a terminal."""

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.client import read
from app.cli.display.tables import Column, Table, visible
from app.evaluation.model import Evaluation


def report(answer: bytes) -> RenderableType:
    """Return the summary, the estimates, and how far to trust them."""
    evaluation = read(answer, Evaluation)
    table = Table(
        Column("estimate", "name"),
        *map(Column, ("per request", "standard error", "interval for one look")),
    )
    for name, estimate in (*evaluation.estimates.items(), ("as it was served", evaluation.logged)):
        low, high = estimate.interval
        error = f"{estimate.standard_error:.4f}"
        table.add(name, f"{estimate.value:.4f}", error, f"{low:.4f} to {high:.4f}")
    low, high = evaluation.anytime_interval
    overlap = evaluation.overlap
    shares = ", ".join(f"{key} {share:.1%}" for key, share in evaluation.shares.items())
    return Group(
        Text(evaluation.summary, style="bold"),
        "",
        table,
        "",
        f"interval at every look {low:.4f} to {high:.4f}",
        f"effective rows {overlap.effective_rows:,.0f} of {overlap.rows:,}, largest weight "
        f"{overlap.largest_weight:.3g} ({overlap.largest_weight_share:.2%} of all)",
        Text(visible(f"shares: {shares}")),
        evaluation.fitted,
        *(Text(f"warning: {warning}", style="yellow") for warning in evaluation.warnings),
    )
