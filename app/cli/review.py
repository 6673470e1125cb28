"""The commands `wald review`, over HTTP."""

import sys
from pathlib import Path
from typing import Any, Final

import rich_click as click

from app.cli import display
from app.cli.calls import Server, administers_server, reads_server, server_options
from app.cli.client import WaldClient, path_of, read
from app.cli.command_line import FAILED, BadInput, Group
from app.cli.files.output import whole_file
from app.cli.options import Parsed, json_option
from app.cli.terminal import err, progress, show

IMPORT_TIMEOUT_S: Final = 120.0
_reviews_server = server_options("the scope review")


def _label(text: str) -> tuple[str, str]:
    digit, equals, word = text.partition("=")
    if not (len(digit) == 1 and digit.isdigit() and equals and word):
        raise ValueError
    return digit, word


@click.group("review", cls=Group)
def review_command() -> None:
    """Let people label responses: set up, answer, export, import, and measure agreement.

    Reviewers need a key with the scope review, one for each person:

        wald keys create ann --scope review

    They answer on the page `/review` or with `wald review answer`.
    """


@review_command.command("list")
@server_options("the scope read, or review to list your own work")
@click.argument("experiment", required=False)
@json_option
def list_reviews(*, server: Server, experiment: str | None, as_json: bool) -> None:
    """Show the progress of EXPERIMENT; without it, what you can review with this key.

    wald review list summary-prompt
    """
    if experiment is None:
        answer = server.get("reviews")
        show(answer, lambda: display.review.workloads(answer), as_json=as_json)
    else:
        answer = server.get("experiments", experiment, "reviews")
        show(answer, lambda: display.review.overview(answer), as_json=as_json)


@review_command.command("settings")
@server_options("the scope read, and admin to change anything")
@click.argument("experiment")
@click.option("--rate", type=click.FloatRange(0, 1), help="Share of responses in the probability sample.")
@click.option("--rubric", type=click.File("r", encoding="utf-8"), help="A text file; - reads standard input.")
@click.option(
    "--label",
    "labels",
    type=Parsed("DIGIT=WORD", "1=poor", _label),
    multiple=True,
    help="A label; a greater digit is better. Repeat for all labels.",
)
@click.option("--reviewers", type=click.IntRange(1), help="Distinct reviewers of each response.")
@click.option("--lease-s", type=click.IntRange(1), help="Seconds without a sign after which a place is free.")
@json_option
def settings(
    *,
    server: Server,
    experiment: str,
    rate: float | None,
    rubric: Any,
    labels: tuple[tuple[str, str], ...],
    reviewers: int | None,
    lease_s: int | None,
    as_json: bool,
) -> None:
    """Show how responses of EXPERIMENT are reviewed; with options, change that.

    wald review settings summary-prompt --rate 0.01 --reviewers 2 --rubric rubric.txt
    """
    given = {
        "rate": rate,
        "rubric": None if rubric is None else rubric.read(),
        "labels": dict(labels) or None,
        "reviewers": reviewers,
        "lease_s": lease_s,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    path = path_of("experiments", experiment, "review")

    async def call(client: WaldClient) -> bytes:
        present = await client.raw("GET", path)
        if not changes:
            return present
        kept = {name: value for name, value in read(present, dict[str, Any]).items() if name in given}
        return await client.raw("PUT", path, kept | changes)

    answer = server.ask(call)
    show(answer, lambda: display.review.settings(answer), as_json=as_json)


@review_command.command("answer")
@_reviews_server
@click.argument("experiment", required=False)
def answer_reviews(*, server: Server, experiment: str | None) -> None:
    """Label responses in the terminal, one key each. `?` lists the keys.

    wald review answer summary-prompt
    """
    from app.cli.reviewing import Reviewing

    Reviewing(server, experiment).run()


@review_command.command("export")
@reads_server
@click.argument("experiment")
@click.option(
    "--format", "file_format", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True
)
@click.option(
    "--content",
    type=click.Choice(["answers", "items"]),
    default="answers",
    show_default=True,
    help="answers: labels and skips. items: the responses that want labels, to label elsewhere.",
)
@click.option("--revisions", is_flag=True, help="Include answers that were corrected.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    default="-",
    show_default=True,
    help="The file to write; - is standard output.",
)
def export_reviews(
    *, server: Server, experiment: str, file_format: str, content: str, revisions: bool, output: Path
) -> None:
    """Download the reviews of EXPERIMENT, or the responses that want one.

    wald review export summary-prompt --output labels.csv
    """
    params = {"format": file_format, "content": content, "revisions": str(revisions).lower()}
    path = path_of("experiments", experiment, "reviews", "export")
    with whole_file(output) as file:
        server.ask(lambda client: client.download(path, params, file))


@review_command.command("import")
@administers_server
@click.argument("experiment")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def import_reviews(*, server: Server, experiment: str, file: Path, as_json: bool) -> None:
    """Import labels of EXPERIMENT that were made elsewhere. FILE is CSV or JSON Lines.

        wald review import summary-prompt labels.csv

    Each line needs response_id, label and reviewer; comment, seconds and at may follow. A repeated
    import changes nothing. If lines are wrong, the others are imported, each wrong one is named,
    and the exit status is 1.
    """
    from app.cli.files.reviews import UnknownKind, chunks, merged
    from app.reviews.import_service import ImportReceipt

    try:
        parts = list(chunks(file))
    except UnknownKind as error:
        raise BadInput(f"{file}: {error}") from error
    path = path_of("experiments", experiment, "reviews", "import")

    async def call(client: WaldClient) -> ImportReceipt:
        receipts = []
        with progress("importing", len(parts)) as advance:
            for part in parts:
                body = await client.upload(path, part.body, part.media_type, timeout_s=IMPORT_TIMEOUT_S)
                receipts.append((part, read(body, ImportReceipt)))
                advance(1)
        return merged(receipts)

    receipt = server.ask(call)
    show(receipt, lambda: display.review.imported(receipt, str(file)), as_json=as_json)
    if receipt.rejected:
        err().print(f"{receipt.rejected:,} lines were not imported")
        sys.exit(FAILED)


@review_command.command("agreement")
@reads_server
@click.argument("experiment")
@json_option
def agreement(*, server: Server, experiment: str, as_json: bool) -> None:
    """Measure how far the reviewers of EXPERIMENT agree beyond chance, on the probability sample.

        wald review agreement summary-prompt

    Intervals leave out whole units in turn, because responses to one unit resemble each other.
    `wald agreement FILE` measures any table of ratings.
    """
    from app.reviews.overview import Overview

    answer = server.get("experiments", experiment, "reviews")
    result = read(answer, Overview).agreement
    show(result, lambda: display.agreement.report(result), as_json=as_json)
