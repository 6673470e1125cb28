"""Whole-system faults: every part is killed in turn under load, and what was acknowledged is counted once."""

import asyncio
import base64
import itertools
import random
import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import pytest
from redis import Redis

from tests.support.server import Up, up

ROUNDS = 20
CLIENTS = 8
SEED = 20260101
PARTS = ("serve", "worker", "valkey-server", "postgres")
EXPERIMENT = {
    "key": "faults",
    "variants": [{"key": "a", "control": True}, {"key": "b"}, {"key": "c"}],
    "reward": {"signals": {"score": 0.0}, "combine": "last", "horizon_s": 86_400},
}


class Journal:
    """What the clients were told: assignments they got, and the last acknowledged score of each."""

    def __init__(self) -> None:
        self.variant_of: dict[str, str] = {}
        self.score_of: dict[str, float] = {}
        self.acknowledged = 0
        self.duplicates = 0

    def expected(self, exposed: set[bytes]) -> dict[str, tuple[int, float]]:
        """Per variant: number of rewards and their mean, each rounded to a billionth, as the ledger does.

        Of assignments that are in the log: those an answer calls recorded, and the few whose answer could not
        wait for the acknowledgement of what was written all the same.
        """
        counts: dict[str, int] = defaultdict(int)
        nanos: dict[str, int] = defaultdict(int)
        for assignment_id, score in self.score_of.items():
            if identity(assignment_id) in exposed:
                counts[self.variant_of[assignment_id]] += 1
                nanos[self.variant_of[assignment_id]] += round(score * 1_000_000_000)
        return {key: (counts[key], nanos[key] / counts[key] / 1e9) for key in counts}


def identity(assignment_id: str) -> bytes:
    """The UUID inside."""
    return base64.urlsafe_b64decode(assignment_id)[16:32]


def recorded(assignment_id: str) -> bool:
    """Whether the id says that its exposure was stored (flag 1 of its third byte is `unrecorded`)."""
    return not base64.urlsafe_b64decode(assignment_id)[2] & 1


async def until_answered(client: httpx2.AsyncClient, method: str, url: str, **options: Any) -> Any:
    """Retry, as a client of a service that may be restarting does, until a 2xx comes."""
    while True:
        try:
            answer = await client.request(method, url, **options)
        except httpx2.HTTPError:
            await asyncio.sleep(0.05)
            continue
        if answer.is_success:
            return answer.json()
        assert answer.status_code == 503, f"{answer.status_code} {answer.text}"
        await asyncio.sleep(0.05)


async def drive(server: Up, journal: Journal, number: int, stop: asyncio.Event) -> None:
    """One client: assigns, scores, revises some scores, and sends 30 % of its events twice."""
    rng = random.Random(SEED + number)
    async with server.async_client() as client:
        for turn in itertools.count():
            if stop.is_set():
                return
            unit = f"client-{number}-{turn}"
            answer = await until_answered(client, "GET", f"/assign?experiment=faults&unit={unit}")
            assignment_id = answer["assignment_id"]
            journal.variant_of[assignment_id] = answer["variant"]
            for revision in range(rng.choice((1, 1, 2))):
                score = round(rng.random(), 6)
                event = {
                    "assignment_id": assignment_id,
                    "signal": "score",
                    "value": score,
                    "id": f"{unit}-{revision}",
                }
                for _ in range(2 if rng.random() < 0.3 else 1):
                    verdict = await until_answered(client, "POST", "/feedback", json=event)
                    assert verdict["accepted"] == 1
                    journal.acknowledged += 1
                journal.score_of[assignment_id] = score


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_acknowledged_event_counts_once_when_each_part_is_killed_in_turn(tmp_path: Path) -> None:
    with up(tmp_path / "data", workers=2) as server:
        with server.client() as client:
            client.post("/experiments", json=EXPERIMENT).raise_for_status()
            client.post("/experiments/faults/start").raise_for_status()
        journal = asyncio.run(kill_in_turn(server))
        status = server.wait_no_lag("faults")

        exposed = exposures_each_logged_once(server)
        promised = {identity(one) for one in journal.variant_of if recorded(one)}
        assert promised <= exposed, f"{len(promised - exposed)} recorded assignments are not in the log"
        got = {row["key"]: (row["rewards"], row["mean"]) for row in status["variants"]}
        expected = journal.expected(exposed)
        assert {key: got[key][0] for key in expected} == {key: count for key, (count, _) in expected.items()}
        for key, (_, mean) in expected.items():
            assert got[key][1] == pytest.approx(mean, abs=1e-12)
        assert_posteriors_survive_the_loss_of_valkey(server)
        assert len(journal.variant_of) > ROUNDS * CLIENTS, "the load was too light to show anything"


