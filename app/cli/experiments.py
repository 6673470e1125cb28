"""The commands `wald experiments`, over HTTP."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final, Literal, NamedTuple

import msgspec
import rich_click as click

from app.cli import display
from app.cli.calls import Server, administers_server, reads_server
from app.cli.client import Refused, WaldClient, path_of, read
from app.cli.command_line import BadInput, Group
from app.cli.display.tables import Column, Table
from app.cli.options import json_option
from app.cli.terminal import emit_json, err, show
from app.core.errors import FieldError, Problem
from app.core.limits import BODY_BYTES_MAX, PAGE_SIZE_MAX

STATES: Final = ("draft", "running", "paused", "stopped", "archived")
_STEP: Final = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_NOT_DEFINED: Final = (
    "state", "started_at", "paused_at", "stopped_at", "archived_at", "winner", "killed", "held", "epoch",
    "revision", "created_at", "updated_at", "reward_in_words", "warnings",
)  # fmt: skip
"""Fields of an experiment that are not part of its definition."""


class Input(NamedTuple):
    """A definition that was read: the name of its source, its text, and its value."""

    name: str
    body: bytes
    value: dict[str, Any]


@click.group("experiments", cls=Group)
def experiments_command() -> None:
    """Create, list, start and stop experiments.

    `wald status EXPERIMENT` shows how an experiment is doing.
    """


@experiments_command.command("create")
@administers_server
@click.argument("file", type=click.File("rb"))
@json_option
def create(*, server: Server, file: IO[bytes], as_json: bool) -> None:
    """Create a draft from the JSON definition in FILE; `-` reads standard input.

        wald experiments create summary-prompt.json

        {"key": "summary-prompt", "variants": [{"key": "control", "control": true}, {"key": "short"}]}

    If the definition is wrong, the exit status is 2, and each wrong field has its own line.
    """
    draft = _send(server, "POST", "/experiments", _definition(file))
    key = _warned(draft)["key"]
    show(draft, f"{key} is a draft. Start it: wald experiments start {key}", as_json=as_json)


def _send(server: Server, method: str, path: str, given: Input, body: Any = None) -> bytes:
    """Send a definition, or `body` instead. Raises BadInput with a line for each wrong field."""

    async def call(client: WaldClient) -> bytes:
        try:
            return await client.raw(method, path, given.body if body is None else body)
        except Refused as refusal:
            if refusal.status not in {400, 413, 422}:
                raise
            raise BadInput(_explained(given, refusal.problem)) from None

    return server.ask(call)


def _warned(answer: bytes) -> dict[str, Any]:
    """Print the warnings about an experiment. Return the experiment."""
    view = read(answer, dict[str, Any])
    for warning in view.get("warnings", ()):
        err().print(f"warning: {warning}", style="yellow", markup=False)
    return view


@experiments_command.command("change")
@administers_server
@click.argument("experiment")
@click.argument("file", type=click.File("rb"))
@click.option("--reason", default="", help="Why it changes; the history of the metrics keeps it.")
@click.option(
    "--reopen-plan",
    is_flag=True,
    help="Make changed metrics part of the plan. Needs --reason.  [default: they are exploratory]",
)
@json_option
def change(
    *, server: Server, experiment: str, file: IO[bytes], reason: str, reopen_plan: bool, as_json: bool
) -> None:
    """Replace fields of EXPERIMENT by those of the JSON object in FILE; `-` reads standard input.

        wald experiments show summary-prompt > definition.json
        wald experiments change summary-prompt definition.json --reason "add cost"

    Fields that are equal or left out stay. Changed metrics are measured from the log in the
    background: `wald experiments metrics EXPERIMENT` shows how far it is.
    """
    given = _definition(file)
    body = given.value | {"reason": reason, "reopen_plan": reopen_plan}
    answer = _send(server, "PATCH", path_of("experiments", experiment), given, body)
    view = _warned(answer)
    text = f"{experiment} has revision {view['revision']}. Metrics: wald experiments metrics {experiment}"
    show(answer, text, as_json=as_json)


@experiments_command.command("metrics", epilog="Example: wald experiments metrics summary-prompt")
@reads_server
@click.argument("experiment")
@json_option
def metrics(*, server: Server, experiment: str, as_json: bool) -> None:
    """Show the metrics of EXPERIMENT, who changed them and why, and the progress of a backfill.

    A metric that was added or corrected after the start is *exploratory*: it is not part of the
    plan. `wald experiments change` with `--reopen-plan` makes it part of the plan.
    """
    answer = server.get("experiments", experiment, "metrics")
    show(answer, lambda: display.metrics.history_report(answer), as_json=as_json)


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
    """Return a line for each wrong field of a definition, with the value that was given."""
    if not problem.errors:
        return f"{given.name}: {problem.detail or problem.title}"
    return "\n".join(f"{given.name}: {_line(given.value, error)}" for error in problem.errors)


def _line(value: object, error: FieldError) -> str:
    given = _at(value, error.field)
    text = "" if given is None else msgspec.json.encode(given).decode()
    got = "" if not text or text.strip('"') in error.reason or "got" in error.reason else f"; got {text[:80]}"
    reason = error.reason.removeprefix(f"{error.field}: ")
    return f"{error.field}: {reason}{got}"


def _at(value: object, path: str) -> object:
    """Return the value at a path such as `variants[1].key`, or None if there is none."""
    for number, name in _STEP.findall(path):
        if isinstance(value, list) and number and int(number) < len(value):
            value = value[int(number)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return None
    return value


@experiments_command.command("list", epilog="Example: wald experiments list --state running")
@reads_server
@click.option("--state", type=click.Choice(STATES), help="List only experiments in this state.")
@json_option
def list_experiments(*, server: Server, state: str | None, as_json: bool) -> None:
    """List experiments in the order of their keys. Archived ones only with `--state archived`."""

    async def call(client: WaldClient) -> list[dict[str, Any]]:
        experiments: list[dict[str, Any]] = []
        params = {"limit": str(PAGE_SIZE_MAX)} | ({} if state is None else {"state": state})
        while True:
            page = await client.call("GET", "/experiments", dict[str, Any], params=params)
            experiments += page["experiments"]
            if page["next"] is None:
                return experiments
            params["after"] = page["next"]

    experiments = server.ask(call)
    show({"experiments": experiments}, lambda: experiments_table(experiments), as_json=as_json)


def experiments_table(experiments: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of experiments in the form of `GET /experiments`."""
    table = Table(
        Column("experiment", "name"),
        Column("state", "text"),
        Column("policy", "text"),
        Column("variants"),
        Column("epoch"),
        Column("started (UTC)"),
        Column("description", "text"),
    )
    for experiment in experiments:
        table.add(
            experiment["key"],
            experiment["state"] + (", killed" if experiment.get("killed") else ""),
            experiment["policy"]["kind"],
            str(len(experiment["variants"])),
            str(experiment["epoch"]),
            (experiment.get("started_at") or "")[:16].replace("T", " "),
            experiment.get("description", ""),
        )
    return table


