"""The commands `wald responses`, over HTTP."""

import rich_click as click

from app.cli import display
from app.cli.calls import Server, administers_server, reads_server
from app.cli.command_line import Group
from app.cli.options import json_option
from app.cli.terminal import show


@click.group("responses", cls=Group)
def responses_command() -> None:
    """List, show and erase stored responses, and feedback that waits for one."""


@responses_command.command("list", epilog="Example: wald responses list summary-prompt --variant short")
@click.argument("experiment")
@click.option("--variant", help="Only responses of this variant.")
@click.option("--unit", help="Only responses to this unit.")
@click.option("--session", "session_id", help="Only responses of this session.")
@click.option("--model", help="Only responses of this model.")
@click.option("--finish-reason", help="Only responses with this finish reason.")
@click.option("--failed", is_flag=True, help="Only responses with an error.")
@click.option("--after", type=click.IntRange(min=1), help="Continue after a page: the `next` it printed.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="On one page.")
@reads_server
@json_option
def list_responses(
    *, experiment: str, failed: bool, server: Server, as_json: bool, **filters: str | int | None
) -> None:
    """List the responses of EXPERIMENT, newest first.

    `--json` prints the answer of `GET /experiments/EXPERIMENT/responses`, with the whole texts.
    """
    params = {name: str(value) for name, value in filters.items() if value is not None}
    if failed:
        params["failed"] = "true"
    answer = server.get("experiments", experiment, "responses", params=params)
    show(answer, lambda: display.responses.page(answer), as_json=as_json)


@responses_command.command("show", epilog="Example: wald responses show chatcmpl-123")
@click.argument("response_id")
@click.option("--experiment", help="Its experiment, if several have a response with this id.")
@reads_server
@json_option
def show_response(*, response_id: str, experiment: str | None, server: Server, as_json: bool) -> None:
    """Show the response with the id RESPONSE_ID."""
    params = {} if experiment is None else {"experiment": experiment}
    answer = server.get("responses", response_id, params=params)
    show(answer, lambda: display.responses.one(answer), as_json=as_json)


@responses_command.command("waiting", epilog="Example: wald responses waiting")
@reads_server
@json_option
def waiting_feedback(*, server: Server, as_json: bool) -> None:
    """Show feedback by response_id that does not count, with the reason.

        wald responses waiting

    How to read it:

    * *waiting*: no response with this id is stored yet, or its unit has no assignment yet.
    * *ambiguous*: several experiments have a response with this id. Send `experiment` too.
    * *refused*: the experiment does not accept the value, or the feedback came too late.
    """
    answer = server.get("feedback", "waiting")
    show(answer, lambda: display.responses.waiting(answer), as_json=as_json)


@responses_command.command("erase", epilog="Example: wald responses erase user-17")
@click.argument("unit")
@click.option("--experiment", help="Only in this experiment. By default in all.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@administers_server
@json_option
def erase_responses(*, unit: str, experiment: str | None, yes: bool, server: Server, as_json: bool) -> None:
    """Delete the texts of all responses to UNIT. Numbers and totals stay."""
    if not yes:
        click.confirm(f"Delete the texts of all responses to {unit!r}?", abort=True)
    params = {"unit": unit} | ({} if experiment is None else {"experiment": experiment})
    answer = server.delete("responses", params=params)
    show(answer, lambda: display.responses.erased(answer), as_json=as_json)
