"""The commands `wald up`, `wald serve` and `wald worker`: the processes of a deployment."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

import rich_click as click

from app.cli.engines import errors_in_words, run_with_urls, settings_of
from app.cli.options import engine_options
from app.core.settings import Durability, Settings

P = ParamSpec("P")
T = TypeVar("T")


def _serving_options(command: Callable[P, T]) -> Callable[P, T]:
    """Add the options of processes that listen."""
    host = click.option("--host", help="Address to listen on.  [env: WALD_HOST; default: 127.0.0.1]")
    log_level = click.option(
        "--log-level", help="debug, info, warning or error.  [env: WALD_LOG_LEVEL; default: info]"
    )
    return engine_options(host(log_level(command)))


_port_option = click.option("--port", type=int, help="Port to listen on.  [env: WALD_PORT; default: 8000]")


@click.command("up")
@_serving_options
@_port_option
@click.option("--workers", type=int, help="Number of serving processes.  [env: WALD_WORKERS; default: 1]")
@click.option(
    "--demo/--no-demo", default=False, help="Define a demo experiment and send it a trickle of traffic."
)
def up_command(**flags: Any) -> None:
    """Run everything on this machine: engines, servers and worker. Restart what dies.

        wald up --data-dir .wald --port 8000

    Engines that no URL names run embedded, with their data in the data folder. The first start prints an
    admin key, once. Set WALD_ADMIN_KEY to choose the key yourself.
    """
    import uvloop

    from app import up
    from app.cli import welcome
    from app.core import logs

    with_demo = flags.pop("demo")
    settings = settings_of(flags)
    logs.configure(settings.log_level, process="up")

    async def run() -> None:
        await up.run(
            settings,
            on_engines_ready=partial(welcome.ensure_keys, settings),
            on_ready=partial(welcome.greet, settings, demo=with_demo),
        )

    with errors_in_words():
        uvloop.run(run())


@click.command("serve")
@_serving_options
@_port_option
@click.option(
    "--durability",
    type=click.Choice([level.value for level in Durability]),
    help="What an answered assignment survives.  [env: WALD_DURABILITY; default: durable]",
)
def serve_command(**flags: Any) -> None:
    """Answer HTTP from one process. It needs engines by URL, or a running `wald up` on the data folder.

        wald serve --database-url postgresql://db/wald --valkey-url redis://valkey

    Run any number of them behind a balancer, or on one port of one machine.
    """
    from app import server

    _run_process("serve", flags, server.serve)


@click.command("worker")
@_serving_options
@click.option(
    "--port", type=int, default=0, help="Port to listen on. Without it, the worker does not listen."
)
def worker_command(**flags: Any) -> None:
    """Do all work that is not a request: ledger, horizons, allocation, publication.

        wald worker --database-url postgresql://db/wald --valkey-url redis://valkey

    Run one or several: they share the stream shards by leases. With --port a worker answers /health, /ready
    and /metrics. It does not read WALD_PORT, because a server on the same machine may use that port.
    """
    from app import worker

    _run_process("worker", flags, worker.work)


def _run_process(
    name: str, flags: dict[str, Any], process: Callable[[Settings], Coroutine[Any, Any, None]]
) -> None:
    """Run one process of a deployment until SIGTERM or SIGINT."""
    from app.core import logs

    async def run(settings: Settings) -> None:
        logs.configure(settings.log_level, process=name)
        await process(settings)

    run_with_urls(flags, run)
