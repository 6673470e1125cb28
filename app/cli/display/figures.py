"""Figures as HTML pages that contain everything they show and need no network."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from app.analysis.readout.record import Readout

if TYPE_CHECKING:  # takes a second to load
    from plotly.graph_objects import Figure

_COLOURS: Final = {"better": "#1a7f37", "safe": "#1a7f37", "harm": "#cf222e", "not_enough_data": "#6e7781"}
_HUES: Final = ("#3b82f6", "#e0562b", "#2f9e58", "#a855c7", "#c48a00", "#0d9bb5")


class Line(NamedTuple):
    """A named line and, optionally, the bounds of its interval at each x."""

    name: str
    x: Sequence[Any]
    y: Sequence[float | None]
    lower: Sequence[float] | None = None
    upper: Sequence[float] | None = None


def write_forest(readout: Readout, path: Path) -> None:
    """Write a forest plot: one panel per metric, one interval per variant, coloured by its verdict."""
    from plotly import graph_objects as go
    from plotly.subplots import make_subplots

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


def write_lines(
    path: Path,
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    subtitle: str = "",
    from_zero: bool = False,
) -> None:
    """Write lines over one axis, each with its interval as a band."""
    from plotly import graph_objects as go

    figure = go.Figure()
    for number, line in enumerate(lines):
        hue = _HUES[number % len(_HUES)]
        if line.lower is not None and line.upper is not None:
            edge: dict[str, Any] = {"x": line.x, "mode": "lines", "line": {"width": 0}}
            edge |= {"hoverinfo": "skip", "showlegend": False, "legendgroup": line.name}
            figure.add_scatter(**edge, y=line.lower)
            figure.add_scatter(**edge, y=line.upper, fill="tonexty", fillcolor=f"{hue}33")
        figure.add_scatter(
            x=line.x,
            y=line.y,
            name=line.name,
            mode="lines",
            line={"color": hue},
            legendgroup=line.name,
        )
    figure.update_layout(
        title={"text": title, "subtitle": {"text": subtitle}},
        xaxis_title=x_label,
        yaxis_title=y_label,
        yaxis_rangemode="tozero" if from_zero else "normal",
        template="plotly_white",
        margin={"t": 160 if subtitle else 100},
    )
    _write(figure, path)


def _write(figure: "Figure", path: Path) -> None:
    path.write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")
