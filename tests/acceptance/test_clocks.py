"""Wall clocks that jump under a whole system: nothing acknowledged is lost, nothing is resolved early."""

import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from tests.support.clocks import ShiftedClocks
from tests.support.polling import wait_until
from tests.support.server import Up, up

HOUR_S = 3_600
HORIZON_S = 60
WITHIN_S = 30
REWARD = {"signals": {"score": 0.0}, "horizon_s": HORIZON_S, "silence": 0.0}


class Running:
    """The system, its clocks, and what it acknowledged."""

    def __init__(self, server: Up, clocks: ShiftedClocks) -> None:
        self.server = server
        self.clocks = clocks

    def start(self, key: str, **parts: Any) -> None:
        definition = {
            "key": key,
            "variants": [{"key": "a", "control": True}, {"key": "b"}],
            "unit": "user",
            "stickiness": "unit",
            "reward": REWARD,
        }
        with self.server.client() as client:
            client.post("/experiments", json=definition | parts).raise_for_status()
            client.post(f"/experiments/{key}/start").raise_for_status()
            wait_until(lambda: client.get(f"/assign?experiment={key}&unit=probe").is_success)

    def load(self, key: str, name: str, seconds: float) -> list[str]:
        """Ids of assignments, each of which got a score by its id; every other unit another by its name."""
        until, ids = time.monotonic() + seconds, []
        with self.server.client() as client:
            while time.monotonic() < until:
                unit = f"{name}-{len(ids)}"
                answer = client.get("/assign", params={"experiment": key, "unit": unit}).json()
                ids.append(answer["assignment_id"])
                give(client, assignment_id=ids[-1])
                if len(ids) % 2:
                    give(client, experiment=key, unit=unit)
        assert ids
        return ids

    def rewarded(self, key: str, n: int) -> None:
        """All of them are in the totals, each with its score; what had none is pending."""
        status = self.server.wait_no_lag(key)
        assert sum(row["rewards"] for row in status["variants"]) == n
        assert {row["mean"] for row in status["variants"] if row["rewards"]} == {1.0}

    def check(self, name: str) -> dict[str, Any]:
        """What `/ready` says of one part; the answer has to be 200."""
        with self.server.client() as client:
            answer = client.get("/ready")
        assert answer.status_code == 200, answer.text
        return next(check for check in answer.json()["checks"] if check["name"].startswith(name))


def give(client: httpx2.Client, **address: str) -> None:
    answer = client.post("/feedback", json=address | {"signal": "score", "value": 1.0})
    assert answer.status_code == 202, answer.text


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wald-test-") as name:  # pytest's own is closed to PostgreSQL
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="module")
def clocks(folder: Path) -> ShiftedClocks:
    return ShiftedClocks(folder)


@pytest.fixture(scope="module")
def running(folder: Path, clocks: ShiftedClocks) -> Iterator[Running]:
    with up(folder / "data", environment=clocks.environment) as server:
        yield Running(server, clocks)


@pytest.fixture(autouse=True)
def right_clocks(clocks: ShiftedClocks) -> Iterator[None]:
    yield
    clocks.shift(0)


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
def test_all_that_is_acknowledged_counts_when_all_clocks_jump_and_come_back(
    running: Running, ahead_s
) -> None:
    key = f"jump{ahead_s}"
    running.start(key)
    ids = running.load(key, "before", 1)
    running.clocks.shift(ahead_s)
    ids += running.load(key, "jumped", 5)
    wait_until(lambda: not running.check("clock")["ok"])
    assert "3,600" in running.check("clock")["detail"]
    with running.server.client() as client:
        assert 'wald_clock_skew_seconds{clock="postgres"}' in client.get("/metrics").text
    running.clocks.shift(0)
    ids += running.load(key, "back", 1)
    running.rewarded(key, len(ids))
    wait_until(lambda: running.check("clock")["ok"])
    with psycopg.connect(running.server.part("worker")[0].environ()["WALD_DATABASE_URL"]) as connection:
        silent = connection.execute("SELECT count(*) FROM assignments WHERE outcome = 2").fetchone()
    assert silent == (0,), "the probe, which nobody scored, was resolved before its horizon"


@pytest.mark.parametrize("kind", ["serve", "worker", "postgres", "valkey"])
def test_all_that_is_acknowledged_counts_when_one_clock_jumps(running: Running, kind) -> None:
    running.start(f"one-{kind}")
    ids = running.load(f"one-{kind}", "before", 0.5)
    running.clocks.shift(HOUR_S, kind)
    ids += running.load(f"one-{kind}", "jumped", 1.5)
    running.clocks.shift(0)
    ids += running.load(f"one-{kind}", "back", 0.5)
    running.rewarded(f"one-{kind}", len(ids))


def test_a_worker_killed_while_clocks_were_ahead_leaves_no_shard_behind(running: Running) -> None:
    running.start("killed")
    running.clocks.shift(HOUR_S)
    ids = running.load("killed", "jumped", 1)
    running.server.part("worker")[0].send_signal(signal.SIGKILL)
    running.clocks.shift(0)
    ids += running.load("killed", "back", 0.5)
    running.rewarded("killed", len(ids))
    with psycopg.connect(running.server.part("worker")[0].environ()["WALD_DATABASE_URL"]) as connection:
        (left_s,) = connection.execute(
            "SELECT extract(epoch FROM max(lease_until) - now())::float FROM stream_positions"
        ).fetchone()
    assert left_s < 11


@pytest.mark.long
def test_feedback_is_taken_and_counted_after_restarts_with_clocks_that_were_set(
    folder: Path, running: Running
) -> None:
    """The last test: it ends the system that the others share."""
    running.start("restart", reward=REWARD | {"horizon_s": HOUR_S - 600})
    ids = running.load("restart", "before", 0.5)
    with running.server.client() as client:
        heard = client.get("/assign?experiment=restart&unit=u").json()["assignment_id"]
        named = client.get("/assign?experiment=restart&unit=v").json()["assignment_id"]
    running.server.process.terminate()
    running.server.process.wait(60)
    for ahead_s in (-HOUR_S, HOUR_S):
        running.clocks.shift(ahead_s)
        with up(folder / "data", environment=running.clocks.environment) as server, server.client() as client:
            again = Running(server, running.clocks)
            if heard not in ids:
                give(client, assignment_id=heard)
                give(client, experiment="restart", unit="v")
                ids += [heard, named]
            ids += again.load("restart", f"set {ahead_s}", 0.5)
            again.rewarded("restart", len(ids))
            running.clocks.shift(0)
            ids += again.load("restart", f"back {ahead_s}", 1.5)
            again.rewarded("restart", len(ids))
