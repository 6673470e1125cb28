"""The commands `wald rollout …`, `wald explain`, `wald kill` and `wald revive`, over HTTP."""

import sys
from typing import IO, Any, Final

import msgspec
import rich_click as click

from app.cli.calls import ask
from app.cli.client import WaldClient, path_of, read
from app.cli.command_line import Group
from app.cli.options import json_option
from app.cli.terminal import emit_json, out
from app.cli.traffic import key_option, url_option

REFRESH_S: Final = 1.0
ROLLED_BACK, NOT_YET, UNKNOWN = 1, 3, 4
"""Exit statuses besides 0, and 2 for a command that makes no sense."""

_KEY = key_option("the scope read, and admin to change anything")
_REASON = click.option("--reason", default="", help="Why; it is kept with the decision.")


class StageOption(click.ParamType[dict[str, Any]]):
    """SHARE or SHARE:SECONDS."""

    name = "SHARE[:SECONDS]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Read `0.05` or `0.05:3600`."""
        if isinstance(value, dict):
            return value
        share, colon, seconds = str(value).partition(":")
        try:
            return {"share": float(share)} | ({"duration_s": float(seconds)} if colon else {})
        except ValueError:
            self.fail(f"must be SHARE or SHARE:SECONDS, as in 0.05:3600, got {value!r}", param, ctx)


@click.group("rollout", cls=Group)
def rollout_group() -> None:
    """Ramp a canary up stage by stage; harm that is proven takes it back.

    Each stage gives the canary a share of the traffic beside a concurrent control. It goes on when every
    guardrail is proven safe, and back when one is proven harmed, however often anybody looks.
    """


@rollout_group.command("create")
@url_option
@_KEY
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
    type=StageOption(),
    multiple=True,
    help="A stage: its share and shortest duration. Repeatable; without any 0.01:86400, 0.05, 0.25, 1.",
)
@click.option(
    "--plan",
    type=click.File("rb"),
    help="JSON with fields of POST /rollouts, of which options replace theirs; - reads standard input. "
    "For all that has no option: a primary metric, limits, windows, approval.",
)
@click.option("--draft", is_flag=True, help="Plan it; `wald rollout start` begins it.")
@click.option(
    "--after",
    type=int,
    default=None,
    help="The rollout of the same canary that has ended last, to roll it out once more on purpose.",
)
@_REASON
@json_option
def create(  # noqa: PLR0917 - as given
    url: str,
    key: str,
    experiment: str,
    canaries: tuple[str, ...],
    guardrails: tuple[str, ...],
    stages: tuple[dict[str, Any], ...],
    plan: IO[bytes] | None,
    reason: str,
    after: int | None,
    *,
    draft: bool,
    as_json: bool,
) -> None:
    """Begin a rollout of a running EXPERIMENT.

    wald rollout create summary-prompt --canary short --guardrail error_rate --stage 0.05:600 --stage 1

    With a person who agrees before the last stage, and a limit that trips at once:

    wald rollout create summary-prompt --plan plan.json

    {"canaries": ["short"], "guardrails": ["error_rate"], "limits": [{"metric": "error_rate", "beyond": 0.5}],
    "stages": [{"share": 0.05, "duration_s": 600}, {"share": 0.25, "approval": true}, {"share": 1}]}
    """
    given = {
        "canaries": canaries,
        "guardrails": guardrails,
        "stages": stages,
        "reason": reason,
        "after": after,
    }
    body = _planned(plan) | {"experiment": experiment} | {name: one for name, one in given.items() if one}
    for name, option in (("canaries", "--canary"), ("guardrails", "--guardrail")):
        if name not in body:
            raise click.UsageError(f"{option} is missing, or a --plan that names {name}")
    if draft:
        body["start"] = False
    answer = _called(url, key, "POST", "/rollouts", body)
    if as_json:
        emit_json(answer)
        return
    from app.cli.rollout_display import begun  # noqa: PLC0415 - loads numerical libraries

    out().print(begun(answer))


