"""Schedule of retries: when a failed attempt is repeated. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from app.jobs import limits


class Retry(msgspec.Struct, frozen=True):
    """The step of the next attempt in its schedule, and the seconds to wait for it."""

    step: int
    wait_s: float


def following(
    step: int, waits_s: Sequence[float], *, jitter: float, retry_after_s: float | None = None
) -> Retry | None:
    """Return the retry after a failed attempt at `step` (0: the first); None after the last one.

    `waits_s[n]` is the wait before the attempt at step n. A random `jitter` in [0, 1) lengthens it
    by up to the share `JOB_JITTER`, so that jobs that failed together do not repeat together. A
    `Retry-After` counts up to `JOB_RETRY_AFTER_S_MAX`.

    Worked by hand: following(1, (0, 5, 15), jitter=0.5, retry_after_s=90) has a scheduled wait of
    15 s * 1.1 = 16.5 s. The receiver asked for 90 s, so the result is Retry(2, 90).
    """
    if step + 1 >= len(waits_s):
        return None
    wait_s = waits_s[step + 1] * (1 + limits.JOB_JITTER * jitter)
    if retry_after_s is not None:
        wait_s = max(wait_s, min(retry_after_s, limits.JOB_RETRY_AFTER_S_MAX))
    return Retry(step + 1, wait_s)


def retry_after_s(value: str, now: datetime) -> float | None:
    """Return the seconds in a `Retry-After` header; None if it is neither seconds nor a date.

    The two obsolete forms of a date are not read. Source: RFC 9110, 10.2.3.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        at = datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return None
    return max(0.0, (at - now).total_seconds())
