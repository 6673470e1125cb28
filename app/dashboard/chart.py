"""A metric over time as a small chart and a table. Pure: a series in, words and numbers out."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Self

import msgspec

from app.analysis.series import Series, VariantSeries

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


class Chart(msgspec.Struct, frozen=True):
    """One metric. Without any value it has no scale, no lines and no rows."""

    metric: str
    kind: str
    since: datetime
    until: datetime
    low: float | None
    high: float | None
    lines: list[Line]
    rows: list[TableRow]

    @classmethod
    def of(cls, series: Series) -> Self:
        """From the first step in which units came; the scale is common to all variants."""
        values = [point.value for one in series.variants for point in one.known if point.value is not None]
        came = [point.at for one in series.variants for point in one.points]
        since = min(came, default=series.since)
        low, high = min(values, default=None), max(values, default=None)
        return cls(
            metric=series.metric,
            kind=series.kind,
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
            f"{line.variant} {line.newest:.4g}" for line in self.lines if line.newest is not None
        )
        return f"{self.metric} over time, from {self.low:.4g} to {self.high:.4g}; newest: {newest}"


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
