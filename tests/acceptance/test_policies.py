"""Every kind of policy through HTTP, from assignment to feedback and back; the worker is killed midway."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx2
import pytest
from redis import Redis

from app.ledger.rebuild import rebuild_totals
from tests.support.polling import wait_until
from tests.support.server import Up, up

VARIANTS = [{"key": "a", "control": True}, {"key": "b"}]
SUCCESS = {"a": 0.1, "b": 0.9}
N = 120
CONTEXTS = ({"device": "phone", "length": 30}, {"device": "desktop", "length": 30})
FEATURES = [
    {"type": "categorical", "name": "device", "values": ["phone", "desktop"]},
    {"type": "numeric", "name": "length", "location": 100, "scale": 100},
]
MODELLED = {"lin_ts", "lin_ts-hybrid", "lin_ucb", "logistic_ts"}
CONTEXTUAL = MODELLED | {"segmented_thompson"}

POLICIES: dict[str, dict[str, Any]] = {
    "thompson-normal": {"kind": "thompson", "posterior": "normal"},
    "thompson-gamma": {"kind": "thompson", "posterior": "gamma"},
    "optimistic_thompson": {"kind": "optimistic_thompson"},
    "top_two": {"kind": "top_two", "leader_share": 0.7},
    "ucb": {"kind": "ucb", "rounds_ahead": 1},
    "epsilon_greedy": {"kind": "epsilon_greedy", "epsilon": 0.2},
    "best_arm": {"kind": "best_arm", "delta": 0.01},
    "best_arm-tracking": {"kind": "best_arm", "rule": "track_and_stop"},
    "exp3_ix": {"kind": "exp3_ix", "eta": 0.1},
    "thompson-steps": {"kind": "thompson", "step_max": 0.5},
    "thompson-window": {"kind": "thompson", "forgetting": {"kind": "window", "window_s": 86400}},
    "ucb-discount": {
        "kind": "ucb",
        "rounds_ahead": 1,
        "forgetting": {"kind": "discount", "half_life_s": 86400},
    },
    "lin_ts": {"kind": "lin_ts", "features": FEATURES},
    "lin_ts-hybrid": {"kind": "lin_ts", "features": FEATURES, "hybrid": True},
    "lin_ucb": {"kind": "lin_ucb", "features": FEATURES},
    "logistic_ts": {"kind": "logistic_ts", "features": FEATURES},
    "segmented_thompson": {
        "kind": "segmented_thompson",
        "by": [{"attribute": "device", "values": ["phone", "desktop"]}],
    },
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


def decided_status(server: Up, client: httpx2.Client, key: str) -> dict[str, Any]:
    """Return the status once `best_arm` has stopped and servers know it."""

    def serves_alone() -> bool:
        status = client.get(f"/experiments/{key}/status").json()
        return any(row["allocation"] == 1.0 for row in status["variants"])

    wait_until(serves_alone, f"{key} has not stopped", within_s=60)
    return published_status(server, client, key)


def kill_worker(server: Up) -> None:
    for worker in server.part("worker"):
        worker.send_signal(signal.SIGKILL)


class Told(NamedTuple):
    """What the clients of one experiment were told, and said."""

    rewarded: Counter[str]
    won: Counter[str]


@pytest.fixture(scope="module")
def told(server: Up) -> dict[str, Told]:
    """Traffic of all experiments. Half of the feedback is repeated after the worker was killed."""
    rng, found = random.Random(20260101), {}
    events = []
    with server.client() as client:
        for name, policy in POLICIES.items():
            create(client, name, policy)
            one = Told(Counter(), Counter())
            for unit in range(N):
                context = CONTEXTS[unit % 2]
                given = assign(client, name, unit, context)
                success = rng.random() < success_of(name, given["variant"], context)
                one.rewarded[given["variant"]] += 1
                one.won[given["variant"]] += success
                events.append(thumb(given, success))
            found[name] = one
        rng.shuffle(events)
        feed(client, events[: len(events) // 2])
        kill_worker(server)
        feed(client, events)
        server.wait_no_lag(next(iter(POLICIES)))
    return found


def success_of(name: str, variant: str, context: dict[str, Any]) -> float:
    """On phones a is good, elsewhere b; policies that do not see the context find b good everywhere."""
    if name in CONTEXTUAL and context["device"] == "phone":
        return 1 - SUCCESS[variant]
    return SUCCESS[variant]


@pytest.mark.parametrize("name", POLICIES)
def test_totals_are_exact(client: httpx2.Client, told: dict[str, Told], name: str) -> None:
    status = client.get(f"/experiments/{name}/status").json()
    for row in status["variants"]:
        rewarded, won = told[name].rewarded[row["key"]], told[name].won[row["key"]]
        assert (row["assignments"], row["rewards"]) == (rewarded, rewarded)
        assert row["mean"] == pytest.approx(won / rewarded, abs=1e-12)


@pytest.mark.parametrize("name", sorted(POLICIES.keys() - CONTEXTUAL))
def test_what_is_rewarded_is_served_more(
    server: Up, client: httpx2.Client, told: dict[str, Told], name: str
) -> None:
    read = decided_status if name.startswith("best_arm") else published_status
    status = read(server, client, name)
    allocation = {row["key"]: row["allocation"] for row in status["variants"]}
    assert allocation["b"] > 0.6
    given = assign(client, name, N)
    assert given["propensity"] == allocation[given["variant"]]


def test_best_arm_has_decided_and_says_so(server: Up, client: httpx2.Client, told: dict[str, Told]) -> None:
    status = decided_status(server, client, "best_arm")
    found = status["best_arm"]
    assert (found["variant"], found["decided"]) == ("b", True)
    assert found["log_evidence"] >= found["log_threshold"] > 0
    assert {row["key"]: row["allocation"] for row in status["variants"]} == {"a": 0.0, "b": 1.0}
    assert assign(client, "best_arm", N)["propensity"] == 1.0
    shown = next(row for row in status["analysis"]["metrics"][0]["variants"] if row["variant"] == "b")
    assert shown["interval"][0] > 0, "it stopped by the interval that the readout shows"
    assert "The bandit has converged: b is better than a by" in status["conclusion"]
    assert "best_arm has stopped: b gets all traffic." in status["conclusion"]


def test_a_shadow_policy_is_shown_and_changes_nothing(
    server: Up, client: httpx2.Client, told: dict[str, Told]
) -> None:
    before = published_status(server, client, "ucb")
    client.patch("/experiments/ucb", json={"shadow_policy": {"kind": "top_two"}}).raise_for_status()
    status = published_status(server, client, "ucb")
    found = status["shadow_policy"]
    assert found["kind"] == "top_two"
    assert sum(found["shares"].values()) == 1
    served = {row["key"]: row["allocation"] for row in status["variants"]}
    assert found["moved"] == pytest.approx(abs(found["shares"]["a"] - served["a"]))
    assert status["epoch"] == before["epoch"]
    refused = client.patch("/experiments/ucb", json={"shadow_policy": POLICIES["lin_ts"]})
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["field"] == "shadow_policy.kind"
    client.patch("/experiments/ucb", json={"shadow_policy": None}).raise_for_status()
    assert "shadow_policy" not in client.get("/experiments/ucb/status").json()


def test_a_warm_start_serves_what_another_experiment_found(
    server: Up, client: httpx2.Client, told: dict[str, Told]
) -> None:
    policy = {"kind": "thompson", "warm_start": {"experiment": "top_two", "discount": 0.5}}
    create(client, "warm", policy)
    status = published_status(server, client, "warm")
    assert [row["rewards"] for row in status["variants"]] == [0, 0]
    assert status["variants"][1]["allocation"] > 0.6
    body = {"policy": policy | {"warm_start": {"experiment": "nobody"}}}
    refused = client.patch("/experiments/warm", json=body)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "policy.warm_start.experiment"


@pytest.mark.parametrize("name", sorted(CONTEXTUAL))
def test_what_is_rewarded_in_a_context_is_served_there(
    server: Up, client: httpx2.Client, told: dict[str, Told], name: str
) -> None:
    published_status(server, client, name)
    for context, favourite in zip(CONTEXTS, ("a", "b"), strict=True):
        given = assign(client, name, N, context)
        assert (given["propensity"] > 0.7) == (given["variant"] == favourite), context
        as_text = f"/assign?experiment={name}&unit=u&context.device={context['device']}&context.length=30"
        read = client.get(as_text).json()
        same = given["propensity"] if read["variant"] == given["variant"] else 1 - given["propensity"]
        assert read["propensity"] == same


def test_the_status_says_what_policies_have_learned_of_contexts(
    server: Up, client: httpx2.Client, told: dict[str, Told]
) -> None:
    phone, desktop, other = published_status(server, client, "segmented_thompson")["segments"]
    assert [one["segment"] for one in (phone, desktop, other)] == [
        {"device": device} for device in ("phone", "desktop", "other")
    ]
    assert phone["variants"][0]["allocation"] > 0.7 > 0.3 > desktop["variants"][0]["allocation"]
    assert sum(row["rewards"] for one in (phone, desktop) for row in one["variants"]) == N
    assert [row["rewards"] for row in other["variants"]] == [0, 0]
    status = client.get("/experiments/lin_ts/status").json()
    models = status["models"]
    assert (models["columns"], models["rewards"]) == (4, dict(told["lin_ts"].rewarded))
    assert all(1.0 < effective < 4.0 for effective in models["effective_columns"].values())
    assert 0 < models["noise_variance"] < 0.25
    assert status["learned_epochs"] == [status["epoch"]]
    assert "noise_variance" not in client.get("/experiments/logistic_ts/status").json()["models"]
    assert "segments" not in status
    assert "models" not in client.get("/experiments/ucb/status").json()


def test_a_segment_that_was_not_declared_has_shares_of_its_own(
    server: Up, client: httpx2.Client, told: dict[str, Told]
) -> None:
    published_status(server, client, "segmented_thompson")
    for context in ({}, {"device": "fridge"}, {"device": 7}, {"length": 1}):
        assert 0.2 < assign(client, "segmented_thompson", N, context)["propensity"] < 0.8, context


@pytest.mark.parametrize("name", sorted(MODELLED))
def test_contexts_that_do_not_fit_are_refused_by_name(
    client: httpx2.Client, told: dict[str, Told], name: str
) -> None:
    for feature, value in (("length", "long"), ("device", 7), ("length", True), ("device", "x" * 257)):
        body = {"unit": "u", "experiments": [name], "context": {feature: value}}
        answer = client.post("/assign", json=body)
        assert answer.status_code == 400, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["errors"][0]["field"] == f"context.{feature}"
    assert client.get(f"/assign?experiment={name}&unit=u&context.length=long").status_code == 400


def test_a_rebuild_agrees_and_a_valkey_that_lost_everything_gets_equal_bytes(
    server: Up, client: httpx2.Client, told: dict[str, Told]
) -> None:
    server.wait_no_lag("thompson-steps")  # whose every update is a step
    server.wait_published()
    environment = server.part("worker")[0].environ()
    with Redis.from_url(environment["WALD_VALKEY_URL"]) as valkey:
        before = valkey.hgetall("wald:{registry}:experiments")
        assert asyncio.run(rebuild_totals(environment["WALD_DATABASE_URL"])) == []
        valkey.flushall()
        deadline = time.monotonic() + 30
        while valkey.hgetall("wald:{registry}:experiments") != before:
            assert time.monotonic() < deadline, "what servers load did not come back as it was"
            time.sleep(0.05)
