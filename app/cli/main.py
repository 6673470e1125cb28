"""The command `wald`."""

import os
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

import rich_click as click

from app import __version__
from app.cli.command_line import Group, Target
from app.cli.options import engine_options, errors_told, json_option, run_with_engines, settings_of
from app.cli.terminal import answer, emit_json, out
from app.core.settings import Durability, Settings

# Matrices here are small: threads of a linear algebra library would only wait for each other. It reads this
# when it is loaded, which is by the commands that need it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

P = ParamSpec("P")
T = TypeVar("T")

click.rich_click.TEXT_MARKUP = "markdown"
click.rich_click.COMMAND_GROUPS = {
    "wald": [
        {"name": "Run", "commands": ["up", "serve", "worker"]},
        {"name": "Operate", "commands": ["keys", "webhooks", "settings", "migrate", "rebuild", "doctor"]},
        {"name": "Experiment", "commands": ["experiments", "status", "series", "export"]},
        {"name": "Roll out", "commands": ["rollout", "explain", "kill", "revive"]},
        {"name": "Try", "commands": ["demo", "replay"]},
        {
            "name": "Plan and analyze",
            "commands": ["power", "simulate", "analyze", "agreement", "evaluate", "aa"],
        },
    ]
}

_OF_ROOMS: Final = {
    "keys": Target("app.cli.keys:keys", "Make, list and revoke API keys; rotate signing secrets."),
    "webhooks": Target("app.cli.webhooks:webhooks", "Tell other systems what happens."),
    "settings": Target(
        "app.cli.settings:settings_group",
        "Show and change the settings that all processes of this deployment share.",
    ),
    "rebuild": Target(
        "app.cli.rebuild:rebuild_command",
        "Compute everything anew from the log: rewards, totals, shares, and what servers load.",
    ),
    "status": Target(
        "app.cli.status:status_command", "Show how EXPERIMENT is doing and what to do about it."
    ),
    "experiments": Target(
        "app.cli.experiments:experiments_group", "Create, list, start and stop experiments."
    ),
    "rollout": Target(
        "app.cli.rollout:rollout_group",
        "Ramp a canary up stage by stage; harm that is proven takes it back.",
    ),
    "explain": Target(
        "app.cli.rollout:explain_command",
        "Compute a decision of a rollout again from its stored inputs, and show its evidence.",
    ),
    "kill": Target(
        "app.cli.rollout:kill_command",
        "Answer the control everywhere within a second, whatever EXPERIMENT says.",
    ),
    "revive": Target("app.cli.rollout:revive_command", "End a kill: serve again as EXPERIMENT says."),
    "demo": Target("app.cli.traffic:demo_command", "Watch a running server learn from simulated users."),
    "replay": Target(
        "app.cli.traffic:replay_command",
        "Replay logged scores as if they came in live, to see what adaptive allocation would have earned.",
    ),
    "power": Target(
        "app.cli.offline:power_command",
        "How many units and weeks an experiment needs, or what it can find.",
    ),
    "simulate": Target(
        "app.cli.simulate:simulate_command",
        "Find the policy for your traffic before you serve a request.",
    ),
    "analyze": Target(
        "app.cli.offline:analyze_command",
        "Read out an experiment from a CSV file with one row per unit.",
    ),
    "agreement": Target(
        "app.cli.offline:agreement_command",
        "Measure how far raters agree beyond chance, from a file with one row per item.",
    ),
    "series": Target(
        "app.cli.online:series_command",
        "Show a metric of EXPERIMENT over time, one line per variant.",
    ),
    "evaluate": Target(
        "app.cli.evaluate:evaluate_command",
        "Ask what another policy would have earned on the traffic of EXPERIMENT.",
    ),
    "aa": Target(
        "app.cli.online:aa_command",
        "Measure how often the plan of EXPERIMENT decides where nothing differs, on its own data.",
    ),
    "export": Target(
        "app.cli.export:export_command",
        "Download the assignments of EXPERIMENT with their propensities, rewards and contexts.",
    ),
}
"""Commands that other modules define: each is loaded when it is called, for some take a second."""


