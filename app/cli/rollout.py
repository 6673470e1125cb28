"""The commands `wald rollout`, `wald explain`, `wald kill` and `wald revive`, over HTTP."""

import sys
from typing import IO, Any, Final

import msgspec
import rich_click as click

from app.cli import display
from app.cli.calls import Server, administers_server, server_options
from app.cli.client import WaldClient, path_of, read
from app.cli.command_line import Group
from app.cli.options import Parsed, json_option
from app.cli.terminal import show
from app.cli.watching import watch as watch_answers

REFRESH_S: Final = 1.0
ROLLED_BACK, NOT_YET, UNKNOWN = 1, 3, 4
"""Exit statuses, in addition to 0, and 2 for a wrong command."""

_server_options = server_options("the scope read, and admin to change anything")
_reason_option = click.option("--reason", default="", help="The reason. It is stored with the decision.")


def _stage(text: str) -> dict[str, float]:
    share, colon, seconds = text.partition(":")
    return {"share": float(share)} | ({"duration_s": float(seconds)} if colon else {})


@click.group("rollout", cls=Group)
def rollout_command() -> None:
    """Ramp up a canary in stages; proven harm rolls it back.

    Each stage gives the canary a share of the traffic beside a concurrent control. A rollout advances when
    every guardrail is proven safe, and rolls back when a guardrail is proven harmed. Both proofs are valid
    at every look.
    """


@rollout_command.command("create")
@_server_options
@click.argument("experiment")
@click.option("--canary", "canaries", multiple=True, help="A variant to ramp up. Repeatable.")
@click.option(
    "--guardrail",
    "guardrails",
    multiple=True,
    help="A guardrail metric of the experiment, or a preset among its metrics. Repeatable.",
)
@click.option(
    "--stage",
    "stages",
    type=Parsed("SHARE[:SECONDS]", "0.05:3600", _stage),
    multiple=True,
    help="A stage: its share and shortest duration. Repeatable.  [default: 0.01:86400, 0.05, 0.25, 1]",
)
@click.option(
    "--plan",
    type=click.File("rb"),
    help="A JSON file with fields of POST /rollouts; - reads standard input. Options replace its fields. "
    "Use it for what has no option: a primary metric, limits, windows, approval.",
)
@click.option("--draft", is_flag=True, help="Create a draft, which `wald rollout start` starts.")
@click.option(
    "--after",
    type=int,
    default=None,
    help="The last rollout of the same canary. It must have ended; name it to roll out the canary again.",
)
@_reason_option
@json_option
def create(
    *,
    server: Server,
    experiment: str,
    canaries: tuple[str, ...],
    guardrails: tuple[str, ...],
    stages: tuple[dict[str, float], ...],
    plan: IO[bytes] | None,
    reason: str,
    after: int | None,
    draft: bool,
    as_json: bool,
) -> None:
    """Start a rollout of a running EXPERIMENT.

        wald rollout create summary-prompt --canary short --guardrail error_rate --stage 0.05:600 --stage 1

    This plan needs an approval before the last stage, and has a limit that rolls back at once:

        wald rollout create summary-prompt --plan plan.json

        {"canaries": ["short"], "guardrails": ["error_rate"],
         "limits": [{"metric": "error_rate", "beyond": 0.5}],
         "stages": [{"share": 0.05, "duration_s": 600}, {"share": 0.25, "approval": true}, {"share": 1}]}
    """
    options = {
        "canaries": canaries,
        "guardrails": guardrails,
        "stages": stages,
        "reason": reason,
        "after": after,
    }
    given = {name: value for name, value in options.items() if value}
    body = _planned(plan) | {"experiment": experiment} | given
    for name, option in (("canaries", "--canary"), ("guardrails", "--guardrail")):
        if name not in body:
            raise click.UsageError(f"{option} is missing; give it, or a --plan that names {name}")
    if draft:
        body["start"] = False
    answer = server.post("rollouts", body=body)
    show(answer, lambda: display.rollout.created(answer), as_json=as_json)


def _planned(plan: IO[bytes] | None) -> dict[str, Any]:
    """Return the fields of a plan file. The server checks their meaning."""
    if plan is None:
        return {}
    try:
        return msgspec.json.decode(plan.read(), type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError) as error:
        raise click.BadParameter(f"is not a JSON object: {error}", param_hint="--plan") from error


@rollout_command.command("list", epilog="Example: wald rollout list --experiment summary-prompt")
@_server_options
@click.option("--experiment", default=None, help="List only rollouts of this experiment.")
@json_option
def list_rollouts(*, server: Server, experiment: str | None, as_json: bool) -> None:
    """List rollouts, newest first."""
    params = {} if experiment is None else {"experiment": experiment}
    answer = server.get("rollouts", params=params)
    show(answer, lambda: display.rollout.listed(answer), as_json=as_json)


@rollout_command.command("show", epilog="Example: wald rollout show 3")
@_server_options
@click.argument("rollout_id", type=int)
@json_option
def show_rollout(*, server: Server, rollout_id: int, as_json: bool) -> None:
    """Show a rollout and its guardrails as of the last look."""
    answer = server.get("rollouts", str(rollout_id))
    show(answer, lambda: display.rollout.report(answer), as_json=as_json)


