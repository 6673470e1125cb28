"""Metrics over time: totals of units by the minute of their first assignment, thinned as they grow old. Pure.

A unit belongs to the minute of its first exposed assignment in the epoch, with all that is ever known of it,
however late: so a series is a function of the log like the cells, and all its minutes add up to them. Rows of
different spans add up too: what comes late to an hour is kept as a minute until it is thinned.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple, TypeVar

from app.ledger import limits
from app.ledger.units.measures import CellTotals, Measures, MinuteKey

MINUTE, HOUR, DAY = 1, 60, 1_440
"""Spans, in minutes."""
SPANS: Final = (MINUTE, HOUR, DAY)

SeriesKey = tuple[int, int, int, int, int, bool]
"""Experiment, first minute, span, epoch, variant, and whether units crossed over."""


_Key = TypeVar("_Key")


class Kept(NamedTuple):
    """Minutes since 1970: series before `hours` are kept by the hour, those before `days` by the day."""

    hours: int
    days: int

    @classmethod
    def at(cls, now_s: float) -> "Kept":
        """As of a time, in seconds since 1970. Only whole hours and days are thinned."""
        hours = int(now_s - limits.SERIES_MINUTES_S) // 60 // HOUR * HOUR
        return cls(hours, int(now_s - limits.SERIES_HOURS_S) // 60 // DAY * DAY)

    def span(self, minute: int) -> int:
        """How a minute is kept."""
        return DAY if minute < self.days else HOUR if minute < self.hours else MINUTE


def series(
    by_minute: Mapping[MinuteKey, CellTotals], measures: Mapping[int, Measures]
) -> dict[SeriesKey, CellTotals]:
    """By the minute. Units that were stored before there were series are in none."""
    found: dict[SeriesKey, CellTotals] = {}
    for (experiment_id, epoch, variant, _, crossed, minute), totals in by_minute.items():
        if minute is not None:
            key = experiment_id, minute, MINUTE, epoch, variant, crossed
            add(found, key, totals.outcomes(measures[experiment_id]))
    return found


def add(found: dict[_Key, CellTotals], key: _Key, totals: CellTotals) -> None:
    """Add totals to those of a key."""
    found[key] = found[key] + totals if key in found else totals


def widened(key: SeriesKey, span: int) -> SeriesKey:
    """The key of the longer span that it lies in."""
    experiment_id, minute, _, *rest = key
    return (experiment_id, minute // span * span, span, *rest)  # type: ignore[return-value] # the rest are three


def as_kept(
    found: Mapping[SeriesKey, CellTotals], stored: Collection[SeriesKey], kept: Kept
) -> dict[SeriesKey, CellTotals]:
    """Totals of one experiment as they are to be kept: by the span of their age, or a longer one stored."""
    longer = {(key[2], key[1]) for key in stored if key[2] != MINUTE}
    widest: dict[SeriesKey, CellTotals] = {}
    for key, totals in found.items():
        spans = [span for span in (HOUR, DAY) if (span, key[1] // span * span) in longer]
        add(widest, widened(key, max(key[2], kept.span(key[1]), *spans)), totals)
    return widest
