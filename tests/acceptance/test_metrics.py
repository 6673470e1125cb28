"""Metrics through HTTP: from feedback about requests to a readout of users, and to what a policy reads."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest

from app.ledger.rebuild import rebuild_totals
from tests.acceptance.test_policies import assign, create, feed, kill_worker, published_status
from tests.support.server import Up, up

METRICS = [
    {
        "key": "latency",
        "measure": {"kind": "ratio", "numerator": "latency_ms", "denominator": "assignments"},
        "direction": "lower",
    },
    {"key": "failed", "measure": {"kind": "proportion", "signal": "error"}, "role": "secondary"},
    {"key": "spend", "measure": {"kind": "mean", "signal": "cost", "per_unit": "sum"}, "role": "primary"},
    {"key": "p75", "measure": {"kind": "quantile", "signal": "latency_ms", "q": 0.75}},
]
PLAN = {
    "segments": {"attribute": "device", "values": ["phone", "desktop"]},
    "covariates": ["past_spend"],
    "expected_units": 400,
}
USERS = 320


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("metrics") / "data") as running:
        yield running


@pytest.fixture
def client(server: Up) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


class User:
    """What one user is, was given, and did."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.number = number
        self.device = rng.choice(["phone"] * 8 + ["desktop", "watch"])
        self.past_spend = rng.gauss(10, 3)
        self.variant = ""
        self.latencies: list[float] = []
        self.failed: list[bool] = []
        self.spent = 0.0


