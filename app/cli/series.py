"""The command `wald series`, over HTTP."""

from datetime import datetime
from pathlib import Path

import rich_click as click

from app.cli import display
from app.cli.calls import Server, reads_server
from app.cli.options import HTML_FILE, MOMENT, json_option
from app.cli.terminal import err, show


@click.command("series")
@click.argument("experiment")
@reads_server
@click.option("--metric", default="reward", show_default=True, help="The metric to show.")
@click.option("--since", type=MOMENT, help="Show steps from this time on. UTC unless it has an offset.")
@click.option("--until", type=MOMENT, help="Show steps before this time.")
@click.option("--step-s", type=int, default=3_600, show_default=True, help="Length of a step in seconds.")
@click.option("--figure", type=HTML_FILE, help="Write a figure as an HTML page.")
@json_option
def series_command(
    *,
    experiment: str,
    server: Server,
    metric: str,
    since: datetime | None,
    until: datetime | None,
    step_s: int,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Show a metric of EXPERIMENT over time, one line per variant.

        wald series summary-prompt --metric latency

        wald series summary-prompt --since 2026-01-05 --step-s 86400 --figure latency.html

    A unit counts at the time of its first assignment, with everything known about it now. The newest steps
    therefore change while rewards are still to come. A step without units is blank. Minutes are kept for two
    days, hours for 35 days, days for good: older times need longer steps.

    This describes the data. `wald status` says whether variants differ.
    """
    params = {"metric": metric, "step_s": str(step_s)}
    params |= {name: at.isoformat() for name, at in (("since", since), ("until", until)) if at is not None}
    answer = server.get("experiments", experiment, "series", params=params)
    if figure is not None:
        display.series.write_figure(answer, figure)
        err().print(f"The figure is in {figure}.")
    show(answer, lambda: display.series.report(answer), as_json=as_json)
