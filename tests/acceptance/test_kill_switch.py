"""The kill switch on a whole Wald: the control everywhere, with PostgreSQL away or an emptied Valkey."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from redis import Redis

from tests.support.server import Up, up


@pytest.fixture
def server(tmp_path: Any) -> Iterator[Up]:
    with up(tmp_path / "data", workers=2) as running:
        yield running


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def answers(server: Up, n: int = 12) -> set[tuple[str, str]]:
    """Variants and reasons, from both servers."""
    found = set()
    for number in range(n):
        with server.client() as client:
            one = client.get("/assign", params={"experiment": "answers", "unit": str(number)}).json()
            found.add((one["variant"], one["reason"]))
    return found


KILLED = {("v1", "DISABLED")}
SERVED = {("v2", "SPLIT")}


def test_a_kill_serves_the_control_everywhere_whatever_is_away(server: Up) -> None:
    def is_killed() -> bool:
        return answers(server) == KILLED

    def is_served() -> bool:
        return answers(server) == SERVED

    def kill(client: httpx2.Client) -> dict[str, Any]:
        answer = client.post("/experiments/answers/kill", json={"reason": "it swears"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def revive(client: httpx2.Client) -> int:
        return client.post("/experiments/answers/revive", json={"reason": "mended"}).status_code

    with server.client() as client:
        definition = {
            "key": "answers",
            "variants": [{"key": "v1", "control": True}, {"key": "v2"}],
            "policy": {"kind": "fixed", "weights": {"v1": 0, "v2": 1}},
        }
        client.post("/experiments", json=definition).raise_for_status()
        client.post("/experiments/answers/start").raise_for_status()
        until(is_served, "both servers serve")
        assert client.post("/experiments/nobody/kill", json={"reason": "x"}).status_code == 404
        refused = client.post("/experiments/answers/kill", json={"reason": ""})
        assert refused.status_code == 400
        assert "reason" in refused.text

        assert kill(client) == {"experiment": "answers", "killed": True, "applied": True, "recorded": True}
        until(is_killed, "killed by both engines")
        assert kill(client)["killed"], "twice is as good as once"
        assert client.get("/experiments/answers").json()["killed"]

        # Recorded, it survives a Valkey that lost everything.
        with Redis.from_url(server.part("worker")[0].environ()["WALD_VALKEY_URL"]) as valkey:
            valkey.flushall()
            until(lambda: bool(valkey.exists("wald:{registry}:experiments")), "all is published again")
        until(is_killed, "still killed")
        assert revive(client) == 200
        until(is_served, "served again")

        wald = [sys.executable, "-m", "app.cli"]
        options = ["answers", "--reason", "by hand", "--url", server.url, "--key", server.key]
        for command, condition in (("kill", is_killed), ("revive", is_served)):
            done = subprocess.run([*wald, command, *options], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            until(condition, command)

        # With a PostgreSQL that does not answer it is in force all the same, and recorded afterwards.
        engine = server.part("postgres")[0]
        processes = [engine, *engine.children(recursive=True)]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            made = kill(client)
            assert (made["applied"], made["recorded"]) == (True, False)
            until(is_killed, "killed without PostgreSQL")
            assert revive(client) == 503, "what is not forgotten everywhere would come back"
            # Valkey loses it before PostgreSQL could keep it: the servers remember.
            with Redis.from_url(server.part("worker")[0].environ()["WALD_VALKEY_URL"]) as valkey:
                valkey.flushall()
                until(lambda: bool(valkey.hexists("wald:{registry}:killed", "answers")), "it is put back")
            assert is_killed()
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)
        until(lambda: bool(client.get("/experiments/answers").json().get("killed")), "recorded")
        until(is_killed, "the kill stands")
        until(lambda: revive(client) == 200, "revived")
        until(is_served, "served again")
