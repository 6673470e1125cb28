"""The commands `wald experiments …`, over HTTP."""

import json
import re
from typing import IO, Any, Final, Literal, NamedTuple

import msgspec
import rich_click as click

from app.cli.calls import ask
from app.cli.client import Refused, WaldClient, path_of, read
from app.cli.command_line import BadInput, Group
from app.cli.options import json_option
from app.cli.terminal import answer, emit_json, out
from app.cli.traffic import key_option, read_key_option, url_option
from app.core.errors import FieldError, Problem
from app.core.limits import BODY_BYTES_MAX, PAGE_SIZE_MAX

STATES: Final = ("draft", "running", "paused", "stopped", "archived")
_KEY = key_option("the scope admin")
_STEP: Final = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_OF_LIFE: Final = (
    "state", "started_at", "paused_at", "stopped_at", "archived_at", "winner", "killed", "held", "epoch",
    "revision", "created_at", "updated_at",
)  # fmt: skip
"""Fields of an experiment that are not of its definition."""


class Input(NamedTuple):
    """A definition as it was given: from where, its text, and its value."""

    name: str
    body: bytes
    value: dict[str, Any]


@click.group("experiments", cls=Group)
def experiments_group() -> None:
    """Create, list, start and stop experiments.

    `wald status EXPERIMENT` shows how one is doing.
    """


@experiments_group.command("create")
@url_option
@_KEY
@click.argument("file", type=click.File("rb"))
@json_option
def create(url: str, key: str, file: IO[bytes], *, as_json: bool) -> None:
    """Create a draft from a definition in FILE, which is JSON; `-` reads standard input.

        wald experiments create summary-prompt.json

        {"key": "summary-prompt", "variants": [{"key": "control", "control": true}, {"key": "short"}]}

    Exit status 2 if the definition is wrong; every field that is wrong is named, on a line of its own.
    """
    given = _definition(file)

    async def call(client: WaldClient) -> bytes:
        try:
            return await client.raw("POST", "/experiments", given.body)
        except Refused as refusal:
            if refusal.status not in {400, 413, 422}:
                raise
            raise BadInput(_explained(given, refusal.problem)) from None

    made = ask(url, key, call)
    if as_json:
        emit_json(made)
        return
    name = read(made, dict[str, Any])["key"]
    out().print(f"{name} is a draft. Start it: wald experiments start {name}")


def _definition(file: IO[bytes]) -> Input:
    """Read a JSON object. Raises BadInput naming line and column."""
    name = str(getattr(file, "name", "<stdin>"))
    name = "standard input" if name == "<stdin>" else name
    body = file.read(BODY_BYTES_MAX + 1)
    if len(body) > BODY_BYTES_MAX:
        raise BadInput(f"{name}: a definition may have at most {BODY_BYTES_MAX:,} bytes")
    try:
        value = json.loads(body.decode())
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}: byte {error.start + 1} is not valid UTF-8") from error
    except json.JSONDecodeError as error:
        reason = f"{error.msg[:1].lower()}{error.msg[1:]}"
        raise BadInput(f"{name}: line {error.lineno}, column {error.colno}: {reason}") from error
    except RecursionError as error:
        raise BadInput(f"{name}: is nested too deeply") from error
    if not isinstance(value, dict):
        raise BadInput(f"{name}: must be one JSON object, got {_kind(value)}")
    return Input(name, body, value)


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _explained(given: Input, problem: Problem) -> str:
    """What is wrong with a definition: a line for each field, with the value that it has."""
    if not problem.errors:
        return f"{given.name}: {problem.detail or problem.title}"
    return "\n".join(f"{given.name}: {_line(given.value, error)}" for error in problem.errors)


def _line(value: object, error: FieldError) -> str:
    found = _at(value, error.field)
    text = "" if found is None else msgspec.json.encode(found).decode()
    got = "" if not text or text.strip('"') in error.reason or "got" in error.reason else f"; got {text[:80]}"
    reason = error.reason.removeprefix(f"{error.field}: ")
    return f"{error.field}: {reason}{got}"


def _at(value: object, path: str) -> object:
    """The value at a path such as `variants[1].key`, or None where there is none."""
    for number, name in _STEP.findall(path):
        if isinstance(value, list) and number and int(number) < len(value):
            value = value[int(number)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return None
    return value


@experiments_group.command("list")
@url_option
@read_key_option
@click.option("--state", type=click.Choice(STATES), help="Only those in this state; archived ones only so.")
@json_option
def list_experiments(url: str, key: str, state: str | None, *, as_json: bool) -> None:
    """List experiments in the order of their keys; archived ones with `--state archived`."""

    async def call(client: WaldClient) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        params = {"limit": str(PAGE_SIZE_MAX)} | ({} if state is None else {"state": state})
        while True:
            page = await client.call("GET", "/experiments", dict[str, Any], params=params)
            found += page["experiments"]
            if page["next"] is None:
                return found
            params["after"] = page["next"]

    found = ask(url, key, call)
    if as_json:
        emit_json({"experiments": found})
        return
    from app.cli.experiments_display import listed  # noqa: PLC0415 - tables are not needed for JSON

    out().print(listed(found))


@experiments_group.command("show")
@url_option
@read_key_option
@click.argument("experiment")
@json_option
def show(url: str, key: str, experiment: str, *, as_json: bool) -> None:
    """Print the definition of EXPERIMENT as JSON, as `wald experiments create` takes it.

    With `--json`, the whole answer of the server: also the state and its times.
    """
    found = ask(url, key, lambda client: client.raw("GET", path_of("experiments", experiment)))
    if as_json:
        emit_json(found)
        return
    definition = read(found, dict[str, msgspec.Raw])
    emit_json({name: value for name, value in definition.items() if name not in _OF_LIFE})


def _action(name: Literal["start", "pause", "resume", "archive"], done: str, explained: str) -> None:
    @experiments_group.command(name, help=explained)
    @url_option
    @_KEY
    @click.argument("experiment")
    @json_option
    def act(url: str, key: str, experiment: str, *, as_json: bool) -> None:
        path = path_of("experiments", experiment, name)
        found = ask(url, key, lambda client: client.raw("POST", path))
        answer(f"{experiment} {done}", found, as_json=as_json)


_action("start", "is running.", "Begin to assign and learn. EXPERIMENT is a draft.")
_action("pause", "is paused: it answers the control.", "Answer the control for a while, and go on learning.")
_action("resume", "is running again.", "Assign again after a pause.")


@experiments_group.command("stop")
@url_option
@_KEY
@click.argument("experiment")
@click.option("--winner", metavar="VARIANT", help="The variant to serve from now on.  [default: the control]")
@json_option
def stop(url: str, key: str, experiment: str, winner: str | None, *, as_json: bool) -> None:
    """End EXPERIMENT for good, and serve the winner or the control."""
    path = path_of("experiments", experiment, "stop")
    body = None if winner is None else {"winner": winner}
    found = ask(url, key, lambda client: client.raw("POST", path, body))
    served = "the control" if winner is None else winner
    answer(f"{experiment} is stopped: it answers {served}.", found, as_json=as_json)


_action("archive", "is archived.", "Put EXPERIMENT out of sight; its log is kept. It is a draft or stopped.")
