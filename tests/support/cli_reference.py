"""The page `docs/reference/cli.md`, from the commands: `python -m tests.support.cli_reference` writes it."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import rich_click as click

from app.cli.command_line import Deferred
from app.cli.main import main

PAGE = Path(__file__).parents[2] / "docs/reference/cli.md"

HEAD = """# Command line

`wald COMMAND --help` says the same as this page, which is generated from it:
`.venv/bin/python -m tests.support.cli_reference` writes it again after a change.

## Server and key

Commands that ask a server read where it is from `--url` or `WALD_URL` (by default `http://127.0.0.1:8000`), and the API key from
`--key`, `WALD_API_KEY`, `WALD_KEY` or `WALD_ADMIN_KEY`, in this order. `wald keys`, `webhooks`, `migrate`, `rebuild` and `doctor` work on
the engines themselves ([configuration](configuration.md)).

## Output

* **On a terminal**, output is as wide as the terminal. A table that is too wide folds: columns without room follow below, beside the
  names again. Numbers are never shortened, and pictures are left out first. Long names are folded, then shortened in the middle, but
  never so that two of them look equal. Control characters in names are written as escapes such as `\\x1b`.
* **In a pipe or a file**, a row is one line, however long; nothing is wrapped, shortened or coloured. `COLUMNS=100 wald … | cat` has it
  as on a terminal of that width.
* **`--json`** prints JSON instead: the answer of the API, if there is one, with its values unchanged.
* Progress and messages go to standard error, progress bars only if that is a terminal.
* Proportions are in percent, and their differences in percentage points (pp). Relative effects are in percent. All other values are in
  the metric's own unit.

## Errors and exit status

An error is one line on standard error that begins with `Error: `. If several fields are wrong, each has a line. A misspelled command,
option or value is answered with the nearest valid one.

| status | |
|---|---|
| 0 | it worked |
| 1 | the answer is no (`doctor` found a fault, a rollout was rolled back, a rebuild found a difference); or the server, an engine or a file did not do what was asked |
| 2 | the command makes no sense, or what was given to it: an unknown option or value, a missing file, a definition or request that the server cannot accept (400) |
| 3, 4 | of `wald rollout gate` and `watch` only: not decided yet; no answer or a refusal |
| 130 | interrupted by Ctrl-C (`wald status --watch` ends with 0) |
| 141 | the reader of the output has left, as in `wald … \\| head` |
"""  # noqa: E501 - lines of a page


def page() -> str:
    """The whole page."""
    context = click.Context(main, info_name="wald")
    return "\n".join([HEAD, *_sections(main, context)])


def _sections(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        command = command.command if isinstance(command, Deferred) else command
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        yield from _section(command, inner)
        if isinstance(command, click.Group):
            yield from _sections(command, inner)


def _section(command: click.Command, context: click.Context) -> Iterator[str]:
    level = "##" if context.command_path.count(" ") == 1 else "###"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"{level} `{context.command_path}`\n"
    yield f"`{context.command_path} {usage}`\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    if command.epilog:
        yield f"    {command.epilog.removeprefix('Example: ')}\n"
    rows = [row for parameter in command.params if (row := _row(parameter, context)) is not None]
    if rows:
        yield "| option | |\n|---|---|"
        yield "\n".join(rows) + "\n"


def _row(parameter: click.Parameter, context: click.Context) -> str | None:
    record = parameter.get_help_record(context)
    if record is None or "--help" in parameter.opts:
        return None
    option, text = (part.replace("|", "\\|").replace("\n", " ") for part in record)
    return f"| `{option}` | {text} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
