"""Where commands write: consoles of the right width, JSON, and progress that only a person sees.

On a terminal, output has the terminal's width. In a pipe or a file nothing is wrapped, shortened or coloured.
`COLUMNS` sets the width in both cases.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

import msgspec
import rich_click as click
from rich.console import Console, RenderableType

PIPE_COLUMNS: Final = 100_000
"""Width of a pipe: wider than any row, so that each row stays on one line."""
COLUMNS_MIN: Final = 20
COLUMNS_FALLBACK: Final = 80
BROKEN_PIPE_STATUS: Final = 141
"""Exit status if the reader of a pipe has left: 128 plus the number of SIGPIPE, as in other programs."""


class _Console(Console):
    """A console that ends the command when the reader of its pipe has left, as in `wald … | head`."""

    def on_broken_pipe(self) -> None:
        """End without a message."""
        leave_broken_pipe()


def leave_broken_pipe() -> None:
    """End the command without an error message. Nothing that is still buffered is written.

    Raises SystemExit.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    sys.exit(BROKEN_PIPE_STATUS)


def out() -> Console:
    """Return the console for the result of the command."""
    return _console(sys.stdout)


def err() -> Console:
    """Return the console for messages beside the result."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    return _Console(file=stream, width=columns(stream), highlight=False, emoji=False, markup=False)


def columns(stream: TextIO) -> int:
    """Return the width of `stream`: `COLUMNS`, or that of the terminal; a pipe has no limit."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return max(int(given), COLUMNS_MIN)
    if not is_terminal(stream):
        return PIPE_COLUMNS
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        width = 0
    return max(width, COLUMNS_MIN) if width else COLUMNS_FALLBACK


def is_terminal(stream: TextIO) -> bool:
    """Return whether the stream is a terminal."""
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


def emit_json(value: object, *, one_line: bool = False) -> None:
    """Print a value as JSON. `bytes` are JSON already: their values stay as they are."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    click.echo(msgspec.json.format(body, indent=-1 if one_line else 2))


def show(value: object, text: str | Callable[[], RenderableType], *, as_json: bool) -> None:
    """Print a result: `value` as JSON, or `text` for people, which is only computed when it is needed."""
    if as_json:
        emit_json(value)
    else:
        out().print(text if isinstance(text, str) else text())


@contextmanager
def progress(description: str, total: float) -> Iterator[Callable[[float], None]]:
    """Show a progress bar on standard error while the block runs, if that is a terminal.

    The block calls the yielded function with the amount done since its last call.
    """
    if not is_terminal(sys.stderr):
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(None),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=err(),
        transient=True,
    )
    with bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.advance(task, done)
