"""Rollouts on a whole Wald: how soon proven harm is gone everywhere, and what killed workers lose. Nothing.

`python -m benchmarks.rollout_live [--rollbacks 50] [--killed 200]` starts `wald up` with two servers. Exit
status 1 if a figure misses its threshold.
"""

import asyncio
import json
import random
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx2
import numpy as np
import psutil
import rich_click as click

from benchmarks import harness
from tests.support.receiver import Receiver, receiver
from tests.support.server import Up, up

STREAMS: Final = 8
"""Connections to two servers: all of them to the same one in 1 of 128 runs."""
UNITS: Final = 80
BATCH: Final = 20
KILLS: Final = 5
WAIT_S: Final = 60
GONE_S_MAX: Final = 2.0
TOLD_S_MAX: Final = 1.0

ERROR_RATE: Final = {
    "key": "error_rate",
    "measure": {"kind": "proportion", "signal": "error", "silence": 0},
    "role": "guardrail",
    "direction": "lower",
    "margin": {"size": 0.02},
}


class Began(NamedTuple):
    """A rollout at 50 %."""

    experiment: str
    id: int


class Timed(NamedTuple):
    """Seconds from the acknowledgement to 0 % on all servers, and from the decision to the first attempt."""

    gone_s: float
    told_s: float


async def begin(client: httpx2.AsyncClient, experiment: str) -> Began:
    """An experiment whose rollout is in its first stage."""
    definition = {
        "key": experiment,
        "variants": [{"key": "v1", "control": True}, {"key": "v2"}],
        "policy": {"kind": "fixed", "weights": {"v1": 1, "v2": 0}},
        "metrics": [ERROR_RATE],
    }
    (await client.post("/experiments", json=definition)).raise_for_status()
    (await client.post(f"/experiments/{experiment}/start")).raise_for_status()
    rollout = {
        "experiment": experiment,
        "canaries": ["v2"],
        "guardrails": ["error_rate"],
        "stages": [{"share": 0.5, "duration_s": 3_600}, {"share": 1}],
    }
    made = await client.post("/rollouts", json=rollout)
    made.raise_for_status()
    return Began(experiment, made.json()["id"])


async def broken(client: httpx2.AsyncClient, experiments: Sequence[str]) -> list[dict[str, Any]]:
    """Requests that the canary always fails, and the control never: their feedback, not yet sent."""
    events = []
    for number in range(UNITS):
        body = {"unit": f"u{number}", "experiments": experiments}
        for one in (await client.post("/assign", json=body)).json()["assignments"]:
            about = {"assignment_id": one["assignment_id"], "source": "automated", "signal": "error"}
            events.append(about | {"value": float(one["variant"] == "v2")})
    return events


async def send(client: httpx2.AsyncClient, events: list[dict[str, Any]]) -> float:
    """Acknowledged feedback; when the last of it was."""
    for start in range(0, len(events), 500):
        answer = await client.post("/feedback", json=events[start : start + 500])
        answer.raise_for_status()
        assert not answer.json()["rejected"], answer.text
    return time.monotonic()


class Watched:
    """The share of a canary on every connection of `/changes`, as they hear of it."""

    def __init__(self) -> None:
        self.shares: list[dict[str, float]] = [{} for _ in range(STREAMS)]
        self.changed = asyncio.Condition()

    async def follow(self, server: Up, number: int) -> None:
        """One connection, for ever."""
        timeout = httpx2.Timeout(10, read=None)
        async with (
            server.async_client() as client,
            client.stream("GET", "/changes", timeout=timeout) as answer,
        ):
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    change = json.loads(line.removeprefix("data: "))
                    async with self.changed:
                        self.shares[number][change["experiment"]] = change["shares"][1]
                        self.changed.notify_all()

    async def until(self, experiments: Sequence[str], share: float) -> float:
        """When every connection has heard that these have this share."""
        async with asyncio.timeout(WAIT_S), self.changed:
            await self.changed.wait_for(
                lambda: all(shares.get(one) == share for shares in self.shares for one in experiments)
            )
            return time.monotonic()


@asynccontextmanager
async def watching(server: Up) -> AsyncIterator[Watched]:
    """Follows the changes until the block ends."""
    watched = Watched()
    tasks = [asyncio.create_task(watched.follow(server, number)) for number in range(STREAMS)]
    try:
        yield watched
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def told(hook: Receiver, rollout: int) -> float:
    """How long after the decision the receiver got the message; a minute if its worker died sending it."""
    async with asyncio.timeout(2 * WAIT_S):
        while True:
            hook.arrived.clear()
            for one in hook.received:
                data = one.json["data"]
                if one.json["type"] == "rollout.rolled_back" and data["rollout"] == rollout:
                    decided = datetime.fromisoformat(data["decision"]["at"])
                    return (datetime.now(UTC) - decided).total_seconds()
            await hook.arrived.wait()


