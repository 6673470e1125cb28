"""Show an answer of the server again and again: in place on a terminal, each change once in a pipe."""

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
    """Show answers until `ended` is true of one, and return it.

    In a pipe, print an answer when it differs from the previous one. If `patient`, wait for a server that
    goes away after its first answer. Raises ClientError.
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
    """Print the renderable unless it equals the last output; return its text."""
    console = terminal.out()
    with console.capture() as capture:
        console.print(shown)
    text = capture.get()
    if text != printed:
        click.echo(f"{text}\n" if text else text, nl=False)
    return text
