"""The command `wald demo`, over HTTP."""

import asyncio
import sys
from typing import TYPE_CHECKING, Final

import rich_click as click

from app.cli import display, limits, terminal
from app.cli.calls import Server, drives_server
from app.cli.client import Status, WaldClient
from app.cli.options import json_option

if TYPE_CHECKING:  # loads numerical libraries
    from app.cli.traffic.demo import Traffic

REFRESH_S: Final = 0.5
SETTLE_S: Final = 30.0


@click.command("demo")
@drives_server
@click.option(
    "--requests",
    type=click.IntRange(1, 10_000_000),
    default=limits.DEMO_REQUESTS,
    show_default=True,
    help="Number of requests to serve.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.1, 10_000),
    default=100,
    show_default=True,
    help="Requests per second. A slower server gets fewer.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the simulated users."
)
@click.option(
    "--experiment",
    default="demo",
    show_default=True,
    help="Key of the experiment. The demo creates the experiment if it does not exist.",
)
@json_option
def demo_command(
    *, server: Server, requests: int, rate: float, seed: int, experiment: str, as_json: bool
) -> None:
    """Watch a running server learn from simulated users.

    A simulated product asks `/assign` which of three prompts serves each request. Users copy answers, ask for
    another answer, give a thumb some seconds later, or stay silent. The table shows how the traffic moves to
    the best prompt as feedback arrives.

    Start a server first, then run the demo in a second terminal:

        wald up

        wald demo --key KEY

    Run it again to continue the same experiment, or start another one: wald demo --experiment demo-2
    """
    from app.cli.traffic import demo

    async def run(client: WaldClient) -> tuple[Status, demo.Traffic]:
        await demo.ensure_running(client, experiment)
        traffic = demo.Traffic(client, experiment, rate=rate, seed=seed, requests=requests)
        before = await client.status(experiment)
        running = asyncio.create_task(traffic.run())
        try:
            if not as_json and terminal.is_terminal(sys.stdout):
                await _watch(client, traffic, running, experiment=experiment, requests=requests)
            await running
        finally:
            running.cancel()
        rewards = sum(variant.rewards for variant in before.variants) + len(traffic.rewards)
        return await client.settled(experiment, rewards=rewards, within_s=SETTLE_S), traffic

    status, traffic = server.ask(run, connections=demo.USERS_AT_ONCE + 2)
    if as_json:
        terminal.emit_json(
            {"experiment": experiment, "served": traffic.served, "rewards": traffic.rewards, "status": status}
        )
        return
    console = terminal.out()
    console.print()
    console.print(display.traffic.demo_summary(status, served=traffic.served, rewards=traffic.rewards))
    console.print(f"\nSee it at {server.url}/. Next, replay your own logged scores: wald replay --help")


async def _watch(
    client: WaldClient,
    traffic: "Traffic",
    running: asyncio.Task[None],
    *,
    experiment: str,
    requests: int,
) -> None:
    """Show the present state in place until the traffic ends."""
    from rich.live import Live

    with Live(console=terminal.out(), auto_refresh=False) as view:
        while not running.done():
            status, served = await client.status(experiment), sum(traffic.served.values())
            waiting = traffic.waiting
            shown = display.traffic.demo_progress(status, served=served, requests=requests, waiting=waiting)
            view.update(shown, refresh=True)
            await asyncio.wait([running], timeout=REFRESH_S)
