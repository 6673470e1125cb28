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
"""Of the height, above and below the lines."""


class Line(msgspec.Struct, frozen=True):
    """One variant: its path, in parts where steps are missing, and its newest value."""

    variant: str
    path: str
    newest: float | None


class Cell(NamedTuple):
    """What is known of a variant in one step."""

    value: float | None
    n: int


class TableRow(NamedTuple):
    """One step of all variants; a cell is None where no unit came."""

    at: datetime
    cells: list[Cell | None]


class Unit(NamedTuple):
    """What the values of a metric are: in words, and whether they are shares, shown as percentages."""

    text: str
    share: bool = False

    @classmethod
    def of(cls, definition: Definition, metric: str) -> Self:
        """The unit of a metric of an experiment; of `reward` where none of its metrics is called so."""
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
        """A value with four digits."""
        if value is None:
            return "n/a"
        return f"{100 * value:.4g} %" if self.share else f"{value:.4g}"


class Chart(msgspec.Struct, frozen=True):
    """One metric. Without any value it has no scale, no lines and no rows."""

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
        """From the first step in which units came; the scale is common to all variants."""
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
        """In words, for those who do not see it."""
        if self.low is None or self.high is None:
            return f"{self.metric} over time: nothing is known yet"
        newest = ", ".join(
            f"{line.variant} {self.unit.shown(line.newest)}" for line in self.lines if line.newest is not None
        )
        low, high = self.unit.shown(self.low), self.unit.shown(self.high)
        return f"{self.metric} ({self.unit.text}) over time, from {low} to {high}; newest: {newest}"


def step_of(started_at: datetime | None, now: datetime) -> int:
    """Steps of which an experiment of that age has a handful, and not too many."""
    age = timedelta(0) if started_at is None else now - started_at
    return 60 if age < timedelta(hours=3) else 3_600 if age < timedelta(days=4) else 86_400


def _newest(one: VariantSeries) -> float | None:
    return one.known[-1].value if one.known else None


def _path(series: Series, since: datetime, one: VariantSeries, low: float, high: float) -> str:
    """Steps next to each other are joined; a step alone is a dot."""
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
    """The newest first."""
    by_time = [{point.at: Cell(point.value, point.n) for point in one.points} for one in variants]
    for at in sorted({at for found in by_time for at in found}, reverse=True):
        yield TableRow(at, [found.get(at) for found in by_time])
