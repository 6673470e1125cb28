"""How long to wait before the next attempt."""

from random import Random
from typing import Final

from app.core.limits import RESTART_BACKOFF_S_MAX

FIRST_S: Final = 0.1


class Backoff:
    """Doubling from `FIRST_S` to `RESTART_BACKOFF_S_MAX`, each wait shortened by up to half by chance."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._next_s = FIRST_S

    def next_s(self) -> float:
        """Return seconds to wait now; the wait after it is up to twice as long."""
        wait_s = self._next_s * self._random.uniform(0.5, 1.0)
        self._next_s = min(self._next_s * 2, RESTART_BACKOFF_S_MAX)
        return wait_s

    def reset(self) -> None:
        """Begin anew, after an attempt that went well."""
        self._next_s = FIRST_S
