"""The command `wald export`, over HTTP."""

from datetime import datetime
from pathlib import Path
from typing import Literal

import rich_click as click

from app.cli.calls import Server, reads_server
from app.cli.client import path_of
from app.cli.files.output import whole_file
from app.cli.options import since_option, until_option


@click.command("export")
@click.argument("experiment")
@reads_server
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    default="csv",
    show_default=True,
    help="The file format.",
)
@since_option
@until_option
@click.option(
    "--exact",
    is_flag=True,
    help="Keep every text as it was sent, even if a spreadsheet would run it as a formula.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    default="-",
    show_default=True,
    help="The file to write; - is standard output.",
)
def export_command(
    *,
    experiment: str,
    server: Server,
    file_format: Literal["csv", "jsonl", "parquet"],
    since: datetime | None,
    until: datetime | None,
    exact: bool,
    output: Path,
) -> None:
    """Download the assignments of EXPERIMENT with propensity, reward, context, signals and metrics.

        wald export summary-prompt --output summary-prompt.csv

    A download that breaks off ends with an error, and leaves no file.
    """
    params = {"format": file_format, "exact": str(exact).lower()}
    params |= {name: at.isoformat() for name, at in (("since", since), ("until", until)) if at is not None}
    path = path_of("experiments", experiment, "assignments")
    with whole_file(output) as file:
        server.ask(lambda client: client.download(path, params, file))
