"""Figures as HTML files that need no network: everything they show is in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.analysis.readout.record import Readout

_COLOURS: Final = {"better": "#1a7f37", "safe": "#1a7f37", "harm": "#cf222e", "not_enough_data": "#6e7781"}


class Line(NamedTuple):
    """A named line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def write_forest(readout: Readout, path: Path) -> None:
    """A forest plot: one panel per metric, one interval per variant, coloured by its verdict."""
    metrics = readout.metrics
    figure = make_subplots(
        rows=len(metrics), cols=1, subplot_titles=[f"{metric.key} ({metric.role})" for metric in metrics]
    )
    for row, metric in enumerate(metrics, start=1):
        for variant in metric.variants:
            if variant.effect is None or variant.interval is None:
                continue
            lower, upper = variant.interval
            above = [None if upper is None else upper - variant.effect]
            below = [None if lower is None else variant.effect - lower]
            figure.add_trace(
                go.Scatter(
                    x=[variant.effect],
                    y=[variant.variant],
                    error_x={"type": "data", "array": above, "arrayminus": below},
                    mode="markers",
                    marker={"color": _COLOURS[variant.verdict or "not_enough_data"], "size": 9},
                    name=f"{variant.variant}: {variant.verdict}",
                    showlegend=False,
                ),
                row=row,
                col=1,
            )
        figure.add_vline(x=0, line_dash="dot", line_color="#6e7781", row=row, col=1)
    figure.update_layout(
        title=readout.recommendation.sentence,
        height=120 + 60 * sum(len(metric.variants) for metric in metrics),
        template="plotly_white",
    )
    _write(figure, path)


def write_lines(path: Path, *, title: str, x_label: str, y_label: str, lines: Sequence[Line]) -> None:
    """Lines over one axis."""
    figure = go.Figure([go.Scatter(x=line.x, y=line.y, name=line.name, mode="lines") for line in lines])
    figure.update_layout(title=title, xaxis_title=x_label, yaxis_title=y_label, template="plotly_white")
    _write(figure, path)


def _write(figure: go.Figure, path: Path) -> None:
    path.write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")