def _planned(plan: IO[bytes] | None) -> dict[str, Any]:
    """The fields of a file, whose meaning the server checks."""
    if plan is None:
        return {}
    try:
        return msgspec.json.decode(plan.read(), type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError) as error:
        raise click.BadParameter(f"it is no JSON object: {error}", param_hint="--plan") from error


@rollout_group.command("list")
@url_option
@_KEY
@click.option("--experiment", default=None, help="Of this experiment only.")
@json_option
def list_rollouts(url: str, key: str, experiment: str | None, *, as_json: bool) -> None:
    """List rollouts, newest first."""
    params = {} if experiment is None else {"experiment": experiment}
    answer = _called(url, key, "GET", "/rollouts", params=params)
    if as_json:
        emit_json(answer)
        return
    from app.cli.rollout_display import listed  # noqa: PLC0415 - loads numerical libraries

    out().print(listed(answer))


@rollout_group.command("show")
@url_option
@_KEY
@click.argument("rollout_id", type=int)
@json_option
def show(url: str, key: str, rollout_id: int, *, as_json: bool) -> None:
    """Show a rollout and what the last look came to."""
    answer = _called(url, key, "GET", f"/rollouts/{rollout_id}")
    if as_json:
        emit_json(answer)
        return
    from app.cli.rollout_display import report, rollout_of  # noqa: PLC0415 - loads numerical libraries

    out().print(report(rollout_of(answer)))


@rollout_group.command("watch")
@url_option
@_KEY
@click.argument("rollout_id", type=int)
@json_option
def watch(url: str, key: str, rollout_id: int, *, as_json: bool) -> None:
    """Watch a rollout until it ends, and say in the exit status how.

    0: it was completed. 1: it was rolled back. 3: it was interrupted before. 4: no answer, or a refusal.

    In a pipe it prints a rollout whenever it changes; with `--json` a line for each.
    """
    from app.cli.rollout_display import report, rollout_of  # noqa: PLC0415 - loads numerical libraries
    from app.cli.watching import watch as watching  # noqa: PLC0415
    from app.rollouts.model import Completed, RolledBack  # noqa: PLC0415

    async def run(client: WaldClient) -> bytes:
        return await watching(
            lambda: client.raw("GET", f"/rollouts/{rollout_id}"),
            lambda answer: report(rollout_of(answer)),
            every_s=REFRESH_S,
            as_json=as_json,
            ended=lambda answer: isinstance(rollout_of(answer).state, RolledBack | Completed),
        )

    try:
        ended = ask(url, key, run, failure=UNKNOWN)
    except KeyboardInterrupt:
        sys.exit(NOT_YET)
    if isinstance(rollout_of(ended).state, RolledBack):
        sys.exit(ROLLED_BACK)


def _action(name: str, explained: str) -> None:
    @rollout_group.command(name, help=explained)
    @url_option
    @_KEY
    @click.argument("rollout_id", type=int)
    @_REASON
    @json_option
    def act(url: str, key: str, rollout_id: int, reason: str, *, as_json: bool) -> None:
        answer = ask(url, key, lambda client: _act(client, rollout_id, name, reason))
        if as_json:
            emit_json(answer)
            return
        from app.cli.rollout_display import rollout_of, where  # noqa: PLC0415 - loads numerical libraries

        out().print(f"Rollout {rollout_id}: {where(rollout_of(answer))}")


async def _act(client: WaldClient, rollout_id: int, action: str, reason: str) -> bytes:
    """Do it to the stage in which it is now: repeated after a lost answer, it does not skip two."""
    path = f"/rollouts/{rollout_id}"
    state = read(await client.raw("GET", path), dict[str, Any]).get("state", {})
    stage = state.get("running", state).get("stage") if state.get("kind") in {"running", "paused"} else None
    body = {"reason": reason} | ({} if stage is None else {"stage": stage})
    return await client.raw("POST", f"{path}/{action}", body)


