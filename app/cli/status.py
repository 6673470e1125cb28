"""The command `wald status`, over HTTP."""

import sys
from typing import TYPE_CHECKING, Any, Final

import rich_click as click

from app.cli.calls import ask
from app.cli.client import WaldClient, path_of
from app.cli.options import json_option
from app.cli.terminal import emit_json, out
from app.cli.traffic import read_key_option, url_option

if TYPE_CHECKING:  # loads numerical libraries
    from rich.console import RenderableType

REFRESH_S: Final = 2.0


@click.command("status")
@click.argument("experiment")
@url_option
@read_key_option
@click.option("--watch", is_flag=True, help="Show it again whenever it changes, until Ctrl-C.")
@json_option
def status_command(*, experiment: str, url: str, key: str, watch: bool, as_json: bool) -> None:
    """Show how EXPERIMENT is doing and what to do about it.

        wald status summary-prompt

    The shares of the variants, the probability that each is the best, its mean reward; then the readout: what
    is recommended, whether the data can be trusted, and every metric with the intervals that decide; last the
    newest rollout, if there is one.

    With `--json` it prints the answer of `GET /experiments/EXPERIMENT/status`. With `--watch` it goes on
    until Ctrl-C, also while the server restarts: in place on a terminal; in a pipe, each status that differs
    from the one before, with `--json` on a line of its own.
    """
    path = path_of("experiments", experiment, "status")
    if watch:
        _watch(url, key, experiment, path, as_json=as_json)
        return
    if as_json:
        emit_json(ask(url, key, lambda client: client.raw("GET", path)))
        return
    answer, rollouts = ask(url, key, lambda client: _with_rollouts(client, experiment, path))
    out().print(_shown(answer, rollouts))


def _watch(url: str, key: str, experiment: str, path: str, *, as_json: bool) -> None:
    from app.cli.watching import watch  # noqa: PLC0415 - not needed to show it once

    rollouts = b""

    async def answer(client: WaldClient) -> bytes:
        nonlocal rollouts
        if as_json:
            return await client.raw("GET", path)
        found, rollouts = await _with_rollouts(client, experiment, path)
        return found

    async def run(client: WaldClient) -> Any:
        return await watch(
            lambda: answer(client),
            lambda found: _shown(found, rollouts),
            every_s=REFRESH_S,
            as_json=as_json,
            patient=True,
        )

    try:
        ask(url, key, run)
    except KeyboardInterrupt:
        sys.exit(0)


async def _with_rollouts(client: WaldClient, experiment: str, path: str) -> tuple[bytes, bytes]:
    """The status, and the newest rollout; of a server without rollouts none."""
    asked = {"experiment": experiment, "limit": "1"}
    return await client.raw("GET", path), await client.raw("GET", "/rollouts", params=asked)


def _shown(answer: bytes, rollouts: bytes) -> "RenderableType":
    from app.cli.status_display import report  # noqa: PLC0415 - loads numerical libraries

    return report(answer, rollouts)
