"""Line charts as plain SVG: nothing to install, and a text that can be compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

import numpy as np

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 420, 64, 190, 40, 48
_COLOURS: Final = ("#3366cc", "#dc3912", "#109618", "#ff9900", "#990099", "#0099c6", "#666666")
_POINTS_MAX: Final = 200


class Curve(NamedTuple):
    """A line with a band around it."""

    name: str
    x: np.ndarray
    y: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def line_chart(path: Path, *, title: str, x_label: str, y_label: str, curves: Sequence[Curve]) -> None:
    """Write a chart of curves with their bands; both axes start at 0."""
    x_max = max(float(curve.x[-1]) for curve in curves)
    y_max = max(float(curve.upper.max()) for curve in curves) * 1.05

    def points(x: np.ndarray, y: np.ndarray) -> str:
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / x_max
        up = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * y / y_max
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<g font-size="12"><text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for tick in _ticks(y_max):
        (place,) = points(np.zeros(1), np.array([tick])).split()
        y = place.split(",")[1]
        parts.append(f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y}" dy="4" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(x_max):
        (place,) = points(np.array([tick]), np.zeros(1)).split()
        x = place.split(",")[0]
        parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick:,g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    turned = f"translate(16 {_HEIGHT / 2}) rotate(-90)"
    parts.append(f'<text transform="{turned}" text-anchor="middle">{escape(y_label)}</text>')
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        keep = np.unique(np.linspace(0, len(curve.x) - 1, _POINTS_MAX).astype(int))
        there = points(curve.x[keep], curve.upper[keep])
        back = points(curve.x[keep][::-1], np.maximum(curve.lower[keep][::-1], 0))
        parts.append(f'<polygon points="{there} {back}" fill="{colour}" opacity="0.15"/>')
        line = points(curve.x[keep], curve.y[keep])
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        y = _TOP + 14 + 20 * number
        parts.append(f'<path d="M{_WIDTH - _RIGHT + 12} {y - 4}h22" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 40}" y="{y}">{escape(curve.name)}</text>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</g></svg>\n"]))


def _ticks(largest: float) -> np.ndarray:
    step = 10.0 ** np.floor(np.log10(largest))
    step *= next(factor for factor in (0.1, 0.2, 0.5, 1.0) if largest / (step * factor) <= 8)
    return np.arange(0, largest, step)