@pytest.fixture(scope="module")
def users(server: Up) -> list[User]:
    """Each comes one to four times; the worker is killed midway, and half of what was said is said again."""
    rng = random.Random(20260101)
    found = [User(number, rng) for number in range(USERS)]
    events = []
    fixed = {"kind": "fixed", "weights": {"a": 0.5, "b": 0.5}}
    with server.client() as client:
        create(client, "spend", fixed, metrics=METRICS, plan=PLAN, stickiness="unit")
        for user in found:
            context = {"device": user.device, "past_spend": user.past_spend}
            for _ in range(rng.randint(1, 4)):
                given = assign(client, "spend", user.number, context)
                user.variant = given["variant"]
                latency = round(rng.uniform(100, 300) * (2 if given["variant"] == "b" else 1), 3)
                failed = rng.random() < 0.2
                cost = round(user.past_spend + rng.gauss(0, 1) + 2 * (given["variant"] == "b"), 3)
                user.latencies.append(latency)
                user.failed.append(failed)
                user.spent += cost
                about = {"assignment_id": given["assignment_id"], "source": "automated"}
                events += [
                    about | {"signal": "latency_ms", "value": latency},
                    about | {"signal": "error", "value": float(failed)},
                    about | {"signal": "cost", "value": cost},
                ]
        rng.shuffle(events)
        feed(client, events[: len(events) // 2])
        kill_worker(server)
        feed(client, events)
        server.wait_no_lag("spend")
    return found


def readout(client: httpx2.Client) -> dict[str, Any]:
    analysis: dict[str, Any] = client.get("/experiments/spend/status").json()["analysis"]
    return {metric["key"]: metric for metric in analysis["metrics"]} | {"all": analysis}


def of(users: list[User], variant: str) -> list[User]:
    return [user for user in users if user.variant == variant]


def test_every_user_counts_once(client: httpx2.Client, users: list[User]) -> None:
    found = readout(client)
    assert found["all"]["units"] == USERS
    for metric in ("spend", "failed", "latency", "p75"):
        assert [row["units"] for row in found[metric]["variants"]] == [len(of(users, v)) for v in "ab"]
    assert {finding["severity"] for finding in found["all"]["integrity"]} <= {"fine", "note"}, found["all"][
        "integrity"
    ]


def test_metrics_are_what_their_definitions_say(client: httpx2.Client, users: list[User]) -> None:
    found = readout(client)
    for index, variant in enumerate("ab"):
        mine = of(users, variant)
        latencies = [latency for user in mine for latency in user.latencies]
        requests = sum(len(user.latencies) for user in mine)
        latency = found["latency"]["variants"][index]["estimate"]
        assert latency == pytest.approx(sum(latencies) / requests, rel=0.01), "adjusted"
        failed = found["failed"]["variants"][index]["estimate"]
        assert failed == pytest.approx(np.mean([any(user.failed) for user in mine]), abs=0.02), "adjusted"
        per_user = [np.mean(user.latencies) for user in mine]
        assert found["p75"]["variants"][index]["estimate"] == pytest.approx(
            np.quantile(per_user, 0.75, method="inverted_cdf"), rel=0.011
        )
    assert found["latency"]["variants"][1]["verdict"] == "harm"
    assert found["spend"]["role"] == "primary"
    assert found["reward"]["role"] == "secondary"


def test_a_covariate_known_before_takes_variance_away(client: httpx2.Client, users: list[User]) -> None:
    spend = readout(client)["spend"]["variants"][1]
    assert 0.02 < spend["variance_reduction"] < 1
    # Number of visits and past spend both move it: the fit of all users within variants.
    totals = {v: [(user.spent, user.past_spend) for user in of(users, v)] for v in "ab"}
    centred = [np.array(rows) - np.mean(rows, axis=0) for rows in totals.values()]
    y, x = np.concatenate(centred).T
    slope = (x @ y) / (x @ x)
    adjusted = {v: np.mean(rows, axis=0) @ (1, -slope) for v, rows in totals.items()}
    assert spend["effect"] == pytest.approx(adjusted["b"] - adjusted["a"], rel=1e-6)


def test_segments_are_those_users_came_with(client: httpx2.Client, users: list[User]) -> None:
    desktop, other, phone = readout(client)["spend"]["variants"][1]["segments"]
    assert [row["segment"] for row in (desktop, other, phone)] == ["desktop", "other", "phone"]
    assert phone["effect"] > 0
    assert desktop["effect"] is None, "too few units for an interval that is valid at every look"


def test_a_policy_serves_the_best_variant_that_meets_the_constraint(
    server: Up, client: httpx2.Client, users: list[User]
) -> None:
    policy = {
        "kind": "constrained_thompson",
        "constraints": [{"metric": "cost", "at_most": 2.0}],
    }
    metrics = [{"key": "cost", "measure": {"kind": "mean", "signal": "cost"}, "direction": "lower"}]
    create(client, "constrained", policy, metrics=metrics)
    rng = random.Random(7)
    for _ in range(3):
        events = []
        for unit in range(60):
            given = assign(client, "constrained", unit)
            good = given["variant"] == "b"
            about = {"assignment_id": given["assignment_id"]}
            events += [
                about | {"signal": "thumbs_up" if rng.random() < (0.9 if good else 0.5) else "thumbs_down"},
                about | {"signal": "cost", "value": (5.0 if good else 1.0) + rng.random() / 10},
            ]
        feed(client, events)
        server.wait_no_lag("constrained")
        status = published_status(server, client, "constrained")
    shares = {row["key"]: row["allocation"] for row in status["variants"]}
    assert shares["a"] > 0.95, "b is better, and costs too much"
    assert [one["severity"] for one in status["analysis"]["integrity"]] == ["fine"], "shares moved as logged"
    best = defaultdict(float, {row["key"]: row["probability_best"] for row in status["variants"]})
    assert best["b"] > 0.9
    refused = client.post(
        "/experiments",
        json={"key": "no", "variants": [{"key": "a", "control": True}, {"key": "b"}], "policy": policy},
    )
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["field"] == "policy.constraints[0].metric"


def test_a_rebuild_agrees_bit_for_bit(server: Up, users: list[User]) -> None:
    url = server.part("worker")[0].environ()["WALD_DATABASE_URL"]
    assert asyncio.run(rebuild_totals(url)) == []
