"""Computations that a request waits for, in threads, so that the event loop keeps running."""

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from app.core import limits
from app.core.errors import Unavailable

T = TypeVar("T")


class Computing:
    """Places for at most `limits.COMPUTATIONS_MAX` computations at a time; others are refused.

    Each computation must be bounded. If its request is cancelled, it still runs to its end, because
    a thread cannot be stopped, and it keeps its place until then.
    """

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(limits.COMPUTATIONS_MAX)

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` and return its result. Raises Unavailable if all places are taken."""
        if not self._places.acquire(blocking=False):
            raise Unavailable("another computation is running; try again when it is done")

        def compute() -> T:
            before = sys.getswitchinterval()
            # Threads that answer requests get the interpreter back soon.
            sys.setswitchinterval(limits.COMPUTATION_SWITCH_S)
            try:
                return work()
            finally:
                sys.setswitchinterval(before)
                self._places.release()

        return await asyncio.to_thread(compute)
