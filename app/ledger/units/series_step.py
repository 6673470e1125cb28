"""The step that moves series by differences, and the thinning of old minutes to hours and days."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from psycopg import AsyncCursor

from app.core.clock import Clock, SystemClock
from app.ledger import limits
from app.ledger.scope import lock_layouts
from app.ledger.session import report_unusable, sql
from app.ledger.units.measures import CellTotals, Measures, UnreadableTotals, in_layout, moved
from app.ledger.units.series import DAY, HOUR, MINUTE, Kept, SeriesKey, add, as_kept, widened

_CLOCK: Final[Clock] = SystemClock()
_LOCK_SERIES: Final = sql(__package__, "lock_series")
_STORE_SERIES: Final = sql(__package__, "store_series")
_TAKE_SERIES: Final = sql(__package__, "take_series")
_KEY: Final = ("experiment_id", "minute", "span", "epoch", "variant", "crossed")
_READ_SERIES: Final = (
    "SELECT experiment_id, minute, span, epoch, variant, crossed, body FROM metric_series"
    " WHERE experiment_id = %s"
)
_DELETE_SERIES: Final = "DELETE FROM metric_series WHERE experiment_id = %s"


async def move_series(
    cursor: AsyncCursor, differences: Mapping[SeriesKey, CellTotals], measures: Mapping[int, Measures]
) -> None:
    """Add differences to series. Totals that cannot be decoded stay as they are.

    Differences of experiments without `measures` are in the layout of the stored totals.
    """
    if not differences:
        return
    await cursor.execute(_LOCK_SERIES, _keys(sorted(differences)))
    bodies: dict[SeriesKey, bytes] = {}
    for *names, body in await cursor.fetchall():
        key: SeriesKey = tuple(names)
        try:
            measured = measures.get(key[0])
            if measured is None:
                total = CellTotals.from_bytes(body) + differences[key] if body else differences[key]
            else:
                total = moved(body, differences[key], measured, beside=0)
            bodies[key] = total.to_bytes()
        except (ValueError, UnreadableTotals) as error:
            report_unusable("metric_series", key, error)
    await cursor.execute(_STORE_SERIES, _keys(bodies) | {"body": list(bodies.values())})


async def thin_series(cursor: AsyncCursor) -> int:
    """Merge a bounded number of minutes into hours, and hours into days. Return how many rows.

    Experiments with a backfill are left for later: their rows may be in different layouts.
    """
    await lock_layouts(cursor, None)
    kept = _kept()
    taken = 0
    for span, wider, before in ((MINUTE, HOUR, kept.hours), (HOUR, DAY, kept.days)):
        await cursor.execute(
            _TAKE_SERIES, {"span": span, "before": before, "rows_max": limits.SERIES_THIN_ROWS_MAX}
        )
        removed = await cursor.fetchall()
        taken += len(removed)
        wide: dict[SeriesKey, CellTotals] = {}
        for *names, body in removed:
            key: SeriesKey = tuple(names)
            if (totals := _readable(key, body)) is not None:
                add(wide, widened(key, wider), totals)
        await move_series(cursor, wide, {})
    return taken


async def recount_series(
    cursor: AsyncCursor, experiment_id: int, fresh: Mapping[SeriesKey, CellTotals], measures: Measures
) -> list[tuple[int, int]]:
    """Set an experiment's series to the totals of its units by minute, under a lock on the table.

    Hours and days keep their spans. Return (epoch, variant) of the series that differed.
    """
    kept = _kept()
    await cursor.execute(_READ_SERIES, (experiment_id,))
    stored: dict[SeriesKey, bytes] = {tuple(row[:-1]): row[-1] for row in await cursor.fetchall()}
    read = {
        key: measures.converted(totals, beside=0)
        for key, body in stored.items()
        if (totals := _readable(key, body)) is not None
    }
    before, after = _not_empty(as_kept(read, stored, kept)), _not_empty(as_kept(fresh, stored, kept))
    differed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    differed |= {key for key, body in stored.items() if body and key not in read}  # it cannot be decoded
    if differed:
        await cursor.execute(_DELETE_SERIES, (experiment_id,))
        await move_series(cursor, after, {experiment_id: measures})
    return sorted({(key[3], key[4]) for key in differed})


async def convert_series(cursor: AsyncCursor, experiment_id: int, measures: Measures) -> None:
    """Bring the series of an experiment that are in an earlier layout into the present one."""
    await cursor.execute(_READ_SERIES, (experiment_id,))
    outdated: list[SeriesKey] = [
        tuple(row[:-1]) for row in await cursor.fetchall() if in_layout(row[-1], measures, 0) != row[-1]
    ]
    if outdated:
        await cursor.execute(_LOCK_SERIES, _keys(sorted(outdated)))
        bodies: dict[SeriesKey, bytes] = {
            tuple(names): in_layout(body, measures, 0) for *names, body in await cursor.fetchall()
        }
        await cursor.execute(_STORE_SERIES, _keys(bodies) | {"body": list(bodies.values())})


def _kept() -> Kept:
    return Kept.at(_CLOCK.now().timestamp())


def _readable(key: SeriesKey, body: bytes) -> CellTotals | None:
    """Decode totals; return None if there are none or they cannot be decoded."""
    try:
        totals = CellTotals.from_bytes(body) if body else None
    except (ValueError, UnreadableTotals) as error:
        report_unusable("metric_series", key, error)
        return None
    return totals


def _not_empty(by_key: Mapping[SeriesKey, CellTotals]) -> dict[SeriesKey, CellTotals]:
    return {key: totals for key, totals in by_key.items() if not totals.empty}


def _keys(keys: Collection[SeriesKey]) -> dict[str, list[Any]]:
    return {name: [key[place] for key in keys] for place, name in enumerate(_KEY)}
