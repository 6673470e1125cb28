"""The command `wald`."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

import rich_click as click
import uvloop

from app import __version__
from app.access.commands import keys
from app.access.service import AccessService
from app.access.store import AccessStore
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.clients.aa import aa_command
from app.clients.commands import demo_command, replay_command
from app.clients.evaluate import evaluate_command
from app.clients.export import export_command
from app.clients.offline import analyze_command, power_command
from app.clients.rollout import explain_command, kill_command, revive_command, rollout_group
from app.clients.series import series_command
from app.clients.simulate import simulate_command
from app.core import logs, migrations
from app.core.clock import SystemClock
from app.core.commands import ERR, OUT, engine_options, errors_told, run_with_engines, settings_of
from app.core.postgres import create_engine
from app.core.settings import Durability, Settings
from app.core.valkey import create_client
from app.feedback.rebuild import rebuild_totals
from app.webhooks.commands import webhooks

P = ParamSpec("P")
T = TypeVar("T")

click.rich_click.TEXT_MARKUP = "markdown"
click.rich_click.COMMAND_GROUPS = {
    "wald": [
        {"name": "Run", "commands": ["up", "serve", "worker"]},
        {"name": "Operate", "commands": ["keys", "webhooks", "migrate", "rebuild", "doctor"]},
        {"name": "Roll out", "commands": ["rollout", "explain", "kill", "revive"]},
        {"name": "Try", "commands": ["demo", "replay"]},
        {
            "name": "Plan and analyze",
            "commands": ["power", "simulate", "analyze", "series", "evaluate", "aa", "export"],
        },
    ]
}


def serving_options(command: Callable[P, T]) -> Callable[P, T]:
    """The options of whatever listens."""
    options = (
        click.option("--host", help="Address to listen on.  [env: WALD_HOST; default: 127.0.0.1]"),
        click.option("--port", type=int, help="Port to listen on.  [env: WALD_PORT; default: 8000]"),
        click.option(
            "--log-level", help="debug, info, warning, error.  [env: WALD_LOG_LEVEL; default: info]"
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wald")
def main() -> None:
    """Wald decides which variant of your LLM product serves each request, and learns from what happens next.

    Start everything on this machine, with its own Valkey and PostgreSQL in one folder:

        wald up --data-dir .wald --port 8000

    Then watch it learn on a simulated product, in another terminal:

        wald demo --key KEY

    Every option can be set as an environment variable `WALD_...`; a flag wins.
    """


@main.command()
@engine_options
@serving_options
@click.option("--workers", type=int, help="Number of serving processes.  [env: WALD_WORKERS; default: 1]")
@click.option(
    "--demo/--no-demo", default=False, help="Define a demo experiment and send it a trickle of traffic."
)
def up(**flags: Any) -> None:
    """Run everything on this machine: engines, servers and worker, and restart what dies.

    Engines that are not named by a URL run embedded, with their data in the data folder. The first start
    prints an admin key, once; set WALD_ADMIN_KEY to choose it yourself.
    """
    from app import up as composition  # noqa: PLC0415  (each command loads only what it needs)
    from app import welcome  # noqa: PLC0415

    with_demo = flags.pop("demo")
    settings = settings_of(flags)
    logs.configure(settings.log_level, process="up")

    async def run() -> None:
        await composition.run(
            settings,
            on_engines_ready=partial(welcome.ensure_keys, settings),
            on_ready=partial(welcome.greet, settings, demo=with_demo),
        )

    with errors_told():
        uvloop.run(run())


@main.command()
@engine_options
@serving_options
@click.option(
    "--durability",
    type=click.Choice([level.value for level in Durability]),
    help="What an answered assignment survives.  [env: WALD_DURABILITY; default: durable]",
)
def serve(**flags: Any) -> None:
    """Answer HTTP from one process. Needs the engines by URL, or a running `wald up` on the data folder.

    Run as many as you like behind a balancer, or on one port of one machine.
    """
    from app import server  # noqa: PLC0415

    _run_process("serve", flags, server.serve)


@main.command()
@engine_options
@serving_options
def worker(**flags: Any) -> None:
    """Do all that is not a request: ledger, horizons, allocation, publication.

    Run one or several: they share the stream shards by leases. Its port answers /health, /ready and /metrics;
    port 0, the default here, leaves that out.
    """
    from app import worker as composition  # noqa: PLC0415

    flags["port"] = flags["port"] or 0
    _run_process("worker", flags, composition.work)


@main.command()
@engine_options
@click.option("--to", default="head", show_default=True, help="The revision to migrate to.")
def migrate(to: str, **flags: Any) -> None:
    """Bring the database to the schema of this version. Safe to run from several places at once."""

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        revision = await asyncio.to_thread(migrations.upgrade, settings.database_url, to)
        OUT.print(f"The database is at revision [bold]{revision}[/].")

    run_with_engines(flags, run)


@main.command()
@engine_options
def rebuild(**flags: Any) -> None:
    """Compute everything anew from the log: rewards, totals, shares, and what servers load.

    Harmless at any time. Says what was not as the log has it; exit status 1 if there was anything.
    """

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        assert settings.valkey_url is not None
        engine, valkey = create_engine(settings.database_url), create_client(settings.valkey_url)
        allocation = AllocationService(AllocationStore(engine, valkey), SystemClock())
        try:
            with ERR.status("Reading the log"):
                rebuilt = await allocation.rebuild(partial(rebuild_totals, settings.database_url))
            await AccessService(AccessStore(engine, valkey), SystemClock()).publish()
        finally:
            await valkey.aclose()
            await engine.dispose()
        for total in rebuilt.ledger.totals:
            where = f"experiment {total.experiment_id}, epoch {total.epoch}, variant {total.variant}"
            OUT.print(f"{where}: totals were {total.before}, are now {total.after}")
        for one in rebuilt.ledger.learned:
            where = f"experiment {one.experiment_id}, epoch {one.epoch}, variant {one.variant}"
            OUT.print(f"{where}: what its policy learned was not what the log gives")
        for cell in rebuilt.ledger.cells:
            where = f"experiment {cell.experiment_id}, epoch {cell.epoch}, variant {cell.variant}"
            OUT.print(f"{where}: totals of its metrics were not what its units come to")
        for drawn in rebuilt.ledger.draws:
            where = f"experiment {drawn.experiment_id}, epoch {drawn.epoch}, variant {drawn.variant}"
            OUT.print(f"{where}: its draws and their probabilities were not what the log gives")
        for moved in rebuilt.ledger.series:
            where = f"experiment {moved.experiment_id}, epoch {moved.epoch}, variant {moved.variant}"
            OUT.print(f"{where}: its series were not what its units come to")
        for experiment_id in rebuilt.ledger.rewards:
            OUT.print(f"experiment {experiment_id}: a stored reward was not what its signals give")
        for experiment_id in rebuilt.weights:
            OUT.print(f"experiment {experiment_id}: its shares were not what its totals give")
        if not rebuilt.equal:
            sys.exit(1)
        OUT.print("Log, totals and shares agree bit for bit; everything is published.")

    run_with_engines(flags, run)


@main.command("doctor")
@engine_options
def examine_all(**flags: Any) -> None:
    """Check engines, versions, durability, schema, clocks, disk and memory, and say what to do.

    Exit status 1 if something does not work or may lose what was acknowledged.
    """
    from app import doctor  # noqa: PLC0415

    async def run(settings: Settings) -> None:
        findings = await doctor.examine(settings, SystemClock())
        OUT.print(doctor.table(findings))
        if doctor.verdict(findings) is doctor.Verdict.FAIL:
            sys.exit(1)

    run_with_engines(flags, run)


main.add_command(keys)
main.add_command(webhooks)
main.add_command(analyze_command)
main.add_command(power_command)
main.add_command(demo_command)
main.add_command(replay_command)
main.add_command(simulate_command)
main.add_command(evaluate_command)
main.add_command(series_command)
main.add_command(aa_command)
main.add_command(rollout_group)
main.add_command(explain_command)
main.add_command(kill_command)
main.add_command(revive_command)
main.add_command(export_command)


def _run_process(
    name: str, flags: dict[str, Any], main: Callable[[Settings], Coroutine[Any, Any, None]]
) -> None:
    """Run one of the processes of a deployment until SIGTERM or SIGINT."""

    async def run(settings: Settings) -> None:
        logs.configure(settings.log_level, process=name)
        await main(settings)

    run_with_engines(flags, run)


if __name__ == "__main__":
    main()
