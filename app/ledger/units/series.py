"""Metrics over time: totals of units by the minute of their first assignment, thinned with age. Pure.

A unit belongs to the minute of its first exposed assignment in the epoch, with all signals about it,
however late. So a series is a function of the log, and its minutes add up to the cells. Rows of
different spans add up too: a late change to an hour is kept as a minute until it is thinned.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple, TypeVar

from app.ledger import limits
from app.ledger.units.measures import CellTotals, Measures, MinuteKey

MINUTE, HOUR, DAY = 1, 60, 1_440
"""Spans in minutes."""
SPANS: Final = (MINUTE, HOUR, DAY)

SeriesKey = tuple[int, int, int, int, int, bool]
"""Experiment, first minute, span, epoch, variant, and whether units crossed over."""


_Key = TypeVar("_Key")


class Kept(NamedTuple):
    """Limits in minutes since 1970: series before `hours` are kept by the hour, before `days` by the day."""

    hours: int
    days: int

    @classmethod
    def at(cls, now_s: float) -> "Kept":
        """Return the limits at a time in seconds since 1970. Only whole hours and days are thinned."""
        hours = int(now_s - limits.SERIES_MINUTES_S) // 60 // HOUR * HOUR
        return cls(hours, int(now_s - limits.SERIES_HOURS_S) // 60 // DAY * DAY)

    def span(self, minute: int) -> int:
        """Return the span in which a minute is kept."""
        return DAY if minute < self.days else HOUR if minute < self.hours else MINUTE


def series(
    by_minute: Mapping[MinuteKey, CellTotals], measures: Mapping[int, Measures]
) -> dict[SeriesKey, CellTotals]:
    """Add totals by minute, without segments. Units stored before series existed are left out."""
    by_key: dict[SeriesKey, CellTotals] = {}
    for (experiment_id, epoch, variant, _, crossed, minute), totals in by_minute.items():
        if minute is not None:
            key = experiment_id, minute, MINUTE, epoch, variant, crossed
            add(by_key, key, totals.outcomes(measures[experiment_id]))
    return by_key


def add(by_key: dict[_Key, CellTotals], key: _Key, totals: CellTotals) -> None:
    """Add totals to those of a key."""
    by_key[key] = by_key[key] + totals if key in by_key else totals


def widened(key: SeriesKey, span: int) -> SeriesKey:
    """Return the key of the longer span that contains a key's minute."""
    experiment_id, minute, _, *rest = key
    return (experiment_id, minute // span * span, span, *rest)  # type: ignore[return-value] # the rest are three


def as_kept(
    by_key: Mapping[SeriesKey, CellTotals], stored: Collection[SeriesKey], kept: Kept
) -> dict[SeriesKey, CellTotals]:
    """Return one experiment's totals by the span of their age, or by a longer span that is stored."""
    longer = {(key[2], key[1]) for key in stored if key[2] != MINUTE}
    widest: dict[SeriesKey, CellTotals] = {}
    for key, totals in by_key.items():
        spans = [span for span in (HOUR, DAY) if (span, key[1] // span * span) in longer]
        add(widest, widened(key, max(key[2], kept.span(key[1]), *spans)), totals)
    return widest
