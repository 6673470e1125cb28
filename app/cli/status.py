"""The command `wald status`, over HTTP."""

import sys
from typing import Any, Final

import rich_click as click

from app.cli import display
from app.cli.calls import Server, reads_server
from app.cli.client import WaldClient, path_of
from app.cli.options import json_option
from app.cli.terminal import emit_json, out
from app.cli.watching import watch as watch_answers

REFRESH_S: Final = 2.0


@click.command("status")
@click.argument("experiment")
@reads_server
@click.option("--watch", is_flag=True, help="Show it again whenever it changes, until Ctrl-C.")
@json_option
def status_command(*, experiment: str, server: Server, watch: bool, as_json: bool) -> None:
    """Show how EXPERIMENT is doing and what to do about it.

        wald status summary-prompt

    For each variant: its share, the probability that it is the best, and its mean reward. Then the readout:
    the recommendation, whether the data can be trusted, and every metric with the intervals that decide.
    Last, the newest rollout.

    `--json` prints the answer of `GET /experiments/EXPERIMENT/status`.

    `--watch` goes on until Ctrl-C, also while the server restarts. On a terminal it updates in place. In a
    pipe it prints each status that differs from the previous one; with `--json`, one status per line.
    """
    if watch:
        _watch(server, experiment, as_json=as_json)
    elif as_json:
        emit_json(server.get("experiments", experiment, "status"))
    else:
        status, rollouts = server.ask(lambda client: _with_rollouts(client, experiment))
        out().print(display.status.report(status, rollouts))


def _watch(server: Server, experiment: str, *, as_json: bool) -> None:
    rollouts = b""

    async def answer(client: WaldClient) -> bytes:
        nonlocal rollouts
        if as_json:
            return await client.raw("GET", path_of("experiments", experiment, "status"))
        status, rollouts = await _with_rollouts(client, experiment)
        return status

    async def run(client: WaldClient) -> Any:
        return await watch_answers(
            lambda: answer(client),
            lambda status: display.status.report(status, rollouts),
            every_s=REFRESH_S,
            as_json=as_json,
            patient=True,
        )

    try:
        server.ask(run)
    except KeyboardInterrupt:
        sys.exit(0)


async def _with_rollouts(client: WaldClient, experiment: str) -> tuple[bytes, bytes]:
    """Return the status of the experiment, and a page with its newest rollout."""
    newest = {"experiment": experiment, "limit": "1"}
    path = path_of("experiments", experiment, "status")
    return await client.raw("GET", path), await client.raw("GET", "/rollouts", params=newest)