_action("start", "Begin a rollout that was planned as a draft.")
_action("advance", "Skip to the next stage without waiting for evidence; needs a reason.")
_action("pause", "Stay in the stage. Proven harm still rolls it back.")
_action("resume", "Go on after a pause.")
_action("approve", "Agree to leave a stage that asks for it.")
_action("rollback", "Take the canary back to 0 % at once; needs a reason.")


@rollout_group.command("gate")
@url_option
@_KEY
@click.argument("rollout_id", type=int)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Enough that the canaries have this share of the traffic; 1: that it is completed.",
)
@json_option
def gate(url: str, key: str, rollout_id: int, share: float, *, as_json: bool) -> None:
    """Ask whether a rollout may go on, for CI: the answer is the exit status.

    0: it is completed, or has the share. 1: it was rolled back. 3: neither yet. 4: nobody knows, as there
    was no answer, or a refusal.
    """
    path, asked = f"/rollouts/{rollout_id}/gate", {"share": str(share)}
    answer = ask(url, key, lambda client: client.raw("GET", path, params=asked), failure=UNKNOWN)
    found = read(answer, dict[str, Any])
    if as_json:
        emit_json(answer)
    else:
        out().print(f"{found['state']}: {found['reason']}")
    if not found["proceed"]:
        sys.exit(ROLLED_BACK if found["roll_back"] else NOT_YET)


@click.command("explain")
@url_option
@_KEY
@click.argument("decision", metavar="ROLLOUT/NUMBER")
@json_option
def explain_command(url: str, key: str, decision: str, *, as_json: bool) -> None:
    """Compute a decision of a rollout again from its stored inputs, and show its evidence.

    wald explain 3/2
    """
    rollout_id, slash, number = decision.partition("/")
    if not (slash and rollout_id.isdecimal() and number.isdecimal()):
        raise click.UsageError("must be ROLLOUT/NUMBER, as in 3/2")
    path = f"/rollouts/{rollout_id}/decisions/{number}"
    answer = _called(url, key, "GET", path)
    if as_json:
        emit_json(answer)
    else:
        from app.cli.rollout_display import explained  # noqa: PLC0415 - loads numerical libraries

        out().print(explained(answer))
    if read(answer, dict[str, Any])["differs"]:
        sys.exit(1)


@click.command("kill")
@url_option
@_KEY
@click.argument("experiment")
@click.option("--reason", required=True, help="Why; it is kept.")
@json_option
def kill_command(url: str, key: str, experiment: str, reason: str, *, as_json: bool) -> None:
    """Answer the control everywhere within a second, whatever EXPERIMENT says."""
    _switch(url, key, path_of("experiments", experiment, "kill"), reason, as_json=as_json)


@click.command("revive")
@url_option
@_KEY
@click.argument("experiment")
@click.option("--reason", required=True, help="Why; it is kept.")
@json_option
def revive_command(url: str, key: str, experiment: str, reason: str, *, as_json: bool) -> None:
    """End a kill: serve again as EXPERIMENT says."""
    _switch(url, key, path_of("experiments", experiment, "revive"), reason, as_json=as_json)


def _switch(url: str, key: str, path: str, reason: str, *, as_json: bool) -> None:
    answer = _called(url, key, "POST", path, {"reason": reason})
    if as_json:
        emit_json(answer)
        return
    done = read(answer, dict[str, Any])
    said = "answers the control" if done["killed"] else "serves again as it says"
    if done.get("servers", "all") == "all":
        out().print(f"{done['experiment']} {said} everywhere within a second.")
    else:
        out().print(
            f"{done['experiment']} {said} on the server that answered. Valkey and PostgreSQL are away: "
            "the other servers follow as soon as one of them is back."
        )
    if not done["recorded"]:
        out().print("PostgreSQL is away: it is recorded as soon as it is back.")


def _called(url: str, key: str, method: str, path: str, body: Any = None, **options: Any) -> bytes:
    """The JSON of the answer; else the reason is printed and the command ends."""
    return ask(url, key, lambda client: client.raw(method, path, body, **options))
