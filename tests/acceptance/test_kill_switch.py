"""The kill switch on a whole Wald: the control everywhere, whichever engine is away, hung, full or empty."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx2
import psutil
import psycopg
import pytest
from redis import Redis

from tests.support.polling import wait_until
from tests.support.server import Up, up

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("kills") / "data", workers=3) as running:
        yield running


def answer(client: httpx2.Client, key: str = "answers", unit: str = "u") -> tuple[str, str]:
    """Variant and reason, from the server that this client is connected to."""
    one = client.get("/assign", params={"experiment": key, "unit": unit})
    assert one.status_code == 200, one.text
    return one.json()["variant"], one.json()["reason"]


def answers(server: Up, n: int = 16, key: str = "answers") -> set[tuple[str, str]]:
    """Variants and reasons, from all servers."""
    found = set()
    for number in range(n):
        with server.client() as client:
            found.add(answer(client, key, str(number)))
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
        wait_until(is_served, "both servers serve")
        assert client.post("/experiments/nobody/kill", json={"reason": "x"}).status_code == 404
        refused = client.post("/experiments/answers/kill", json={"reason": ""})
        assert refused.status_code == 400
        assert "reason" in refused.text

        assert kill(client) == {"experiment": "answers", "killed": True, "applied": True, "recorded": True}
        wait_until(is_killed, "killed by both engines")
        assert kill(client)["killed"], "twice is as good as once"
        assert client.get("/experiments/answers").json()["killed"]

        # Recorded, it survives a Valkey that lost everything.
        with Redis.from_url(server.part("worker")[0].environ()["WALD_VALKEY_URL"]) as valkey:
            valkey.flushall()
            wait_until(lambda: bool(valkey.exists("wald:{registry}:experiments")), "all is published again")
        wait_until(is_killed, "still killed")
        assert revive(client) == 200
        wait_until(is_served, "served again")

        wald = [sys.executable, "-m", "app.cli"]
        options = ["answers", "--reason", "by hand", "--url", server.url, "--key", server.key]
        for command, condition in (("kill", is_killed), ("revive", is_served)):
            done = subprocess.run([*wald, command, *options], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            wait_until(condition, command)

        # With a PostgreSQL that does not answer it is in force all the same, and recorded afterwards.
        engine = server.part("postgres")[0]
        processes = [engine, *engine.children(recursive=True)]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            made = kill(client)
            assert (made["applied"], made["recorded"]) == (True, False)
            wait_until(is_killed, "killed without PostgreSQL")
            assert revive(client) == 503, "what is not forgotten everywhere would come back"
            # Valkey loses it before PostgreSQL could keep it: the servers remember.
            with Redis.from_url(server.part("worker")[0].environ()["WALD_VALKEY_URL"]) as valkey:
                valkey.flushall()
                wait_until(
                    lambda: bool(valkey.hexists("wald:{registry}:killed", "answers")), "it is put back"
                )
            assert is_killed()
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)
        wait_until(lambda: bool(client.get("/experiments/answers").json().get("killed")), "recorded")
        wait_until(is_killed, "the kill stands")
        wait_until(lambda: revive(client) == 200, "revived")
        wait_until(is_served, "served again")


def define(server: Up, key: str) -> None:
    """An experiment that gives everyone v2, on all servers."""
    definition = {
        "key": key,
        "variants": [{"key": "v1", "control": True}, {"key": "v2"}],
        "policy": {"kind": "fixed", "weights": {"v1": 0, "v2": 1}},
    }
    with server.client() as client:
        client.post("/experiments", json=definition).raise_for_status()
        client.post(f"/experiments/{key}/start").raise_for_status()
    wait_until(lambda: answers(server, key=key) == SERVED, "all servers serve")


def switch(client: httpx2.Client, key: str, way: str) -> httpx2.Response:
    return client.post(f"/experiments/{key}/{way}", json={"reason": "a test"}, timeout=6)


@contextmanager
def hung(server: Up, *engines: str) -> Iterator[None]:
    """Engines that accept connections and answer nothing."""
    processes = [
        process
        for engine in engines
        for parent in server.part(engine)
        for process in (parent, *parent.children(recursive=True))
    ]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@contextmanager
def full(server: Up) -> Iterator[None]:
    """A Valkey that refuses whatever needs memory, and answers all else."""
    with Redis.from_url(server.part("worker")[0].environ()["WALD_VALKEY_URL"]) as valkey:
        before = valkey.config_get("maxmemory")["maxmemory"]
        valkey.config_set("maxmemory", 1)
        try:
            yield
        finally:
            valkey.config_set("maxmemory", before)


def recorded_kills(server: Up, key: str) -> list[bool]:
    """For each kill that is kept, whether it has ended."""
    statement = """SELECT ended_at IS NOT NULL FROM kills JOIN experiments ON experiments.id = experiment_id
                   WHERE key = %s ORDER BY kills.id"""
    with psycopg.connect(server.part("worker")[0].environ()["WALD_DATABASE_URL"]) as connection:
        return [row[0] for row in connection.execute(statement, [key])]


@pytest.mark.parametrize("trouble", ["hung", "full"])
def test_a_kill_while_valkey_is_hung_or_full_is_in_force_here_at_once_and_soon_everywhere(
    server: Up, trouble: str
) -> None:
    define(server, trouble)
    with server.client() as client:
        assert answer(client, trouble) == ("v2", "SPLIT")
        with hung(server, "valkey-server") if trouble == "hung" else full(server):
            for _ in range(2):  # twice is as good as once
                made = switch(client, trouble, "kill")
                assert made.json() == {
                    "experiment": trouble, "killed": True, "applied": True, "recorded": True,
                }  # fmt: skip
                assert answer(client, trouble) == ("v1", "DISABLED"), "by the very server that answered"
            wait_until(lambda: answers(server, key=trouble) == KILLED, "everywhere, by PostgreSQL")
            assert switch(client, "nothing-like-it", "kill").status_code == 404
            assert switch(client, "nothing-like-it", "revive").status_code == 404

            # A server that starts meanwhile knows it too.
            restarted = server.part("serve")[0]
            restarted.kill()
            restarted.wait()
            wait_until(lambda: len(server.part("serve")) == 3, "the server is back")
            wait_until(lambda: answers(server, key=trouble) == KILLED, "also from the server that is back")

            for _ in range(2):
                with server.client() as other:
                    assert switch(other, trouble, "revive").json()["killed"] is False
                    assert answer(other, trouble) == ("v2", "SPLIT")
            wait_until(lambda: answers(server, key=trouble) == SERVED, "revived everywhere, by PostgreSQL")
            with server.client() as other:
                assert switch(other, trouble, "kill").json()["recorded"]
            wait_until(lambda: answers(server, key=trouble) == KILLED, "killed again")
        server.wait_published()
        wait_until(lambda: answers(server, key=trouble) == KILLED, "killed when Valkey is back")
        assert recorded_kills(server, trouble) == [True, False], "each kill once"
        wait_until(lambda: switch(client, trouble, "revive").status_code == 200, "revived")
        wait_until(lambda: answers(server, key=trouble) == SERVED, "served again")


def test_a_kill_while_both_engines_hang_is_in_force_here_and_made_up_for(server: Up) -> None:
    define(server, "both")
    with server.client() as client:
        assert answer(client, "both") == ("v2", "SPLIT")
        with hung(server, "valkey-server", "postgres"):
            made = switch(client, "both", "kill")
            assert made.status_code == 200, made.text
            assert made.json() == {
                "experiment": "both", "killed": True, "applied": True, "recorded": False, "servers": "this",
            }  # fmt: skip
            assert answer(client, "both") == ("v1", "DISABLED")
            assert switch(client, "both", "revive").status_code == 503, "PostgreSQL has to keep it"
            assert answer(client, "both") == ("v1", "DISABLED")
    wait_until(lambda: answers(server, key="both") == KILLED, "everywhere once the engines answer")
    wait_until(lambda: recorded_kills(server, "both") == [False], "recorded once")
    server.wait_published()
    with server.client() as client:
        wait_until(lambda: switch(client, "both", "revive").status_code == 200, "revived")
        wait_until(lambda: answers(server, key="both") == SERVED, "served again")
    assert recorded_kills(server, "both") == [True]