def serving_options(command: Callable[P, T]) -> Callable[P, T]:
    """The options of whatever listens."""
    options = (
        click.option("--host", help="Address to listen on.  [env: WALD_HOST; default: 127.0.0.1]"),
        click.option(
            "--log-level", help="debug, info, warning, error.  [env: WALD_LOG_LEVEL; default: info]"
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


_port_option = click.option("--port", type=int, help="Port to listen on.  [env: WALD_PORT; default: 8000]")


@click.group(cls=Group, deferred=_OF_ROOMS, context_settings={"help_option_names": ["-h", "--help"]})
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
@_port_option
@click.option("--workers", type=int, help="Number of serving processes.  [env: WALD_WORKERS; default: 1]")
@click.option(
    "--demo/--no-demo", default=False, help="Define a demo experiment and send it a trickle of traffic."
)
def up(**flags: Any) -> None:
    """Run everything on this machine: engines, servers and worker, and restart what dies.

    Engines that are not named by a URL run embedded, with their data in the data folder. The first start
    prints an admin key, once; set WALD_ADMIN_KEY to choose it yourself.
    """
    import uvloop  # noqa: PLC0415  (each command loads only what it needs)

    from app import up as composition  # noqa: PLC0415
    from app.cli import welcome  # noqa: PLC0415
    from app.core import logs  # noqa: PLC0415

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
@_port_option
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
@click.option("--port", type=int, default=0, help="Port to listen on; left out, none.")
def worker(**flags: Any) -> None:
    """Do all that is not a request: ledger, horizons, allocation, publication.

    Run one or several: they share the stream shards by leases. With --port it answers /health, /ready and
    /metrics there. It does not read WALD_PORT, which a server on the same machine may have.
    """
    from app import worker as composition  # noqa: PLC0415

    _run_process("worker", flags, composition.work)


@main.command()
@engine_options
@click.option("--to", default="head", show_default=True, help="The revision to migrate to.")
@json_option
def migrate(to: str, *, as_json: bool, **flags: Any) -> None:
    """Bring the database to the schema of this version. Safe to run from several places at once.

    Also makes the signing key, and stores the admin key of WALD_ADMIN_KEY, where they are missing.
    """
    import asyncio  # noqa: PLC0415

    from app import start  # noqa: PLC0415
    from app.core import logs, migrations  # noqa: PLC0415

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        revision = await asyncio.to_thread(migrations.upgrade, settings.database_url, to)
        doubts: list[str] = []
        if revision == migrations.head():
            logs.configure("error", process="migrate")  # a Valkey that is away now is no news here
            doubts += await start.ensure_access_of(settings)
        notes = "".join(f"\nNote: {doubt}" for doubt in doubts)
        shown = {"revision": revision, "notes": doubts}
        answer(f"The database is at revision {revision}.{notes}", shown, as_json=as_json)

    run_with_engines(flags, run)


@main.command("doctor")
@engine_options
@json_option
def examine_all(*, as_json: bool, **flags: Any) -> None:
    """Check engines, versions, durability, schema, clocks, disk and memory, and say what to do.

    Exit status 1 if something does not work or may lose what was acknowledged.
    """
    from app.cli import doctor  # noqa: PLC0415
    from app.core.clock import SystemClock  # noqa: PLC0415

    async def run(settings: Settings) -> None:
        findings = await doctor.examine(settings, SystemClock())
        if as_json:
            emit_json(findings)
        else:
            out().print(doctor.table(findings))
        if doctor.verdict(findings) is doctor.Verdict.FAIL:
            sys.exit(1)

    run_with_engines(flags, run)


def _run_process(
    name: str, flags: dict[str, Any], main: Callable[[Settings], Coroutine[Any, Any, None]]
) -> None:
    """Run one of the processes of a deployment until SIGTERM or SIGINT."""
    from app.core import logs  # noqa: PLC0415

    async def run(settings: Settings) -> None:
        logs.configure(settings.log_level, process=name)
        await main(settings)

    run_with_engines(flags, run)
