"""Waits between attempts."""

from random import Random
from typing import Final

from app.core.limits import RESTART_BACKOFF_S_MAX

FIRST_S: Final = 0.1


class Backoff:
    """Waits that double from `FIRST_S` to `RESTART_BACKOFF_S_MAX`, each cut by up to half."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._next_s = FIRST_S

    def next_s(self) -> float:
        """Return the seconds to wait now, and double the next wait."""
        wait_s = self._next_s * self._random.uniform(0.5, 1.0)
        self._next_s = min(self._next_s * 2, RESTART_BACKOFF_S_MAX)
        return wait_s

    def reset(self) -> None:
        """Start again at `FIRST_S`, after a successful attempt."""
        self._next_s = FIRST_S
