"""The command `wald export`."""

import asyncio
import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, Literal

import httpx2
import rich_click as click

from app.cli.client import NO_SERVER, path_of
from app.cli.options import Moment
from app.cli.traffic import read_key_option, url_option

SILENCE_S: Final = 60.0


@click.command("export")
@click.argument("experiment")
@url_option
@read_key_option
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="parquet needs pyarrow in the server.",
)
@click.option("--since", type=Moment(), help="Only assignments from then on; UTC unless it has an offset.")
@click.option("--until", type=Moment(), help="Only assignments before.")
@click.option(
    "--exact",
    is_flag=True,
    help="Leave texts as they were sent, also those that a spreadsheet would run as a formula.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    default="-",
    help="The file to write; - (the default) is the standard output.",
)
def export_command(
    *,
    experiment: str,
    url: str,
    key: str,
    file_format: Literal["csv", "parquet"],
    since: datetime | None,
    until: datetime | None,
    exact: bool,
    output: Path,
) -> None:
    """Download the assignments of EXPERIMENT with their propensities, rewards and contexts.

        wald export summary-prompt --output summary-prompt.csv

    A download that was cut off ends with an error, and leaves no file.
    """
    asked: dict[str, str] = {"format": file_format, "exact": str(exact).lower()}
    asked |= {name: at.isoformat() for name, at in (("since", since), ("until", until)) if at is not None}
    path = url.rstrip("/") + path_of("experiments", experiment, "assignments")
    to_stdout = str(output) == "-"
    part = output.with_name(f"{output.name}.part")
    opened: AbstractContextManager[BinaryIO] = (
        nullcontext(sys.stdout.buffer) if to_stdout else part.open("wb")
    )
    try:
        with opened as file:
            asyncio.run(_download(path, key, asked, file))
    except (httpx2.HTTPError, click.ClickException) as error:
        if not to_stdout:
            part.unlink(missing_ok=True)
        if isinstance(error, click.ClickException):
            raise
        hint = NO_SERVER if isinstance(error, httpx2.ConnectError) else ""
        raise click.ClickException(f"the download failed: {url}: {error}{hint}") from None
    if not to_stdout:
        part.replace(output)


async def _download(path: str, key: str, asked: dict[str, str], file: BinaryIO) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(timeout=SILENCE_S) as client,
        client.stream("GET", path, params=asked, headers=headers) as answer,
    ):
        if answer.status_code != 200:
            await answer.aread()
            raise click.ClickException(_reason(answer))
        async for chunk in answer.aiter_bytes():
            file.write(chunk)


def _reason(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.url.path} answered {answer.status_code}; is the URL right?"
