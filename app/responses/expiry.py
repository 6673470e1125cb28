"""The day up to which texts expire, as far as the clock is believed. Pure."""

from datetime import date, timedelta

from app.responses import limits


def believed_day(stored: date | None, today: date, *, steady_s: float) -> date:
    """Return the day up to which texts may be dropped.

    `stored` is the day of the last round, `today` the shared time's, and `steady_s` how long this
    process has seen the date advance normally since `today` first appeared. A date that jumps ahead
    by more than a day is believed only after `EXPIRY_DOUBT_S`, so that a wrong clock which is set
    right again deletes nothing.
    """
    if stored is None or today <= stored + timedelta(days=1) or steady_s >= limits.EXPIRY_DOUBT_S:
        return today
    return stored
