"""`wald up`: everything on one machine, under one process that restarts the others."""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final

import httpx2
import msgspec

from app.core import migrations
from app.core.engines import EmbeddedEngines
from app.core.errors import Conflict, Unavailable
from app.core.limits import SHUTDOWN_GRACE_S
from app.core.process import raise_descriptor_limit
from app.core.serving import ENDING_SIGNALS
from app.core.settings import Settings
from app.core.supervisor import KILL_AFTER_S, Program, keep_running, started

_PROGRAM: Final = (sys.executable, "-P", "-m", "app.cli")
"""Command without the current folder on the path (`-P`), which may contain another `app.py`."""
_READY_POLL_S: Final = 0.1
_READY_TIMEOUT_S: Final = 2.0
_STOP_S_MAX: Final = 2 * KILL_AFTER_S + SHUTDOWN_GRACE_S  # for servers, worker and engines
_FORCED_STATUS: Final = 128 + signal.SIGINT


async def _nothing(_: str) -> None:
    return None


async def run(
    settings: Settings,
    *,
    on_engines_ready: Callable[[str, str], Awaitable[None]],
    on_ready: Callable[[str], Awaitable[None]] = _nothing,
    program: Sequence[str] = _PROGRAM,
) -> None:
    """Run engines without a URL, `settings.workers` servers and a worker until SIGTERM or SIGINT.

    They end in order: servers finish their requests, then the worker, then the engines. After a
    second signal, or after `_STOP_S_MAX` seconds, we and all children die at once.

    `on_engines_ready(valkey_url, database_url)` runs after the migration and before the servers.
    `on_ready(url)` runs once the servers are ready, and is cancelled at the end.

    Raises Conflict if the port is taken or another `wald up` uses the data folder. Raises
    Unavailable if an engine cannot start or the data folder cannot be written.
    """
    me = asyncio.current_task()
    if me is None:
        raise RuntimeError("run() must be awaited in a task")
    raise_descriptor_limit()
    loop = asyncio.get_running_loop()
    last_resort: asyncio.TimerHandle | None = None

    def stop() -> None:
        nonlocal last_resort
        if last_resort is not None:
            os._exit(_FORCED_STATUS)
        last_resort = loop.call_later(_STOP_S_MAX, os._exit, 1)
        me.cancel()

    for number in ENDING_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await _run(settings, on_engines_ready, on_ready, program)
    except asyncio.CancelledError:
        if last_resort is None:
            raise
        me.uncancel()
    finally:
        if last_resort is not None:
            last_resort.cancel()
        for number in ENDING_SIGNALS:
            loop.remove_signal_handler(number)


async def _run(
    settings: Settings,
    on_engines_ready: Callable[[str, str], Awaitable[None]],
    on_ready: Callable[[str], Awaitable[None]],
    program: Sequence[str],
) -> None:
    settings = msgspec.structs.replace(settings, port=_free_port(settings.host, settings.port))
    async with EmbeddedEngines(
        settings.data_dir, valkey=settings.valkey_url is None, postgres=settings.database_url is None
    ) as engines:
        if engines.attached:
            raise Conflict(
                f"{settings.data_dir} is in use by another `wald up`, process {engines.holder_pid}"
            )
        valkey_url = settings.valkey_url or engines.valkey_url
        database_url = settings.database_url or engines.database_url
        settings = msgspec.structs.replace(settings, valkey_url=valkey_url, database_url=database_url)
        await asyncio.to_thread(migrations.upgrade, database_url)
        await on_engines_ready(valkey_url, database_url)
        environment = _environment(settings, _empty_metrics_folder(settings.data_dir))
        worker = Program(
            "worker", [*program, "worker"], environment | {"WALD_PORT": "0", "WALD_OPERATIONS_PORT": "0"}
        )
        serve = [*program, "serve", "--port", str(settings.port)]
        servers = [Program(f"serve-{n}", serve, environment) for n in range(1, settings.workers + 1)]
        async with started([worker]), started(servers), asyncio.TaskGroup() as tasks:
            for service in (*engines.wanted, worker, *servers):
                tasks.create_task(keep_running(service, Random()))  # noqa: S311  (jitter)
            url = await _ready(settings)
            await on_ready(url)


def _free_port(host: str, port: int) -> int:
    """Return `port` if it is free, or a free port for 0. Raises Conflict, naming the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Conflict(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
            ) from error
        chosen: int = probe.getsockname()[1]
        return chosen


def _empty_metrics_folder(data_dir: Path) -> Path:
    """Return an empty folder for the metrics that our programs share.

    Raises Unavailable if the data folder cannot be written.
    """
    folder = data_dir.resolve() / "metrics"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise Unavailable(f"cannot keep metrics in {folder}: {error}") from error
    return folder


def _environment(settings: Settings, metrics: Path) -> dict[str, str]:
    """Return the environment of children: the settings, without those that only we need."""
    passed = msgspec.structs.replace(settings, workers=1, admin_key=None)
    return {name: value for name, value in os.environ.items() if name != "WALD_ADMIN_KEY"} | {
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        **passed.environment(),
    }


async def _ready(settings: Settings) -> str:
    """Wait until `/ready` succeeds, and return the URL for users."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104  (not bound)
    url = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    async with httpx2.AsyncClient(timeout=_READY_TIMEOUT_S, trust_env=False) as client:
        while True:
            try:
                if (await client.get(f"{url}/ready")).is_success:
                    return url
            except httpx2.HTTPError:
                pass
            await asyncio.sleep(_READY_POLL_S)
