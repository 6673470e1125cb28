"""The command `wald`: a list of all commands. Each is loaded when it is called, as some take a second."""

import os
from typing import Final

import rich_click as click

from app import __version__
from app.cli.command_line import Group

# Matrices here are small: threads of a linear algebra library would only wait for each other. The library
# reads this variable when it is loaded, which happens in the commands that need it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

_COMMANDS: Final = {
    "Run": {
        "up": ("processes", "Run everything on this machine: engines, servers and worker."),
        "serve": ("processes", "Answer HTTP from one process."),
        "worker": (
            "processes",
            "Do all work that is not a request: ledger, horizons, allocation, publication.",
        ),
    },
    "Operate": {
        "keys": ("keys", "Create, list and revoke API keys; rotate the secrets that sign assignment ids."),
        "webhooks": ("webhooks", "Notify other systems of events."),
        "settings": ("settings", "Show and change the settings that all processes of a deployment share."),
        "migrate": ("migrate", "Bring the database to the schema of this version."),
        "rebuild": ("rebuild", "Compute rewards, totals and shares again from the log, and publish them."),
        "doctor": ("doctor", "Check engines, versions, durability, schema, clocks, disk and memory."),
    },
    "Experiment": {
        "experiments": ("experiments", "Create, list, start and stop experiments."),
        "status": ("status", "Show how EXPERIMENT is doing and what to do about it."),
        "signals": ("signals", "Show what became of the feedback of EXPERIMENT, by signal."),
        "series": ("series", "Show a metric of EXPERIMENT over time, one line per variant."),
        "export": (
            "export",
            "Download the assignments of EXPERIMENT with propensity, reward, context, signals and metrics.",
        ),
    },
    "Responses": {
        "responses": ("responses", "List, show and erase stored responses, and feedback that waits for one."),
        "judge": ("judge", "Let judges score responses, and trust them once people agree with them."),
        "review": (
            "review",
            "Let people label responses: set up, answer, export, import, and measure agreement.",
        ),
        "quality": ("quality", "Show the quality of each variant, from judges on many and people on few."),
    },
    "Roll out": {
        "rollout": ("rollout", "Ramp up a canary in stages; proven harm rolls it back."),
        "explain": ("rollout", "Show the evidence of a rollout decision, and compute the decision again."),
        "kill": ("rollout", "Serve the control of EXPERIMENT everywhere within a second."),
        "revive": ("rollout", "End a kill: serve EXPERIMENT as defined again."),
    },
    "Try": {
        "demo": ("demo", "Watch a running server learn from simulated users."),
        "replay": ("replay", "Replay logged scores as live traffic, to see what adaptive allocation earns."),
    },
    "Plan and analyze": {
        "power": ("power", "Compute how many units an experiment needs, or what it can find."),
        "simulate": ("simulate", "Find the policy for your traffic before you serve a request."),
        "analyze": (
            "analyze",
            "Analyze an experiment from a CSV file with one row per unit, or with totals per variant.",
        ),
        "agreement": ("agreement", "Measure how far raters agree beyond chance."),
        "evaluate": (
            "evaluate",
            "Estimate what another policy would have earned on the traffic of EXPERIMENT.",
        ),
        "aa": ("aa", "Measure how often the plan of EXPERIMENT decides between equal halves of its control."),
    },
}
"""Commands by group: name, module in `app.cli`, and the text in the list of commands."""

click.rich_click.TEXT_MARKUP = "markdown"
click.rich_click.COMMAND_GROUPS = {
    "wald": [{"name": title, "commands": list(commands)} for title, commands in _COMMANDS.items()]
}


@click.group(
    cls=Group,
    deferred={name: row for commands in _COMMANDS.values() for name, row in commands.items()},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="wald")
def main() -> None:
    """Wald decides which variant of your LLM product serves each request, and learns from what happens next.

    Start everything on this machine, with its own Valkey and PostgreSQL in one folder:

        wald up --data-dir .wald --port 8000

    Then watch it learn from a simulated product, in another terminal:

        wald demo --key KEY

    Every option can be set as an environment variable `WALD_...`; a flag wins.
    """
