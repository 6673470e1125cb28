"""Line charts as plain SVG: nothing to install, and a text that can be compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

import numpy as np

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 420, 68, 200, 62, 52
_COLOURS: Final = ("#3b82f6", "#e0562b", "#2f9e58", "#a855c7", "#c48a00", "#0d9bb5")
_INK: Final = "#7d828a"
_POINTS_MAX: Final = 200


class Curve(NamedTuple):
    """A line with a band around it."""

    name: str
    x: np.ndarray
    y: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def line_chart(
    path: Path, *, title: str, subtitle: str, x_label: str, y_label: str, curves: Sequence[Curve]
) -> None:
    """Write a chart of at most six curves with their bands; both axes start at 0.

    Without a background of its own, in greys and hues of middling lightness: for light and dark
    pages.
    """
    x_max = max(float(curve.x[-1]) for curve in curves)
    y_max = max(float(curve.upper.max()) for curve in curves) * 1.05
    plot = _Plot(x_max, y_max)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"',
        f' aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="13" fill="{_INK}">',
        f'<text x="{_LEFT}" y="24" font-size="16" font-weight="600">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="44">{escape(subtitle)}</text>',
        *plot.axes(x_label, y_label),
    ]
    # From the greatest regret at the end to the least, as the lines stand below each other.
    ranked = sorted(zip(curves, _COLOURS, strict=False), key=lambda drawn: -float(drawn[0].y[-1]))
    for number, (curve, colour) in enumerate(ranked):
        parts += plot.curve(curve, colour, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>\n"]))


class _Plot(NamedTuple):
    """The area between the axes, which reach to these values."""

    x_max: float
    y_max: float

    def points(self, x: np.ndarray, y: np.ndarray) -> str:
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / self.x_max
        up = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * y / self.y_max
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True))

    def axes(self, x_label: str, y_label: str) -> list[str]:
        parts = []
        for tick in _ticks(self.y_max):
            y = self.points(np.zeros(1), np.array([tick])).split(",")[1]
            line = f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="{_INK}" opacity="0.3"/>'
            parts += [line, f'<text x="{_LEFT - 8}" y="{y}" dy="4" text-anchor="end">{tick:,g}</text>']
        for tick in _ticks(self.x_max):
            x = self.points(np.array([tick]), np.zeros(1)).split(",")[0]
            parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{tick:,g}</text>')
        middle, centre = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
        turned = f"translate(16 {centre}) rotate(-90)"
        return [
            *parts,
            f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>',
            f'<text transform="{turned}" text-anchor="middle">{escape(y_label)}</text>',
        ]

    def curve(self, curve: Curve, colour: str, number: int) -> list[str]:
        keep = np.unique(np.linspace(0, len(curve.x) - 1, _POINTS_MAX).astype(int))
        there = self.points(curve.x[keep], curve.upper[keep])
        back = self.points(curve.x[keep][::-1], np.maximum(curve.lower[keep][::-1], 0))
        line = self.points(curve.x[keep], curve.y[keep])
        y, text = _TOP + 14 + 36 * number, _WIDTH - _RIGHT + 40
        return [
            f'<polygon points="{there} {back}" fill="{colour}" opacity="0.18"/>',
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>',
            f'<path d="M{_WIDTH - _RIGHT + 14} {y - 4}h20" stroke="{colour}" stroke-width="3"/>',
            f'<text x="{text}" y="{y}">{escape(curve.name)}</text>',
            f'<text x="{text}" y="{y + 16}" font-size="12">{curve.y[-1]:,.0f} at the end</text>',
        ]


def _ticks(largest: float) -> np.ndarray:
    step = 10.0 ** np.floor(np.log10(largest))
    step *= next(factor for factor in (0.1, 0.2, 0.5, 1.0, 2.0) if largest / (step * factor) <= 8)
    return np.arange(0, largest * (1 + 1e-9), step)
