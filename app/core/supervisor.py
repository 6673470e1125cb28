"""Supervision of services: a service that ends is started again."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Final, Protocol

import structlog
from prometheus_client.multiprocess import mark_process_dead

from app.core.backoff import Backoff
from app.core.errors import WaldError
from app.core.limits import SHUTDOWN_GRACE_S, STEADY_S
from app.core.process import ChildProcess

_LOG = structlog.get_logger(__name__)
# A program needs up to `SHUTDOWN_GRACE_S` to answer requests, and then closes its connections.
KILL_AFTER_S: Final = 1.5 * SHUTDOWN_GRACE_S


class Service(Protocol):
    """A supervised service: an embedded engine, or one of our own programs."""

    @property
    def name(self) -> str:
        """Name in the log."""
        ...

    async def start(self) -> None:
        """Start it. Raises WaldError or OSError if it cannot start."""
        ...

    async def wait(self) -> int:
        """Wait for its end; return its exit status, or minus the signal that ended it."""
        ...

    async def stop(self) -> None:
        """End it in order, or by force if it takes too long."""
        ...


class Program:
    """One of our programs as a service. SIGTERM asks it to end."""

    def __init__(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self.process: ChildProcess | None = None

    async def start(self) -> None:
        """Start it. Raises OSError if the program does not exist."""
        if self.process is not None and (metrics := self._environment.get("PROMETHEUS_MULTIPROC_DIR")):
            mark_process_dead(self.process.pid, metrics)  # type: ignore[no-untyped-call]
        self.process = ChildProcess(self._command, environment=self._environment)

    async def wait(self) -> int:
        """Wait for its end; return its exit status, or minus the signal that ended it."""
        if self.process is None:
            raise RuntimeError(f"{self.name} was not started")
        return await self.process.wait()

    async def stop(self) -> None:
        """Let it finish its work, then end."""
        if self.process is not None:
            await self.process.stop(signal.SIGTERM, grace_s=KILL_AFTER_S)


@asynccontextmanager
async def started(services: Sequence[Service]) -> AsyncIterator[None]:
    """Start services one by one, and stop them together at the end."""
    try:
        for service in services:
            await service.start()
        yield
    finally:
        await asyncio.gather(*(service.stop() for service in services))


async def keep_running(service: Service, random: Random) -> None:
    """Restart a service whenever it ends. The wait grows while it ends early."""
    backoff = Backoff(random)
    while True:
        running_since = time.monotonic()
        status = await service.wait()
        if time.monotonic() - running_since > STEADY_S:
            backoff.reset()
        _LOG.error("service_ended", service=service.name, status=status)
        await _start_again(service, backoff)


async def _start_again(service: Service, backoff: Backoff) -> None:
    while True:
        await asyncio.sleep(backoff.next_s())
        try:
            await service.start()
        except (WaldError, OSError) as error:
            _LOG.error("service_does_not_start", service=service.name, error=str(error))
        else:
            _LOG.info("service_restarted", service=service.name)
            return