@experiments_command.command("show", epilog="Example: wald experiments show summary-prompt > definition.json")
@reads_server
@click.argument("experiment")
@json_option
def show_experiment(*, server: Server, experiment: str, as_json: bool) -> None:
    """Print the definition of EXPERIMENT as JSON, in the form that `wald experiments create` reads.

    With `--json`, print the whole answer of the server, which also has the state and its times.
    """
    answer = server.get("experiments", experiment)
    if as_json:
        emit_json(answer)
        return
    fields = read(answer, dict[str, msgspec.Raw])
    emit_json({name: value for name, value in fields.items() if name not in _NOT_DEFINED})


def _add_action(name: Literal["start", "pause", "resume", "archive"], result: str, summary: str) -> None:
    """Add a command that changes the state of an experiment."""

    @experiments_command.command(
        name, help=summary, epilog=f"Example: wald experiments {name} summary-prompt"
    )
    @administers_server
    @click.argument("experiment")
    @json_option
    def act(*, server: Server, experiment: str, as_json: bool) -> None:
        show(server.post("experiments", experiment, name), f"{experiment} {result}", as_json=as_json)


_add_action("start", "is running.", "Start to assign and to learn. EXPERIMENT must be a draft.")
_add_action(
    "pause", "is paused: it serves the control.", "Serve the control for a while, and go on learning."
)
_add_action("resume", "is running again.", "Assign variants again after a pause.")


@experiments_command.command("stop", epilog="Example: wald experiments stop summary-prompt --winner short")
@administers_server
@click.argument("experiment")
@click.option("--winner", metavar="VARIANT", help="The variant to serve from now on.  [default: the control]")
@json_option
def stop(*, server: Server, experiment: str, winner: str | None, as_json: bool) -> None:
    """End EXPERIMENT for good, and serve the winner or the control."""
    body = None if winner is None else {"winner": winner}
    answer = server.post("experiments", experiment, "stop", body=body)
    show(answer, f"{experiment} is stopped: it serves {winner or 'the control'}.", as_json=as_json)


_add_action("archive", "is archived.", "Hide EXPERIMENT, and keep its log. It must be a draft or stopped.")
