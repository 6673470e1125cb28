"""The commands `wald judge`, over HTTP; `check` calls the judge from this machine."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import IO, Any, Final

import msgspec
import rich_click as click

from app.cli import display
from app.cli.calls import Server, administers_server, reads_server
from app.cli.client import WaldClient, path_of, read
from app.cli.command_line import Group
from app.cli.options import MOMENT, json_option
from app.cli.terminal import err, progress, show

POLL_S: Final = 0.5
_FIRST: Final = "1970-01-01T00:00:00Z"
_definition_file = click.argument("file", type=click.File("rb"))
_usd_option = click.option(
    "--usd-per-day",
    type=click.FloatRange(0),
    default=None,
    help="The most to spend on one UTC day, in US dollars.",
)
_calls_option = click.option(
    "--calls-per-day", type=click.IntRange(0), default=None, help="The most calls on one UTC day."
)
_version_option = click.option(
    "--version", default=None, help="The version, by its hash.  [default: the newest]"
)


@click.group("judge", cls=Group)
def judge_command() -> None:
    """Let judges score responses, and trust them once people agree with them.

    A judge version starts in shadow: its scores are shown and act on nothing. After the calibration
    gate has passed, `promote` lets its scores feed rewards, metrics and guardrails as the signal
    `judge.NAME`.
    """


@judge_command.command("list", epilog="Example: wald judge list")
@reads_server
@json_option
def list_judges(*, server: Server, as_json: bool) -> None:
    """List the judges."""
    answer = server.get("judges")
    show(answer, lambda: display.judge.listed(answer), as_json=as_json)


@judge_command.command("add", epilog="Example: wald judge add helpful.json")
@administers_server
@_definition_file
@json_option
def add(*, server: Server, file: IO[bytes], as_json: bool) -> None:
    """Register the judge version that FILE defines in JSON; - reads standard input.

    A definition that is known is the same version.
    """
    answer = server.post("judges", body=_definition(file))
    show(answer, lambda: display.judge.added(answer), as_json=as_json)


@judge_command.command("check", epilog="Example: wald judge check helpful.json --response 'Paris.'")
@_definition_file
@click.option("--prompt", default=None, help="The prompt of the response.")
@click.option("--response", default=None, help="The response to score.  [default: a sample]")
@json_option
def check(*, file: IO[bytes], prompt: str | None, response: str | None, as_json: bool) -> None:
    """Score one response with the judge that FILE defines, from this machine. Nothing is stored.

    The exit status is 1 if the judge gave no score.
    """
    from app.core.errors import WaldError
    from app.judging.judge_holder import tried

    try:
        result = asyncio.run(tried(_definition(file), prompt=prompt, response=response))
    except WaldError as error:
        raise click.BadParameter(error.detail, param_hint="FILE") from error
    show(result, lambda: display.judge.checked(result), as_json=as_json)
    if not result.passed:
        sys.exit(1)


@judge_command.command("show", epilog="Example: wald judge show helpful")
@reads_server
@click.argument("name")
@click.argument("version", required=False)
@json_option
def show_judge(*, server: Server, name: str, version: str | None, as_json: bool) -> None:
    """Show the versions of a judge, or the report of a VERSION, by the start of its hash."""
    if version is None:
        answer = server.get("judges", name)
        show(answer, lambda: display.judge.versions(answer), as_json=as_json)
        return
    answer = server.get("judges", name, "versions", version)
    show(answer, lambda: display.judge.report(answer), as_json=as_json)


@judge_command.command("rules", epilog="Example: wald judge rules summary-prompt")
@reads_server
@click.argument("experiment")
@json_option
def rules(*, server: Server, experiment: str, as_json: bool) -> None:
    """Show the judging rules of EXPERIMENT, and why responses were not judged."""
    answer = server.get("experiments", experiment, "judging")
    show(answer, lambda: display.judge.rules(answer), as_json=as_json)


@judge_command.command(
    "use", epilog="Example: wald judge use helpful summary-prompt --rate 0.2 --usd-per-day 5"
)
@administers_server
@click.argument("name")
@click.argument("experiment")
@_version_option
@click.option(
    "--rate", type=click.FloatRange(0, 1, min_open=True), default=None, help="Share of responses to judge."
)
@_usd_option
@_calls_option
@json_option
def use(
    *,
    server: Server,
    name: str,
    experiment: str,
    version: str | None,
    rate: float | None,
    usd_per_day: float | None,
    calls_per_day: int | None,
    as_json: bool,
) -> None:
    """Let the judge NAME score new responses of EXPERIMENT."""
    body = _rule(name, version, rate, usd_per_day, calls_per_day)
    answer = server.post("experiments", experiment, "judging", body=body)
    show(answer, lambda: display.judge.rule(answer), as_json=as_json)


@judge_command.command("promote", epilog="Example: wald judge promote helpful 3f2a9c")
@administers_server
@click.argument("name")
@click.argument("version")
@json_option
def promote(*, server: Server, name: str, version: str, as_json: bool) -> None:
    """Let the scores of VERSION feed rewards, metrics and guardrails.

    Refused until its gate passes.
    """
    answer = server.post("judges", name, "versions", version, "promote")
    show(answer, lambda: display.judge.trusted(answer), as_json=as_json)


@judge_command.command("demote", epilog="Example: wald judge demote helpful 3f2a9c --reason 'wrong rubric'")
@administers_server
@click.argument("name")
@click.argument("version")
@click.option("--reason", required=True, help="The reason. It is stored.")
@json_option
def demote(*, server: Server, name: str, version: str, reason: str, as_json: bool) -> None:
    """Send VERSION back to shadow."""
    answer = server.post("judges", name, "versions", version, "demote", body={"reason": reason})
    show(answer, lambda: display.judge.trusted(answer), as_json=as_json)


@judge_command.command("diff", epilog="Example: wald judge diff 3f2a9c 8b01de")
@reads_server
@click.argument("a")
@click.argument("b")
@json_option
def diff(*, server: Server, a: str, b: str, as_json: bool) -> None:
    """Compare versions A and B of a judge on the stored responses that both have scored.

    It shows how many verdicts differ, what a judgement costs, and the effect on every experiment.
    """
    name = _judge_of(server, a)
    answer = server.get("judges", name, "diff", params={"a": a, "b": b})
    show(answer, lambda: display.judge.difference(answer), as_json=as_json)


@judge_command.command("run")
@administers_server
@click.argument("name")
@click.argument("experiment")
@_version_option
@click.option(
    "--rate",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of responses to judge.",
)
@click.option(
    "--since", type=MOMENT, default=None, help="Judge responses received from then on.  [default: all]"
)
@_usd_option
@_calls_option
@click.option("--yes", is_flag=True, help="Start without a question.")
@json_option
def run(
    *,
    server: Server,
    name: str,
    experiment: str,
    version: str | None,
    rate: float,
    since: datetime | None,
    usd_per_day: float | None,
    calls_per_day: int | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Judge the stored responses of EXPERIMENT by the judge NAME.

        wald judge run helpful summary-prompt --since 2026-01-31

    It shows the likely cost before it starts. The workers judge: you may interrupt this command,
    and run it again to go on watching. The scores feed no signal.
    """
    running = _unfinished(server, name, experiment, version)
    if running is None:
        since_text = _FIRST if since is None else since.astimezone(UTC).isoformat()
        body = _rule(name, version, rate, usd_per_day, calls_per_day) | {"since": since_text}
        answer = server.post("experiments", experiment, "judging", "estimate", body=body)
        estimate = read(answer, dict[str, Any])
        err().print(display.judge.estimated(estimate))
        if not estimate["judgements"]:
            return
        if not yes:
            click.confirm("Start?", abort=True, err=True)
        running = read(server.post("experiments", experiment, "judging", body=body), dict[str, Any])["id"]
    rule_id = str(running)
    final = server.ask(lambda client: _watch(client, experiment, rule_id))
    show(final, lambda: display.judge.rule(final), as_json=as_json)


