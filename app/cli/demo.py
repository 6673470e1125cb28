"""What `wald demo` and `wald replay` do: traffic for a server, and what came of it."""

import asyncio
import sys
from typing import Final, Literal

import rich_click as click
from rich.live import Live

from app.cli import demo, display, terminal
from app.cli.calls import fail
from app.cli.client import ClientError, Status, WaldClient
from app.cli.logged import LoggedRewards
from app.cli.replay import ReplayResult, replay

REFRESH_S: Final = 0.5
SETTLE_S: Final = 30.0


def run_demo(
    url: str, key: str, *, requests: int, rate: float, seed: int, experiment: str, as_json: bool
) -> None:
    """Serve the demo's requests; a person watches the shares move."""
    try:
        status, traffic = asyncio.run(
            _demo(url, key, requests=requests, rate=rate, seed=seed, experiment=experiment, live=not as_json)
        )
    except ClientError as error:
        fail(error)
    if as_json:
        terminal.emit_json(
            {"experiment": experiment, "served": traffic.served, "rewards": traffic.rewards, "status": status}
        )
        return
    console = terminal.out()
    console.print()
    console.print(display.demo_summary(status, served=traffic.served, rewards=traffic.rewards))
    console.print(f"\nSee it at {url}/. Next, replay your own logged scores: wald replay --help")


async def _demo(
    url: str, key: str, *, requests: int, rate: float, seed: int, experiment: str, live: bool
) -> tuple[Status, demo.Traffic]:
    async with WaldClient(url, key, connections=demo.USERS_AT_ONCE + 2) as client:
        await demo.ensure_running(client, experiment)
        traffic = demo.Traffic(client, experiment, rate=rate, seed=seed, requests=requests)
        rewards_before = _rewards(await client.status(experiment))
        running = asyncio.create_task(traffic.run())
        try:
            if live and terminal.is_terminal(sys.stdout):
                await _watched(client, traffic, running, experiment=experiment, requests=requests)
            await running
        finally:
            running.cancel()
        rewards = rewards_before + len(traffic.rewards)
        return await client.settled(experiment, rewards=rewards, within_s=SETTLE_S), traffic


async def _watched(
    client: WaldClient,
    traffic: demo.Traffic,
    running: asyncio.Task[None],
    *,
    experiment: str,
    requests: int,
) -> None:
    with Live(console=terminal.out(), auto_refresh=False) as view:
        while not running.done():
            status = await client.status(experiment)
            served = sum(traffic.served.values())
            shown = display.demo_progress(status, served=served, requests=requests, waiting=traffic.waiting)
            view.update(shown, refresh=True)
            await asyncio.wait([running], timeout=REFRESH_S)


def _rewards(status: Status) -> int:
    return sum(variant.rewards for variant in status.variants)


def run_replay(
    url: str,
    key: str,
    log: LoggedRewards,
    *,
    experiment: str,
    policy: Literal["thompson", "fixed"],
    passes: int,
    concurrency: int,
    seed: int,
    as_json: bool,
) -> None:
    """Replay a log, and show what was earned. Exit status 1 if the server rejected a reward."""
    left_out = f", {log.incomplete:,} incomplete ones left out" if log.incomplete else ""
    if not as_json:
        terminal.out().print(
            f"{experiment}: {len(log.variants)} variants on {len(log.tasks):,} tasks{left_out}"
        )

    async def run() -> ReplayResult:
        async with WaldClient(url, key, connections=concurrency) as client:
            with terminal.progress("replaying", passes * len(log.tasks)) as advance:
                return await replay(
                    client,
                    log,
                    experiment=experiment,
                    policy=policy,
                    passes=passes,
                    concurrency=concurrency,
                    seed=seed,
                    progress=advance,
                )

    try:
        result = asyncio.run(run())
    except ClientError as error:
        fail(error)
    if as_json:
        terminal.emit_json(display.replay_record(result, experiment))
    else:
        terminal.out().print(display.replay_report(result))
    if result.errors:
        raise click.ClickException(f"the server rejected {result.errors} of {len(result.draws)} rewards")
