"""Waiting for an engine that has been started."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from app.core.errors import Unavailable
from app.core.process import ChildProcess

_LOG = structlog.get_logger(__name__)
_POLL_S: Final = 0.02
_POLL_S_MAX: Final = 0.25
_PATIENCE_S: Final = 10.0
_LOG_TAIL_BYTES: Final = 2_000


async def until_ready(
    name: str, process: ChildProcess, answers: Callable[[], Awaitable[bool]], log: Path
) -> None:
    """Wait until an engine answers, without a time limit: it may replay a long log.

    Raises Unavailable with the end of its log if the process ends instead.
    """
    poll_s, waiting_since, logged_at = _POLL_S, time.monotonic(), time.monotonic()
    while not await answers():
        if not process.running:
            raise Unavailable(f"{name} ended with status {await process.wait()}; {log} says:\n{tail(log)}")
        if time.monotonic() - logged_at > _PATIENCE_S:
            logged_at = time.monotonic()
            _LOG.info("engine_still_starting", engine=name, waited_s=round(logged_at - waiting_since))
        await asyncio.sleep(poll_s)
        poll_s = min(_POLL_S_MAX, poll_s * 1.5)


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").strip()
