"""Every kind of policy through HTTP, from assignment to feedback and back; the worker is killed midway."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.server import Up, up

VARIANTS = [{"key": "a", "control": True}, {"key": "b"}]
SUCCESS = {"a": 0.1, "b": 0.9}
N = 120

POLICIES: dict[str, dict[str, Any]] = {
    "thompson-normal": {"kind": "thompson", "posterior": "normal"},
    "thompson-gamma": {"kind": "thompson", "posterior": "gamma"},
    "optimistic_thompson": {"kind": "optimistic_thompson"},
    "top_two": {"kind": "top_two", "leader_share": 0.7},
    "ucb": {"kind": "ucb", "rounds_ahead": 1},
    "epsilon_greedy": {"kind": "epsilon_greedy", "epsilon": 0.2},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("policies") / "data") as running:
        yield running


@pytest.fixture
def client(server: Up) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


def create(client: httpx2.Client, key: str, policy: dict[str, Any], **fields: Any) -> None:
    body = {"key": key, "variants": VARIANTS, "policy": policy} | fields
    answer = client.post("/experiments", json=body)
    assert answer.status_code == 201, answer.text
    client.post(f"/experiments/{key}/start").raise_for_status()


def assign(client: httpx2.Client, key: str, unit: int, context: dict[str, Any] | None = None) -> Any:
    body = {"unit": f"u{unit}", "experiments": [key], "context": context or {}}
    answer = client.post("/assign", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["assignments"][0]


def feed(client: httpx2.Client, events: list[dict[str, Any]]) -> None:
    answer = client.post("/feedback", json=events)
    assert answer.json()["accepted"] == len(events), answer.text


def thumb(assignment: Any, success: bool) -> dict[str, Any]:
    signal_name = "thumbs_up" if success else "thumbs_down"
    return {"assignment_id": assignment["assignment_id"], "signal": signal_name}


def published_status(server: Up, client: httpx2.Client, key: str) -> dict[str, Any]:
    """The status once servers assign by the allocation that follows from all totals."""
    server.wait_published()
    status: dict[str, Any] = client.get(f"/experiments/{key}/status").json()
    deadline = time.monotonic() + 30
    while assign(client, key, -1)["policy_version"] != status["policy_version"]:
        assert time.monotonic() < deadline, "servers did not load the allocation"
    return status


def kill_worker(server: Up) -> None:
    for worker in server.part("worker"):
        worker.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_rewarded_is_served_more_and_totals_are_exact(
    server: Up, client: httpx2.Client, name: str
) -> None:
    create(client, name, POLICIES[name])
    rng, rewarded, won = random.Random(20260101), Counter[str](), Counter[str]()
    events = []
    for unit in range(N):
        given = assign(client, name, unit)
        success = rng.random() < SUCCESS[given["variant"]]
        rewarded[given["variant"]] += 1
        won[given["variant"]] += success
        events.append(thumb(given, success))
    feed(client, events[: N // 2])
    kill_worker(server)
    feed(client, events)  # the first half comes twice
    status = server.wait_no_lag(name)
    rows = {row["key"]: row for row in status["variants"]}
    for key in SUCCESS:
        assert (rows[key]["assignments"], rows[key]["rewards"]) == (rewarded[key], rewarded[key])
        assert rows[key]["mean"] == pytest.approx(won[key] / rewarded[key], abs=1e-12)
    status = published_status(server, client, name)
    allocation = {row["key"]: row["allocation"] for row in status["variants"]}
    assert allocation["b"] > 0.6
    given = assign(client, name, N)
    assert given["propensity"] == allocation[given["variant"]]
