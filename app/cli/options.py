"""Options that several commands share, and values that options read from text. Loads nothing heavy."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import rich_click as click

P = ParamSpec("P")
T = TypeVar("T")


class Parsed(click.ParamType[T]):
    """A value that `parse` reads from text. The help and errors show its `form`, errors also an `example`."""

    def __init__(self, form: str, example: str, parse: Callable[[str], T]) -> None:
        self.name = form
        self._example = example
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Return the parsed value. Raises BadParameter that names the form and an example."""
        if not isinstance(value, str):
            parsed: T = value
            return parsed
        try:
            return self._parse(value)
        except ValueError:
            self.fail(f"must be {self.name}, as in {self._example}; got {value!r}", param, ctx)


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a list separated by commas. Raises ValueError."""
    return tuple(float(part) for part in text.split(","))


def _scale(text: str) -> tuple[float, float]:
    low, high = (float(part) for part in text.split(":"))
    if not low < high:
        raise click.BadParameter(f"LOW must be below HIGH; got {text}")
    return low, high


def _condition(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not (column and equals):
        raise ValueError
    return column, value


def _json(text: str) -> Any:
    try:
        return json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"is not valid JSON: {error}") from None


def _name_or_json(text: str) -> str | dict[str, Any]:
    return _json(text) if text.lstrip().startswith(("{", "@")) else text


def _moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if text[10:11] not in {"", "T", " "}:
        raise ValueError
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


SCALE = Parsed("LOW:HIGH", "1:10", _scale)
JSON = Parsed("JSON|@FILE", '[{"type": "numeric", "name": "length"}]', _json)
NAME_OR_JSON = Parsed("NAME|JSON|@FILE", "thompson", _name_or_json)
MOMENT = Parsed("TIME", "2026-01-31 or 2026-01-31T08:00+02:00", _moment)
HTML_FILE = click.Path(dir_okay=False, path_type=Path)
CSV_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
"""The flag of every command whose result a program may want to read."""

decimal_option = click.option(
    "--decimal",
    type=click.Choice(["auto", "point", "comma"]),
    default="auto",
    show_default=True,
    help="The decimal separator of the file.",
)
where_option = click.option(
    "--where",
    type=Parsed("COL=VALUE", "judge=gpt-4o", _condition),
    multiple=True,
    help="Read only rows with this value. Repeatable.",
)
alpha_option = click.option(
    "--alpha",
    type=click.FloatRange(1e-6, 0.5),
    default=0.05,
    show_default=True,
    help="Error level: intervals have the level 1 - alpha.",
)
since_option = click.option(
    "--since", type=MOMENT, help="Include assignments from this time on. UTC unless it has an offset."
)
until_option = click.option("--until", type=MOMENT, help="Include assignments before this time.")


def engine_options(command: Callable[P, T]) -> Callable[P, T]:
    """Add the options that say where the engines are."""
    options = (
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help="Folder of the embedded engines.  [env: WALD_DATA_DIR; default: .wald]",
        ),
        click.option(
            "--valkey-url",
            help="URL of your own Valkey or Redis 7+ instead of the embedded one.  [env: WALD_VALKEY_URL]",
        ),
        click.option(
            "--database-url",
            help="URL of your own PostgreSQL 15+ instead of the embedded one.  [env: WALD_DATABASE_URL]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