async def kill_in_turn(server: Up) -> Journal:
    journal, stop = Journal(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for number in range(CLIENTS):
            tasks.create_task(drive(server, journal, number, stop))
        rng = random.Random(SEED)
        for turn in range(ROUNDS):
            await asyncio.sleep(rng.uniform(0.3, 1.0))  # the moment of the kill is what is random here
            victims = await asyncio.to_thread(server.part, PARTS[turn % len(PARTS)])
            rng.choice(victims).send_signal(signal.SIGKILL)
            await asyncio.to_thread(server.wait_ready)
        stop.set()
    return journal


def exposures_each_logged_once(server: Up) -> set[bytes]:
    """Identities of all exposed assignments, having checked that totals count each of them once."""
    with psycopg.connect(database_url(server)) as connection:
        logged = [row[0].bytes for row in connection.execute("SELECT id FROM assignments WHERE exposed")]
        counted = connection.execute("SELECT sum(assignments) FROM totals").fetchone()
    assert counted is not None
    assert len(logged) == len(set(logged)) == counted[0]
    return set(logged)


def assert_posteriors_survive_the_loss_of_valkey(server: Up) -> None:
    wait_until_published(server)
    with Redis.from_url(valkey_url(server)) as valkey:
        before = valkey.hgetall("wald:{registry}:experiments")
        versions = valkey.hgetall("wald:{registry}:versions")
        changes = valkey.pubsub()
        changes.subscribe("wald:changes")
        valkey.flushall()
        deadline = 30
        while valkey.hgetall("wald:{registry}:versions") != versions:
            assert changes.get_message(timeout=deadline) is not None, "nothing was republished"
        assert valkey.hgetall("wald:{registry}:experiments") == before


def wait_until_published(server: Up) -> None:
    """Until no totals wait for their allocation any more."""
    deadline = time.monotonic() + 30
    with psycopg.connect(database_url(server), autocommit=True) as connection:
        while connection.execute("SELECT 1 FROM publications WHERE published < wanted").fetchone():
            assert time.monotonic() < deadline, "allocations were not published"
            time.sleep(0.05)


def database_url(server: Up) -> str:
    """Where the embedded PostgreSQL listens, as its children were told."""
    return server.part("worker")[0].environ()["WALD_DATABASE_URL"]


def valkey_url(server: Up) -> str:
    """Where the embedded Valkey listens, as its children were told."""
    return server.part("worker")[0].environ()["WALD_VALKEY_URL"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_end_in_order_loses_nothing_and_a_kill_of_the_parent_leaves_nothing(tmp_path: Path) -> None:
    with up(tmp_path / "data", workers=2) as server:
        with server.client() as client:
            client.post("/experiments", json=EXPERIMENT).raise_for_status()
            client.post("/experiments/faults/start").raise_for_status()
            answer = client.get("/assign?experiment=faults&unit=u").json()
            with client.stream("GET", "/changes", timeout=30) as stream:
                lines = stream.iter_lines()
                assert next(lines)
                event = {"assignment_id": answer["assignment_id"], "signal": "score", "value": 0.5}
                client.post("/feedback", json=event).raise_for_status()
                server.process.send_signal(signal.SIGTERM)
                assert list(lines)[-2:], "the stream was cut without its last event"
        assert server.process.wait(20) == 0
    with up(tmp_path / "data") as server:
        status = server.wait_no_lag("faults")
        assert sum(row["rewards"] for row in status["variants"]) == 1
        family = server.process.children(recursive=True)
        server.process.kill()
        gone, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, f"orphans: {alive}"
        assert gone
    with up(tmp_path / "data") as server:
        assert sum(row["rewards"] for row in server.wait_no_lag("faults")["variants"]) == 1
