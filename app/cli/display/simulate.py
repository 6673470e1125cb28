"""What a simulation shows: on a terminal, and as a page with a figure. Pure but for writing the page."""

from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from app.cli.amounts import MISSING, percent
from app.cli.tables import Column, Table
from app.planning.model import PolicyResult, SimulationResult

_WIDTH, _HEIGHT = 72, 14
_WIDTH_LEAST: Final = 30
_MARGIN: Final = 12
"""Characters left of the curves: numbers of up to ten, a blank and the axis."""
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
        Chart(result),
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
    table = Table(
        Column("policy", "name"),
        *map(
            Column,
            ("rewards lost", "95% interval", "in 1 of 20 over", "of the best's", "best in front", "in"),
        ),
    )
    for number, policy in _ranked(result):
        low, high = policy.lost_rewards_interval
        table.add(
            _name(policy, number),
            f"{policy.lost_rewards:,.1f}",
            f"{low:,.1f} to {high:,.1f}",
            f"{policy.lost_rewards_p95:,.1f}",
            percent(policy.lost_share, decimals=2),
            MISSING if policy.best_found.days is None else f"day {policy.best_found.days:.1f}",
            percent(policy.best_found.share, decimals=0),
        )
    return table


class Chart:
    """Mean regret over requests; where curves meet, the one that loses less is in front."""

    def __init__(self, result: SimulationResult) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the chart, unless there is no room for one."""
        width = min(options.max_width - _MARGIN, _WIDTH)
        if width >= _WIDTH_LEAST:
            yield _chart(self._result, width)


def _chart(result: SimulationResult, width: int) -> Text:
    top = max(policy.regret.mean[-1] for policy in result.policies) or 1.0
    cells: dict[tuple[int, int], int] = {}
    for number, policy in reversed(_ranked(result)):
        xs = np.linspace(0, result.requests, width)
        ys = np.interp(xs, [0, *policy.regret.requests], [0, *policy.regret.mean])
        for column, y in enumerate(ys.tolist()):
            cells[_HEIGHT - 1 - round(y / top * (_HEIGHT - 1)), column] = number
    text = Text("rewards lost\n", style="dim", no_wrap=True, overflow="ignore")
    for row in range(_HEIGHT):
        shown = top * (1 - row / (_HEIGHT - 1)) if row % 4 == 1 or row == _HEIGHT - 1 else None
        label = "" if shown is None else f"{shown:,.0f}" if shown < 1e7 else f"{shown:.3g}"
        text.append(f"{label:>10} │", style="dim")
        for column in range(width):
            number = cells.get((row, column), -1)
            text.append(_MARKS[number] if number >= 0 else " ", style=_style(number) if number >= 0 else "")
        text.append("\n")
    text.append(f"{'':>10} └{'─' * width}\n", style="dim")
    text.append(f"{'':>11} 0{f'{result.requests:,} requests':>{width - 1}}", style="dim")
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