async def _watch(client: WaldClient, experiment: str, rule_id: str) -> bytes:
    """Show the progress of a retrospective rule until nothing waits, and return it."""
    path = path_of("experiments", experiment, "judging", rule_id)
    with progress("judging", 1.0) as advance:
        done = 0.0
        while True:
            answer = await client.raw("GET", path)
            rule = read(answer, dict[str, Any])
            share = display.judge.share_done(rule)
            advance(share - done)
            done = share
            if rule["state"] != "active" and not rule["funnel"]["waiting"]:
                return answer
            await asyncio.sleep(POLL_S)


def _unfinished(server: Server, name: str, experiment: str, version: str | None) -> int | None:
    """Return the id of a retrospective rule of a judge that still works; None without one."""
    listed = read(server.get("experiments", experiment, "judging"), dict[str, Any])["rules"]
    for rule in listed:
        same = rule["judge"] == name and rule["version"].startswith(version or "")
        works = rule["state"] == "active" or rule["funnel"]["waiting"]
        if rule["until"] is not None and same and works and rule["state"] != "paused":
            return int(rule["id"])
    return None


def _judge_of(server: Server, prefix: str) -> str:
    """Return the name of the judge that has a version whose hash begins with `prefix`."""
    names = [judge["judge"] for judge in read(server.get("judges"), dict[str, Any])["judges"]]
    for name in names:
        versions = read(server.get("judges", name), dict[str, Any])["versions"]
        if any(version["version"].startswith(prefix) for version in versions):
            return str(name)
    raise click.BadParameter(f"no judge version begins with {prefix!r}; see `wald judge list`")


def _definition(file: IO[bytes]) -> bytes:
    body = file.read()
    try:
        msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise click.BadParameter(f"is not a JSON object: {error}", param_hint="FILE") from error
    return body


def _rule(
    name: str, version: str | None, rate: float | None, usd_per_day: float | None, calls_per_day: int | None
) -> dict[str, Any]:
    budget = {"usd_per_day": usd_per_day, "calls_per_day": calls_per_day}
    return {"judge": name, "version": version, "rate": rate, "budget": budget}
