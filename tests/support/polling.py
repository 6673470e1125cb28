"""Wait for a condition that no event announces: the one poll helper, for threads and for asyncio."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 30.0


def wait_until(condition: Callable[[], Any], what: str = "", *, within_s: float = PATIENCE_S) -> Any:
    """Poll until `condition` returns a true value, and return it. Raises AssertionError that says `what`."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, what or f"not within {within_s} s"
        time.sleep(0.05)
    return value


async def eventually(condition: Callable[[], Any], what: str = "", *, within_s: float = PATIENCE_S) -> Any:
    """Do the same without blocking the event loop. `condition` may return an awaitable."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value := await value if inspect.isawaitable(value) else value:
            return value
        assert time.monotonic() < deadline, what or f"not within {within_s} s"
        await asyncio.sleep(0.02)
