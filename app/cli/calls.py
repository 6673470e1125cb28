"""Calls of commands to a server, and what to print when one fails."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import rich_click as click

from app.cli.client import INPUT_AT_FAULT, ClientError, Refused, WaldClient
from app.cli.command_line import FAILED, MISUSED, report

T = TypeVar("T")


def ask(url: str, key: str, call: Callable[[WaldClient], Awaitable[T]], *, failure: int | None = None) -> T:
    """Return what the call gives; if it fails, print the reason and end with an exit status.

    The status is `failure`; without it 2 if what was sent is wrong, else 1.
    """

    async def run() -> T:
        async with WaldClient(url, key) as client:
            return await call(client)

    try:
        return asyncio.run(run())
    except ClientError as error:
        fail(error, failure)


def fail(error: ClientError, failure: int | None = None) -> NoReturn:
    """Print the reason and end with an exit status, as `ask` does."""
    report(click.ClickException(advised(error)))
    wrong = isinstance(error, Refused) and error.status in INPUT_AT_FAULT
    sys.exit((MISUSED if wrong else FAILED) if failure is None else failure)


def advised(error: ClientError) -> str:
    """The reason, and what to do about a key that is refused."""
    if isinstance(error, Refused) and error.status in {401, 403}:
        return f"{error}; give another key by --key or WALD_API_KEY"
    return str(error)
