"""A metric over time as a small chart and a table. Pure: a series in, words and numbers out."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Self, assert_never

import msgspec

from app.analysis.series import Series, VariantSeries
from app.experiments.metrics import Mean, Proportion, QuantileOf, Ratio
from app.experiments.model import Definition

STEPS: Final = {60: "by the minute", 3_600: "by the hour", 86_400: "by the day"}
WIDTH: Final = 100
HEIGHT: Final = 40
_ROOM: Final = 0.08
"""Share of the height that stays free above and below the lines."""


class Line(msgspec.Struct, frozen=True):
    """One variant: its SVG path, which has gaps where steps are missing, and its newest value."""

    variant: str
    path: str
    newest: float | None


class Cell(NamedTuple):
    """The value of a variant in one step, and its number of units."""

    value: float | None
    n: int


class TableRow(NamedTuple):
    """One step of all variants. A cell is None if the step has no units."""

    at: datetime
    cells: list[Cell | None]


class Unit(NamedTuple):
    """The unit of a metric in words, and whether its values are shares, shown in percent."""

    text: str
    share: bool = False

    @classmethod
    def of(cls, definition: Definition, metric: str) -> Self:
        """Return the unit of a metric of an experiment, or of the reward if no metric has this key."""
        measure = next((one.measure for one in definition.metrics if one.key == metric), None)
        match measure:
            case Proportion(signal=signal):
                return cls(f"% of units with {signal}", share=True)
            case Mean(signal=signal, per_unit=per_unit):
                return cls(f"{per_unit} of {signal} per unit, mean over units")
            case Ratio(numerator=numerator, denominator=denominator):
                return cls(f"{numerator} per {denominator.removesuffix('s')}")
            case QuantileOf(signal=signal, q=q):
                return cls(f"{signal}, {q:.4g} quantile over units")
            case None:
                return cls("mean reward per unit, 0 to 1")
        assert_never(measure)

    def shown(self, value: float | None) -> str:
        """Return a value with four significant digits."""
        if value is None:
            return "n/a"
        return f"{100 * value:.4g} %" if self.share else f"{value:.4g}"


class Chart(msgspec.Struct, frozen=True):
    """The chart of one metric. Without values it has no scale, no lines and no rows."""

    metric: str
    unit: Unit
    since: datetime
    until: datetime
    low: float | None
    high: float | None
    lines: list[Line]
    rows: list[TableRow]

    @classmethod
    def of(cls, series: Series, unit: Unit | None = None) -> Self:
        """Return the chart of a series from its first step with units, on one scale for all variants."""
        values = [point.value for one in series.variants for point in one.known if point.value is not None]
        came = [point.at for one in series.variants for point in one.points]
        since = min(came, default=series.since)
        low, high = min(values, default=None), max(values, default=None)
        return cls(
            metric=series.metric,
            unit=unit or Unit(series.kind),
            since=since,
            until=series.until,
            low=low,
            high=high,
            lines=[
                Line(one.variant, _path(series, since, one, low, high), _newest(one))
                for one in series.variants
            ]
            if low is not None and high is not None
            else [],
            rows=list(_rows(series.variants)),
        )

    @property
    def described(self) -> str:
        """Description for readers who cannot see the chart."""
        if self.low is None or self.high is None:
            return f"{self.metric} over time: no values yet"
        newest = ", ".join(
            f"{line.variant} {self.unit.shown(line.newest)}" for line in self.lines if line.newest is not None
        )
        low, high = self.unit.shown(self.low), self.unit.shown(self.high)
        return f"{self.metric} ({self.unit.text}) over time, from {low} to {high}; newest: {newest}"


def step_of(started_at: datetime | None, now: datetime) -> int:
    """Return a length of steps that suits the age of an experiment: a minute, an hour or a day."""
    age = timedelta(0) if started_at is None else now - started_at
    return 60 if age < timedelta(hours=3) else 3_600 if age < timedelta(days=4) else 86_400


def _newest(one: VariantSeries) -> float | None:
    return one.known[-1].value if one.known else None


def _path(series: Series, since: datetime, one: VariantSeries, low: float, high: float) -> str:
    """Return an SVG path that joins adjacent steps. A single step is a dot."""
    span_s = max((series.until - since).total_seconds() - series.step_s, 1.0)
    parts: list[str] = []
    before: datetime | None = None
    for point in one.known:
        assert point.value is not None
        x = WIDTH * (point.at - since).total_seconds() / span_s
        place = (point.value - low) / (high - low) if high > low else 0.5
        y = HEIGHT * (1 - _ROOM - (1 - 2 * _ROOM) * place)
        joined = before is not None and (point.at - before).total_seconds() <= series.step_s
        parts.append(f"L{x:.2f} {y:.2f}" if joined else f"M{x:.2f} {y:.2f}h0")
        before = point.at
    return "".join(parts)


def _rows(variants: Sequence[VariantSeries]) -> Iterator[TableRow]:
    """Yield the rows of the table, newest first."""
    by_time = [{point.at: Cell(point.value, point.n) for point in one.points} for one in variants]
    for at in sorted({at for found in by_time for at in found}, reverse=True):
        yield TableRow(at, [found.get(at) for found in by_time])
