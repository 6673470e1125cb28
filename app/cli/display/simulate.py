"""The result of a simulation, on a terminal and as a figure."""

from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from app.cli.display import figures
from app.cli.display.amounts import MISSING, percent
from app.cli.display.tables import Column, Table
from app.planning.model import PolicyResult, SimulationResult

_WIDTH, _HEIGHT = 72, 14
_WIDTH_LEAST: Final = 30
_MARGIN: Final = 12
"""Characters left of the curves: up to ten for a number, a blank and the axis."""
_MARKS: Final = "ABCDEFGHIJKLMNOPQRST"
_STYLES: Final = ("blue", "red", "green", "magenta", "yellow", "cyan")


def report(result: SimulationResult) -> RenderableType:
    """Return the recommendation, the policies from the least loss to the greatest, and their curves."""
    return Group(
        Text(result.recommendation.sentence, style="bold"),
        "",
        _table(result),
        "",
        Chart(result),
    )


def write_figure(result: SimulationResult, path: Path) -> None:
    """Write the curves and their intervals as an HTML page."""
    lines = [
        figures.Line(policy.policy, curve.requests, curve.mean, curve.lower, curve.upper)
        for policy in result.policies
        for curve in (policy.regret,)
    ]
    figures.write_lines(
        path,
        lines,
        title="Rewards lost by policy",
        subtitle=result.recommendation.sentence.replace(". ", ".<br>").replace("; ", ";<br>"),
        x_label="requests",
        y_label="rewards lost so far (regret)",
        from_zero=True,
    )


def _table(result: SimulationResult) -> Table:
    table = Table(
        Column("policy", "name"),
        *map(
            Column,
            ("rewards lost", "95% interval", "1 in 20 loses over", "of the best's", "best leads from", "in"),
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
    """A chart of mean regret over requests. Where curves meet, the policy that loses less is in front."""

    def __init__(self, result: SimulationResult) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the chart, unless the terminal is too narrow for one."""
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
    return sorted(enumerate(result.policies), key=lambda numbered: numbered[1].lost_rewards)


def _name(policy: PolicyResult, number: int) -> Text:
    return Text(f"{_MARKS[number]} {policy.policy}", style=_style(number))


def _style(number: int) -> str:
    return _STYLES[number % len(_STYLES)]
