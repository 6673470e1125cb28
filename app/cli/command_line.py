"""The frame of a command with sub-commands: loads them late, reports mistakes in one style.

Errors go to standard error as `Error: …`, without a traceback. Exit statuses:

0    it worked
1    the answer is no, or the server, an engine or a file did not do what was asked
2    the command makes no sense, or what was given to it
130  interrupted by Ctrl-C
141  the reader of the output has left
"""

import errno
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import rich_click as click

from app.cli import terminal
from app.core.choices import nearest, refusal

INTERRUPTED: Final = 130
FAILED: Final = 1
MISUSED: Final = 2
_AT_FAULT: Final = frozenset({errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.EPERM})
_NO_CHOICE: Final = re.compile(r"(?P<given>'.*') is not (one of )?'", re.DOTALL)
_ENGINES: Final = {"redis": "Valkey", "psycopg": "PostgreSQL", "sqlalchemy": "PostgreSQL"}


class BadInput(click.ClickException):
    """What was given to the command is wrong, and not how it was called. Exit status 2."""

    exit_code = MISUSED


class Deferred(click.RichCommand):
    """A command whose module is loaded when the command is called."""

    def __init__(self, name: str, module: str, summary: str) -> None:
        super().__init__(name=name, help=summary)
        self._module = module

    @property
    def command(self) -> click.Command:
        """The command itself: `wald NAME` is `NAME_command` in its module."""
        command: click.Command = getattr(import_module(f"app.cli.{self._module}"), f"{self.name}_command")
        return command

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> Any:
        """Go on with the command itself."""
        return self.command.make_context(info_name, args, parent, **extra)


class Group(click.RichGroup):
    """A command with sub-commands, which suggests the nearest one for a name that it does not know."""

    def __init__(
        self,
        *,
        deferred: Mapping[str, tuple[str, str]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for name, (module, summary) in (deferred or {}).items():
            self.add_command(Deferred(name, module, summary))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - as rich_click has it
        **extra: Any,
    ) -> Any:
        """Run the command line and end the process with an exit status."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            status = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            report(error)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo("Interrupted.", err=True)
            sys.exit(INTERRUPTED)
        sys.exit(status if isinstance(status, int) else 0)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the sub-command. Raises UsageError with the nearest name if there is none."""
        if not ctx.resilient_parsing and args[0][:1] != "-" and self.get_command(ctx, args[0]) is None:
            near = _did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"No such command {args[0]!r}.{near}", ctx)
        return super().resolve_command(ctx, args)

    def format_help(  # type: ignore[override] # as rich_click has it
        self, ctx: click.RichContext, formatter: click.RichHelpFormatter
    ) -> None:
        """Write the help; its text has no Markdown, whose reader takes longer to load than all the rest."""
        formatter.config.text_markup = None
        super().format_help(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command, and put into words what went wrong outside of it."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            terminal.leave_broken_pipe()
        except OSError as error:
            if error.filename is None:
                raise
            raise unusable(error) from error
        except Exception as error:
            if (engine := _ENGINES.get(type(error).__module__.partition(".")[0])) is None:
                raise
            raise engine_failed(engine, error) from error


def unusable(error: OSError) -> click.ClickException:
    """Say what is wrong with a file. A wrong path is bad input; a full disk is not."""
    message = f"{os.fspath(error.filename)}: {error.strerror or error}"
    return BadInput(message) if error.errno in _AT_FAULT else click.ClickException(message)


def engine_failed(engine: str, error: Exception) -> click.ClickException:
    """Say that an engine did not do what was asked."""
    reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    fix = "run `wald migrate`" if "does not exist" in reason else "run `wald doctor` to see what is wrong"
    return click.ClickException(f"{engine}: {reason or type(error).__name__}; {fix}")


def report(error: click.ClickException) -> None:
    """Print an error to standard error, with the nearest name for a misspelled one."""
    first, *others = message_of(error).splitlines() or [""]
    click.echo("\n".join([f"Error: {first}", *others]), err=True)
    context = getattr(error, "ctx", None)
    if isinstance(error, click.UsageError) and context is not None and "did you mean" not in first.lower():
        click.echo(f"Try '{context.command_path} --help'.", err=True)


def message_of(error: click.ClickException) -> str:
    """The error in one style: the place, what is wrong, and how to put it right."""
    if isinstance(error, click.NoSuchOption):
        known = [name for one in error.ctx.command.params for name in one.opts] if error.ctx else []
        long = [name for name in [*known, "--help"] if name.startswith("--")]
        return f"No such option {error.option_name}.{_did_you_mean(error.option_name, long)}"
    if isinstance(error, click.MissingParameter):
        return _missing(error)
    if isinstance(error, click.BadParameter):
        place, message = _place(error), error.message
        choices = getattr(getattr(error.param, "type", None), "choices", None)
        if choices and (found := _NO_CHOICE.match(message)):
            message = refusal(found["given"], [str(choice) for choice in choices])
        return f"{place}: {message}" if place else message
    return error.format_message()


def _missing(error: click.MissingParameter) -> str:
    place, parameter = _place(error), error.param
    kind = "argument" if isinstance(parameter, click.Argument) else "option"
    message = f"Missing {kind} {place}"
    choices = getattr(parameter.type, "choices", None) if parameter is not None else None
    if choices:
        message += f": one of {', '.join(map(str, choices))}"
    variables = getattr(parameter, "envvar", None)
    if variables and kind == "option":
        names = [variables] if isinstance(variables, str) else list(variables)
        message += f", or the environment variable {names[0]}"
    return f"{message}."


def _place(error: click.BadParameter) -> str:
    if isinstance(error.param_hint, str):
        return error.param_hint.strip("'")
    if error.param is None:
        return ""
    if isinstance(error.param, click.Argument):
        return error.param.make_metavar(error.ctx) if error.ctx is not None else str(error.param.name).upper()
    return max(error.param.opts, key=len)


def _did_you_mean(given: str, known: Sequence[str]) -> str:
    near = nearest(given, known)
    return f" Did you mean {near}?" if near is not None else ""
