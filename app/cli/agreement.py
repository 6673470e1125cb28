"""The command `wald agreement`. It needs no server."""

from pathlib import Path
from typing import Any

import rich_click as click

from app.cli import display
from app.cli.options import CSV_FILE, alpha_option, decimal_option, json_option, where_option
from app.cli.terminal import show


@click.command("agreement")
@click.argument("file", type=CSV_FILE)
@click.option("--raters", required=True, metavar="A,B,...", help="Columns of the ratings, two or more.")
@click.option(
    "--scale",
    type=click.Choice(["nominal", "ordinal", "interval"]),
    default="nominal",
    show_default=True,
    help="nominal: categories. ordinal: ordered grades as numbers. interval: numbers with a distance.",
)
@click.option("--unit", metavar="COL", help="Column of what several items belong to, such as a conversation.")
@where_option
@decimal_option
@alpha_option
@json_option
def agreement_command(*, file: Path, raters: str, as_json: bool, **options: Any) -> None:
    """Measure how far raters agree beyond chance. FILE has one row per item.

    Each rater is a column. An empty cell is an item that the rater did not rate. Compare a judge with people
    before you trust its scores:

        wald agreement labels.csv --raters judge,alice,bob --unit conversation
    """
    from app.cli.files.agreement import agreement_of

    result = agreement_of(file, raters=raters, options=options)
    show(result, lambda: display.agreement.report(result), as_json=as_json)
