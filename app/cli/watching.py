"""Shows an answer of the server again and again: in place on a terminal, each change once in a pipe."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import rich_click as click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from app.cli import terminal
from app.cli.client import Unreachable


async def watch(
    answer: Callable[[], Awaitable[bytes]],
    shown: Callable[[bytes], RenderableType],
    *,
    every_s: float,
    as_json: bool,
    ended: Callable[[bytes], bool] = lambda _: False,
    patient: bool = False,
) -> bytes:
    """Show answers until one has `ended`, and return that one.

    In a pipe an answer is printed when it differs from the last. `patient`: after the first answer,
    a server that is away is waited for. Raises ClientError.
    """
    in_place = terminal.is_terminal(sys.stdout) and not as_json
    live = Live(console=terminal.out(), auto_refresh=False) if in_place else None
    last: bytes | None = None
    printed = ""
    with live or nullcontext():
        while True:
            try:
                found = await answer()
            except Unreachable as error:
                if last is None or not patient:
                    raise
                if live is not None:
                    note = Text(f"{error}. Trying again.", style="yellow")
                    live.update(Group(shown(last), "", note), refresh=True)
                await asyncio.sleep(every_s)
                continue
            changed, last = found != last, found
            if live is not None:
                live.update(shown(found), refresh=True)
            elif as_json and changed:
                terminal.emit_json(found, one_line=True)
            elif not as_json:
                printed = _print_new(shown(found), printed)
            if ended(found):
                return found
            await asyncio.sleep(every_s)


def _print_new(shown: RenderableType, printed: str) -> str:
    """Print it unless it was printed last; return its text."""
    console = terminal.out()
    with console.capture() as capture:
        console.print(shown)
    text = capture.get()
    if text != printed:
        click.echo(f"{text}\n" if text else text, nl=False)
    return text