async def time_rollbacks(server: Up, hook: Receiver, n: int) -> list[Timed]:
    """One rollback after the other."""
    found = []
    async with server.async_client() as client, watching(server) as watched:
        for number in range(n):
            began = await begin(client, f"timed-{number}")
            await watched.until([began.experiment], 0.5)
            events = await broken(client, [began.experiment])
            message = asyncio.create_task(told(hook, began.id))
            acknowledged = await send(client, events)
            gone = await watched.until([began.experiment], 0.0)
            found.append(Timed(gone - acknowledged, await message))
    return found


async def kill_workers(server: Up, rng: random.Random) -> None:
    """SIGKILL to the worker at random points, often while it starts; `wald up` starts it again."""
    for _ in range(KILLS):
        await asyncio.sleep(rng.uniform(0.05, 6))
        for worker in await asyncio.to_thread(server.part, "worker"):
            with suppress(psutil.NoSuchProcess):
                worker.kill()


async def survive(server: Up, hook: Receiver, rng: random.Random, n: int, *, prefix: str) -> int:
    """`n` rollouts at once are rolled back while workers are killed; how many decisions there were.

    Raises AssertionError as `check_decided_once`.
    """
    async with server.async_client() as client, watching(server) as watched:
        began = [await begin(client, f"{prefix}-{number}") for number in range(n)]
        names = [one.experiment for one in began]
        await watched.until(names, 0.5)
        events = await broken(client, names)
        random_kills = asyncio.create_task(kill_workers(server, rng))
        for start in range(0, len(events), len(events) // KILLS):
            await send(client, events[start : start + len(events) // KILLS])
            await asyncio.sleep(1)
        await random_kills
        await watched.until(names, 0.0)
        for one in began:
            await check_decided_once(client, hook, one)
    return n


async def check_decided_once(client: httpx2.AsyncClient, hook: Receiver, one: Began) -> None:
    """Raise AssertionError unless it was rolled back by one decision, in one epoch, told under one id."""
    answer = await client.get(f"/rollouts/{one.id}/decisions")
    kinds = [taken["decision"]["kind"] for taken in answer.json()["decisions"]]
    assert kinds == ["started", "roll_back"], f"{one}: {kinds}"
    experiment = (await client.get(f"/experiments/{one.experiment}")).json()
    assert experiment["epoch"] == 3, f"{one}: epoch {experiment['epoch']}"
    await told(hook, one.id)
    of_this = [got for got in hook.received if got.json["data"].get("rollout") == one.id]
    back = {got.headers["webhook-id"] for got in of_this if got.json["type"] == "rollout.rolled_back"}
    assert len(back) == 1, f"{one}: {back}"


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[tuple[Up, Receiver]]:
    """Two servers, a worker, and a receiver that is told of rollouts."""
    async with receiver() as hook:
        environment = {
            "WALD_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
            "WALD_WEBHOOK_ALLOWED_PORTS": str(hook.port),
        }
        with up(folder / "data", workers=2, environment=environment) as server, server.client() as client:
            client.post("/webhooks", json={"url": hook.url, "events": ["rollout.*"]}).raise_for_status()
            yield server, hook


@click.command()
@click.option("--rollbacks", type=click.IntRange(1), default=50, show_default=True, help="How many to time.")
@click.option("--killed", default=200, show_default=True, help="Decisions while workers are killed.")
def main(rollbacks: int, killed: int) -> None:
    """Time rollbacks, and kill workers during decisions."""

    async def run() -> tuple[list[Timed], int]:
        with tempfile.TemporaryDirectory(prefix="wald-bench-") as name:
            async with scene(Path(name)) as (server, hook):
                timed = await time_rollbacks(server, hook, rollbacks)
                rng = random.Random(20260101)
                decided = 0
                for batch in range(killed // BATCH):
                    decided += await survive(server, hook, rng, BATCH, prefix=f"killed-{batch}")
                return timed, decided

    timed, decided = asyncio.run(run())
    rows, failed = [], False
    for name, values, most in (
        ("last needed signal acknowledged to 0 % on every server", [one.gone_s for one in timed], GONE_S_MAX),
        ("decision to the first webhook attempt", [one.told_s for one in timed], TOLD_S_MAX),
    ):
        p50, p99 = np.quantile(values, [0.5, 0.99]).tolist()
        failed |= p99 > most
        rows.append([name, f"{p50:.2f} s", f"{p99:.2f} s", f"< {most:g} s"])
    harness.show(f"{len(timed)} rollbacks", ["", "median", "p99", "p99 wanted"], rows)
    click.echo(f"{decided} decisions while workers were killed: none twice, none lost")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
