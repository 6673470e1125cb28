"""The command `wald signals`, over HTTP."""

import rich_click as click

from app.cli import display
from app.cli.calls import Server, reads_server
from app.cli.options import json_option
from app.cli.terminal import show


@click.command("signals")
@click.argument("experiment")
@reads_server
@click.option(
    "--calibrate",
    "label",
    metavar="LABEL",
    help="Print a reward whose weights come from this signal, usually a label by people.",
)
@json_option
def signals_command(*, experiment: str, server: Server, label: str | None, as_json: bool) -> None:
    """Show what became of the feedback of EXPERIMENT, by signal.

        wald signals summary-prompt

    How to read it:

    * *counted*: signals that the reward or a metric reads, about recorded assignments, in time.
    * *waiting*: signals about assignments whose exposure is not recorded yet.
    * *late*, *early*: signals after the horizon, or from before the assignment. They do not count.
    * *no unit*: signals about a unit that had no assignment at that time. They do not count.
    * *not read*: signals whose name neither the reward nor a metric reads, often a misspelling.

    The second table has the share of assignments with each signal, in a sample, and how long
    signals take. If people labelled some responses, it says what each signal predicts.

    `--json` prints the answer of `GET /experiments/EXPERIMENT/signals`, which also has the range of values.
    """
    params = None if label is None else {"label": label}
    answer = server.get("experiments", experiment, "signals", params=params)
    show(answer, lambda: display.signals.report(answer, calibrating=label is not None), as_json=as_json)