@rollout_command.command("watch")
@_server_options
@click.argument("rollout_id", type=int)
@json_option
def watch(*, server: Server, rollout_id: int, as_json: bool) -> None:
    """Watch a rollout until it ends. The exit status says how it ended.

        wald rollout watch 3

    0: it was completed. 1: it was rolled back. 3: you interrupted before it ended. 4: the server did not
    answer, or refused.

    In a pipe, it prints the rollout whenever it changes; with `--json`, one line for each change.
    """

    async def run(client: WaldClient) -> bytes:
        return await watch_answers(
            lambda: client.raw("GET", path_of("rollouts", str(rollout_id))),
            display.rollout.report,
            every_s=REFRESH_S,
            as_json=as_json,
            ended=lambda answer: display.rollout.ended(answer) is not None,
        )

    try:
        last = server.ask(run, failure=UNKNOWN)
    except KeyboardInterrupt:
        sys.exit(NOT_YET)
    if not display.rollout.ended(last):
        sys.exit(ROLLED_BACK)


def _add_action(name: str, summary: str) -> None:
    """Add a command that changes the state of a rollout."""

    @rollout_command.command(name, help=summary, epilog=f'Example: wald rollout {name} 3 --reason "checked"')
    @_server_options
    @click.argument("rollout_id", type=int)
    @_reason_option
    @json_option
    def act(*, server: Server, rollout_id: int, reason: str, as_json: bool) -> None:
        answer = server.ask(lambda client: _act(client, rollout_id, name, reason))
        show(answer, lambda: display.rollout.stage(answer), as_json=as_json)


async def _act(client: WaldClient, rollout_id: int, action: str, reason: str) -> bytes:
    """Act on the present stage by its number, so that a repeated call does not skip another stage."""
    path = f"/rollouts/{rollout_id}"
    state = read(await client.raw("GET", path), dict[str, Any]).get("state", {})
    stage = state.get("running", state).get("stage") if state.get("kind") in {"running", "paused"} else None
    body = {"reason": reason} | ({} if stage is None else {"stage": stage})
    return await client.raw("POST", f"{path}/{action}", body)


_add_action("start", "Start a rollout that is a draft.")
_add_action("advance", "Advance to the next stage without waiting for evidence. Needs a reason.")
_add_action("pause", "Stay in the present stage. Proven harm still rolls back.")
_add_action("resume", "Go on after a pause.")
_add_action("approve", "Allow the rollout to leave a stage that needs an approval.")
_add_action("rollback", "Set the share of the canary to 0 % at once. Needs a reason.")


@rollout_command.command("gate")
@_server_options
@click.argument("rollout_id", type=int)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="The share of the traffic that the canaries must have. 1: the rollout must be completed.",
)
@json_option
def gate(*, server: Server, rollout_id: int, share: float, as_json: bool) -> None:
    """Ask whether a rollout may go on, for CI. The exit status is the answer.

        wald rollout gate 3 --share 0.25

    0: it is completed, or the canaries have the share. 1: it was rolled back. 3: neither yet. 4: unknown,
    because the server did not answer, or refused.
    """
    answer = server.get("rollouts", str(rollout_id), "gate", params={"share": str(share)}, failure=UNKNOWN)
    gate = read(answer, dict[str, Any])
    show(answer, f"{gate['state']}: {gate['reason']}", as_json=as_json)
    if not gate["proceed"]:
        sys.exit(ROLLED_BACK if gate["roll_back"] else NOT_YET)


@click.command("explain", epilog="Example: wald explain 3/2")
@_server_options
@click.argument("decision", metavar="ROLLOUT/NUMBER")
@json_option
def explain_command(*, server: Server, decision: str, as_json: bool) -> None:
    """Show the evidence of a rollout decision, and compute the decision again.

    The exit status is 1 if the stored inputs give another decision.
    """
    rollout_id, slash, number = decision.partition("/")
    if not (slash and rollout_id.isdecimal() and number.isdecimal()):
        raise click.UsageError(f"the decision must be ROLLOUT/NUMBER, as in 3/2; got {decision!r}")
    answer = server.get("rollouts", rollout_id, "decisions", number)
    show(answer, lambda: display.rollout.explained(answer), as_json=as_json)
    if read(answer, dict[str, Any])["differs"]:
        sys.exit(1)


@click.command("kill", epilog='Example: wald kill summary-prompt --reason "wrong answers"')
@administers_server
@click.argument("experiment")
@click.option("--reason", required=True, help="The reason. It is stored.")
@json_option
def kill_command(*, server: Server, experiment: str, reason: str, as_json: bool) -> None:
    """Serve the control of EXPERIMENT everywhere within a second. Its state does not matter."""
    _switch(server, experiment, "kill", reason, as_json=as_json)


@click.command("revive", epilog='Example: wald revive summary-prompt --reason "prompt fixed"')
@administers_server
@click.argument("experiment")
@click.option("--reason", required=True, help="The reason. It is stored.")
@json_option
def revive_command(*, server: Server, experiment: str, reason: str, as_json: bool) -> None:
    """End a kill: serve EXPERIMENT as defined again."""
    _switch(server, experiment, "revive", reason, as_json=as_json)


def _switch(server: Server, experiment: str, action: str, reason: str, *, as_json: bool) -> None:
    answer = server.post("experiments", experiment, action, body={"reason": reason})
    switched = read(answer, dict[str, Any])
    serves = "serves the control" if switched["killed"] else "serves as defined again"
    text = f"{experiment} {serves} everywhere within a second."
    if switched.get("servers", "all") != "all":
        text = (
            f"{experiment} {serves} on the server that answered. Valkey and PostgreSQL are away: the other "
            "servers follow as soon as one of them is back."
        )
    if not switched["recorded"]:
        text += "\nPostgreSQL is away: the change is recorded as soon as it is back."
    show(answer, text, as_json=as_json)
