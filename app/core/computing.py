"""Computations that a request waits for, in threads of their own, so that the event loop goes on."""

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from app.core import limits
from app.core.errors import Unavailable

T = TypeVar("T")


class Computing:
    """At most `limits.COMPUTATIONS_MAX` at a time: who comes in between is told to come again.

    The work itself has to be bounded. It goes on to its end when its request is given up: a thread
    cannot be stopped, and its place is only free when it is done.
    """

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(limits.COMPUTATIONS_MAX)

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns or raises. Raises Unavailable when there is no place."""
        if not self._places.acquire(blocking=False):
            raise Unavailable("another computation is running; try again when it is done")

        def compute() -> T:
            before = sys.getswitchinterval()
            # Whoever answers requests meanwhile gets the interpreter back soon.
            sys.setswitchinterval(limits.COMPUTATION_SWITCH_S)
            try:
                return work()
            finally:
                sys.setswitchinterval(before)
                self._places.release()

        return await asyncio.to_thread(compute)
