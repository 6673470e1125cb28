"""The commands `wald rollout …`, `wald explain`, `wald kill` and `wald revive`, over HTTP."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import IO, Any, Final, TypeVar

import msgspec
import rich_click as click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from app.allocation.kill_switch import Killed
from app.clients.client import ClientError, WaldClient
from app.clients.commands import key_option, url_option
from app.rollouts.gates import Gate
from app.rollouts.life import Rollout
from app.rollouts.model import Completed, Draft, Paused, RolledBack, Running
from app.rollouts.routes import DecisionView, RolloutPage

T = TypeVar("T")

REFRESH_S: Final = 1.0
FAILED, ROLLED_BACK, NOT_YET, UNKNOWN = 1, 1, 3, 4
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


@click.group("rollout")
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
    made = _call(url, key, lambda client: client.call("POST", "/rollouts", Rollout, body))
    is_draft = isinstance(made.state, Draft)
    done, then = ("is planned. Begin it", "start") if is_draft else ("has begun. Watch it", "watch")
    Console().print(f"Rollout {made.id} {done}: wald rollout {then} {made.id}")


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
def list_rollouts(url: str, key: str, experiment: str | None) -> None:
    """List rollouts, newest first."""
    params = {} if experiment is None else {"experiment": experiment}
    page = _call(url, key, lambda client: client.call("GET", "/rollouts", RolloutPage, params=params))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "experiment", "canaries", "state"):
        table.add_column(name)
    for one in page.rollouts:
        table.add_row(str(one.id), one.experiment, ", ".join(one.plan.canaries), where(one))
    Console().print(table)


@rollout_group.command("show")
@url_option
@_KEY
@click.argument("rollout_id", type=int)
def show(url: str, key: str, rollout_id: int) -> None:
    """Show a rollout and what the last look came to."""
    Console().print(report(_call(url, key, lambda client: _rollout(client, rollout_id))))


@rollout_group.command("watch")
@url_option
@_KEY
@click.argument("rollout_id", type=int)
def watch(url: str, key: str, rollout_id: int) -> None:
    """Watch a rollout until it ends, and say in the exit status how.

    0: it was completed. 1: it was rolled back. 3: it was interrupted before. 4: no answer, or a refusal.
    """

    async def run(client: WaldClient) -> Rollout:
        with Live(console=Console(), refresh_per_second=4) as live:
            while True:
                found = await _rollout(client, rollout_id)
                live.update(report(found))
                if isinstance(found.state, RolledBack | Completed):
                    return found
                await asyncio.sleep(REFRESH_S)

    try:
        ended = _call(url, key, run, failure=UNKNOWN)
    except KeyboardInterrupt:
        sys.exit(NOT_YET)
    if isinstance(ended.state, RolledBack):
        sys.exit(ROLLED_BACK)


def _action(name: str, explained: str) -> None:
    @rollout_group.command(name, help=explained)
    @url_option
    @_KEY
    @click.argument("rollout_id", type=int)
    @_REASON
    def act(url: str, key: str, rollout_id: int, reason: str) -> None:
        found = _call(url, key, lambda client: _act(client, rollout_id, name, reason))
        Console().print(f"Rollout {found.id}: {where(found)}")


async def _act(client: WaldClient, rollout_id: int, action: str, reason: str) -> Rollout:
    """Do it to the stage in which it is now: repeated after a lost answer, it does not skip two."""
    state = (await _rollout(client, rollout_id)).state
    running = state.running if isinstance(state, Paused) else state
    body = {"reason": reason} | ({"stage": running.stage} if isinstance(running, Running) else {})
    return await client.call("POST", f"/rollouts/{rollout_id}/{action}", Rollout, body)


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
def gate(url: str, key: str, rollout_id: int, share: float) -> None:
    """Ask whether a rollout may go on, for CI: the answer is the exit status.

    0: it is completed, or has the share. 1: it was rolled back. 3: neither yet. 4: nobody knows, as there
    was no answer, or a refusal.
    """
    path, asked = f"/rollouts/{rollout_id}/gate", {"share": str(share)}
    found = _call(url, key, lambda client: client.call("GET", path, Gate, params=asked), failure=UNKNOWN)
    Console().print(f"{found.state}: {found.reason}")
    if not found.proceed:
        sys.exit(ROLLED_BACK if found.roll_back else NOT_YET)


@click.command("explain")
@url_option
@_KEY
@click.argument("decision", metavar="ROLLOUT/NUMBER")
@click.option("--json", "as_json", is_flag=True, help="The whole receipt as JSON.")
def explain_command(url: str, key: str, decision: str, *, as_json: bool) -> None:
    """Compute a decision of a rollout again from its stored inputs, and show its evidence.

    wald explain 3/2
    """
    rollout_id, slash, number = decision.partition("/")
    if not (slash and rollout_id.isdecimal() and number.isdecimal()):
        raise click.UsageError("must be ROLLOUT/NUMBER, as in 3/2")
    path = f"/rollouts/{rollout_id}/decisions/{number}"
    found = _call(url, key, lambda client: client.call("GET", path, DecisionView))
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        Console().print(_explained(found))
    if found.differs:
        sys.exit(1)


@click.command("kill")
@url_option
@_KEY
@click.argument("experiment")
@click.option("--reason", required=True, help="Why; it is kept.")
def kill_command(url: str, key: str, experiment: str, reason: str) -> None:
    """Answer the control everywhere within a second, whatever EXPERIMENT says."""
    _switch(url, key, f"/experiments/{experiment}/kill", reason)


@click.command("revive")
@url_option
@_KEY
@click.argument("experiment")
@click.option("--reason", required=True, help="Why; it is kept.")
def revive_command(url: str, key: str, experiment: str, reason: str) -> None:
    """End a kill: serve again as EXPERIMENT says."""
    _switch(url, key, f"/experiments/{experiment}/revive", reason)


def _switch(url: str, key: str, path: str, reason: str) -> None:
    done = _call(url, key, lambda client: client.call("POST", path, Killed, {"reason": reason}))
    said = "answers the control" if done.killed else "serves again as it says"
    if done.servers == "all":
        Console().print(f"{done.experiment} {said} everywhere within a second.")
    else:
        Console().print(
            f"{done.experiment} {said} on the server that answered. Valkey and PostgreSQL are away: "
            "the other servers follow as soon as one of them is back."
        )
    if not done.recorded:
        Console().print("PostgreSQL is away: it is recorded as soon as it is back.")


def where(rollout: Rollout) -> str:
    """Where a rollout is, in words."""
    match rollout.state:
        case Draft():
            return "draft"
        case Running(stage=stage):
            return f"stage {stage + 1} of {len(rollout.plan.stages)}, {rollout.plan.stages[stage].share:.0%}"
        case Paused(running=running):
            return f"paused in stage {running.stage + 1} of {len(rollout.plan.stages)}"
        case RolledBack(stage=stage):
            return f"rolled back in stage {stage + 1}"
        case Completed():
            return "completed"


def report(rollout: Rollout) -> RenderableType:
    """The rollout, and its guardrails as they were last read."""
    title = Text(f"Rollout {rollout.id} of {rollout.experiment}: {', '.join(rollout.plan.canaries)}", "bold")
    parts: list[RenderableType] = [title, Text(where(rollout))]
    looked = rollout.looked
    if looked is None:
        return Group(*parts, Text("not looked at yet"))
    decision = looked.decision
    parts.append(Text(f"{decision.__struct_config__.tag}: {getattr(decision, 'detail', '')}".rstrip(": ")))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("guardrail", "canary", "verdict", "control", "canary's", "effect", "interval", "left"):
        table.add_column(name)
    for one in looked.reading.guardrails:
        low, high = one.interval or (None, None)
        table.add_row(
            one.metric,
            one.canary,
            one.verdict,
            _number(one.control_estimate),
            _number(one.canary_estimate),
            _number(one.effect),
            f"{_number(low)} … {_number(high)}" if one.interval else "",
            "" if one.units_left is None else f"{one.units_left:,} units",
        )
    return Group(*parts, table)


def _explained(found: DecisionView) -> RenderableType:
    taken = found.decision
    decided = f"{taken.decision.__struct_config__.tag} at {taken.at:%Y-%m-%d %H:%M:%S} UTC"
    parts: list[RenderableType] = [Text(f"{decided} by {taken.by or 'Wald'}: {taken.reason}", "bold")]
    if found.receipt is None:
        return Group(*parts, Text("nothing was measured for it"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("guardrail", "canary", "proof", "statistic", "threshold", "level", "units"):
        table.add_column(name)
    for one in found.receipt.reading.guardrails:
        for name, proof in (("harm", one.harm), ("safe", one.safe)):
            if proof is not None:
                table.add_row(
                    one.metric,
                    one.canary,
                    f"{name}{'' if proof.proven else ' not'} proven ({proof.scale})",
                    _number(proof.statistic),
                    _number(proof.threshold),
                    f"{proof.level:.3g}",
                    f"{one.canary_units:,}",
                )
    parts.append(table)
    differing = f"differs from what its inputs give: {', '.join(found.differs)}"
    again = differing if found.differs else "bit for bit"
    if not found.recomputed:
        again = f"no: Wald {found.receipt.wald} made it by tests that this release does not make"
    return Group(*parts, Text(f"computed again: {again}"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


async def _rollout(client: WaldClient, rollout_id: int) -> Rollout:
    return await client.call("GET", f"/rollouts/{rollout_id}", Rollout)


def _call(
    url: str,
    key: str,
    ask: Callable[[WaldClient], Awaitable[T]],
    *,
    failure: int = FAILED,
) -> T:
    """The answer; else the reason is printed, and `failure` is the exit status."""

    async def run() -> T:
        async with WaldClient(url, key) as client:
            return await ask(client)

    try:
        return asyncio.run(run())
    except ClientError as error:
        click.ClickException(str(error)).show()
        sys.exit(failure)
