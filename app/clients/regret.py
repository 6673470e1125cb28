"""What a simulation shows: on a terminal, and as a page with a figure. Pure but for writing the page."""

from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.clients.display import MISSING
from app.planning.model import PolicyResult, SimulationResult

_WIDTH, _HEIGHT = 72, 14
_MARKS: Final = "ABCDEFGHIJKLMNOPQRST"
_STYLES: Final = ("blue", "red", "green", "magenta", "yellow", "cyan")
_HUES: Final = ("#3b82f6", "#e0562b", "#2f9e58", "#a855c7", "#c48a00", "#0d9bb5")


def report(result: SimulationResult) -> RenderableType:
    """The advice, the policies from the least loss to the greatest, and their curves."""
    return Group(
        Text(result.recommendation.sentence, style="bold"),
        "",
        _table(result),
        "",
        _chart(result),
    )


def write_figure(result: SimulationResult, path: Path) -> None:
    """A page with the curves and their intervals that needs nothing else to be shown."""
    from plotly import graph_objects  # noqa: PLC0415  (takes a second to load)

    figure = graph_objects.Figure()
    for number, policy in enumerate(result.policies):
        curve, hue = policy.regret, _HUES[number % len(_HUES)]
        band = {"x": curve.requests, "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        group = {"legendgroup": policy.policy}
        figure.add_scatter(**band, **group, y=curve.lower, mode="lines")
        figure.add_scatter(**band, **group, y=curve.upper, mode="lines", fill="tonexty", fillcolor=f"{hue}33")
        figure.add_scatter(
            **group, x=curve.requests, y=curve.mean, mode="lines", name=policy.policy, line={"color": hue}
        )
    figure.update_layout(
        title={"text": "Rewards lost by policy", "subtitle": {"text": _wrapped(result)}},
        xaxis_title="requests",
        yaxis_title="rewards lost so far (regret)",
        yaxis_rangemode="tozero",
        template="plotly_white",
        margin={"t": 160},
    )
    path.write_text(figure.to_html(include_plotlyjs=True, full_html=True), encoding="utf-8")


def _table(result: SimulationResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("policy", no_wrap=True)
    for heading in (
        "rewards lost",
        "95 % interval",
        "in 1 of 20 over",
        "of the best's",
        "best in front",
        "in",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, policy in _ranked(result):
        low, high = policy.lost_rewards_interval
        table.add_row(
            _name(policy, number),
            f"{policy.lost_rewards:,.1f}",
            f"{low:,.1f} to {high:,.1f}",
            f"{policy.lost_rewards_p95:,.1f}",
            f"{policy.lost_share:.2%}",
            MISSING if policy.best_found.days is None else f"day {policy.best_found.days:.1f}",
            f"{policy.best_found.share:.0%}",
        )
    return table


def _chart(result: SimulationResult) -> Text:
    """Mean regret over requests; where curves meet, the one that loses less is in front."""
    top = max(policy.regret.mean[-1] for policy in result.policies) or 1.0
    cells: dict[tuple[int, int], int] = {}
    for number, policy in reversed(_ranked(result)):
        xs = np.linspace(0, result.requests, _WIDTH)
        ys = np.interp(xs, [0, *policy.regret.requests], [0, *policy.regret.mean])
        for column, y in enumerate(ys.tolist()):
            cells[_HEIGHT - 1 - round(y / top * (_HEIGHT - 1)), column] = number
    text = Text("rewards lost\n", style="dim")
    for row in range(_HEIGHT):
        shown = top * (1 - row / (_HEIGHT - 1)) if row % 4 == 1 or row == _HEIGHT - 1 else None
        text.append(f"{'' if shown is None else f'{shown:,.0f}':>10} │", style="dim")
        for column in range(_WIDTH):
            number = cells.get((row, column), -1)
            text.append(_MARKS[number] if number >= 0 else " ", style=_style(number) if number >= 0 else "")
        text.append("\n")
    text.append(f"{'':>10} └{'─' * _WIDTH}\n", style="dim")
    text.append(f"{'':>11} 0{f'{result.requests:,} requests':>{_WIDTH - 1}}", style="dim")
    return text


def _ranked(result: SimulationResult) -> list[tuple[int, PolicyResult]]:
    return sorted(enumerate(result.policies), key=lambda one: one[1].lost_rewards)


def _name(policy: PolicyResult, number: int) -> Text:
    return Text(f"{_MARKS[number]} {policy.policy}", style=_style(number))


def _style(number: int) -> str:
    return _STYLES[number % len(_STYLES)]


def _wrapped(result: SimulationResult) -> str:
    """The advice, a sentence a line."""
    return result.recommendation.sentence.replace(". ", ".<br>").replace("; ", ";<br>")
