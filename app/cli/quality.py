"""The command `wald quality`, over HTTP."""

import rich_click as click

from app.cli import display
from app.cli.calls import Server, reads_server
from app.cli.options import json_option
from app.cli.terminal import show


@click.command("quality")
@click.argument("experiment")
@reads_server
@click.option("--judge", help="Name of the judge.  [default: the most trusted one]")
@click.option("--version", help="Version of the judge: its hash, or the beginning of it.")
@click.option("--level", type=float, default=0.95, show_default=True, help="Level of all intervals.")
@click.option(
    "--labels", type=int, default=40, show_default=True, help="Further labels that the plan compares."
)
@click.option("--label-cost", type=float, help="Price of one label in USD, for the plan.")
@json_option
def quality_command(
    *,
    experiment: str,
    server: Server,
    judge: str | None,
    version: str | None,
    level: float,
    labels: int,
    label_cost: float | None,
    as_json: bool,
) -> None:
    """Show the quality of each variant, from judges on many and people on few.

        wald quality summary-prompt

        wald quality summary-prompt --judge helpful --labels 100 --label-cost 0.5

    How to read it:

    * *quality*: the mean score that people would give, from 0 (their lowest label) to 1 (their
      highest). People label a random sample. The judge's scores of the other responses make the
      number more precise, and never biased.
    * *interval*: holds at every look. It needs 10 labels.
    * *judge alone*: the judge's mean at face value. *bias removed* is how far it is above the
      quality.
    * *effect*: the difference from the control. The intervals of all variants hold together.
    * The last lines say what more labels would buy, and how many judge calls would do as much.

    `--json` prints the answer of `GET /experiments/EXPERIMENT/quality`. It also has intervals for
    one look, and the estimates without the judge.
    """
    params = {"level": str(level), "labels": str(labels)}
    optional = {"judge": judge, "version": version, "label_cost_usd": label_cost}
    params |= {name: str(value) for name, value in optional.items() if value is not None}
    answer = server.get("experiments", experiment, "quality", params=params)
    show(answer, lambda: display.quality.report(answer), as_json=as_json)
