"""One experiment key over months: prompts and metrics change, canaries complete or go back."""

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from app.cli.main import main
from tests.support.polling import wait_until
from tests.support.server import Up, up

KEY = "summary"
ERRORS = {
    "key": "errors",
    "measure": {"kind": "proportion", "signal": "error", "silence": 0},
    "role": "guardrail",
    "direction": "lower",
    "margin": {"size": 0.02},
}
LIKED = {"key": "liked", "measure": {"kind": "proportion", "signal": "thumbs_up"}}
PROMPTS = [
    {"key": "v1", "control": True, "payload": {"prompt": "v1"}},
    {"key": "v2", "payload": {"prompt": "v2"}},
    {"key": "v3", "payload": {"prompt": "v3"}},
]
V4 = {"key": "v4", "payload": {"prompt": "v4"}}
STAGES = [{"share": 0.5, "duration_s": 3_600}, {"share": 1}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("living") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Up) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


class Product:
    """A product that asks for variants and rates every answer."""

    def __init__(self, server: Up, client: httpx2.Client) -> None:
        self._server, self._client = server, client
        self._rng = random.Random(20261201)
        self.served: Counter[str] = Counter()

    def serve(self, n: int) -> Counter[str]:
        """Serve `n` requests, and return how often each variant was recorded."""
        given = [self._assign(index) for index in range(n)]
        answer = self._client.post(
            "/feedback",
            json=[
                {"assignment_id": one["assignment_id"], "signal": signal, "value": value}
                for one in given
                for signal, value in (("thumbs_up", float(self._rng.random() < 0.6)), ("error", 0.0))
            ],
        )
        assert answer.json()["accepted"] == 2 * n, answer.text
        counts = Counter(one["variant"] for one in given)
        self.served += counts
        self._server.wait_no_lag(KEY)
        return counts

    def _assign(self, index: int) -> Any:
        unit = f"u{index}-{self._rng.random()}"
        answer = self._client.get("/assign", params={"experiment": KEY, "unit": unit})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def status(self) -> dict[str, Any]:
        """Return the status, after checking that no assignment was lost or moved to another variant."""
        status = self._client.get(f"/experiments/{KEY}/status").json()
        counted = {row["key"]: row["assignments"] for row in status["variants"]}
        assert counted == {row["key"]: self.served[row["key"]] for row in status["variants"]}
        return status


@pytest.fixture(scope="module")
def product(server: Up, client: httpx2.Client) -> Product:
    definition = {
        "key": KEY,
        "variants": PROMPTS,
        "policy": {"kind": "thompson", "exploration_floor": 0.3},
        "reward": {"signals": {"thumbs_up": 1.0}},
        "metrics": [ERRORS],
    }
    assert client.post("/experiments", json=definition).status_code == 201
    client.post(f"/experiments/{KEY}/start").raise_for_status()
    return Product(server, client)


def change(client: httpx2.Client, **fields: Any) -> dict[str, Any]:
    answer = client.patch(f"/experiments/{KEY}", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(client: httpx2.Client, status: int, **fields: Any) -> str:
    answer = client.patch(f"/experiments/{KEY}", json=fields)
    assert answer.status_code == status, answer.text
    return answer.json()["detail"]


def roll_out(client: httpx2.Client, canary: str) -> str:
    asked = {"experiment": KEY, "canaries": [canary], "guardrails": ["errors"], "stages": STAGES}
    answer = client.post("/rollouts", json=asked)
    assert answer.status_code == 201, answer.text
    return f"/rollouts/{answer.json()['id']}"


def act(client: httpx2.Client, rollout: str, action: str) -> dict[str, Any]:
    answer = client.post(f"{rollout}/{action}", json={"reason": "planned"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def add_a_metric_while_the_worker_dies(server: Up, client: httpx2.Client, product: Product) -> None:
    """Add a metric, kill the worker, and check what people see of the metric afterwards."""
    removed = refusal(client, 409, metrics=[ERRORS, LIKED | {"role": "primary"}])
    assert "reopen_plan" in removed
    answer = change(client, metrics=[ERRORS, LIKED], reason="we want to know")
    assert isinstance(answer["warnings"], list)
    assert change(client, metrics=[ERRORS, LIKED])["revision"] == answer["revision"]
    for worker in server.part("worker"):
        worker.send_signal(signal.SIGKILL)
    wait_until(lambda: server.part("worker"), within_s=60)
    product.serve(40)
    wait_until(lambda: metric_history(client)["backfill"]["finished_at"] is not None, within_s=60)
    (added,) = metric_history(client)["changes"]
    assert (added["added"], added["reason"], added["reopened"]) == (["liked"], "we want to know", False)
    status = product.status()
    figures = {row["key"]: row for row in status["descriptive"]}
    assert figures["liked"]["exploratory"] is True
    assert figures["errors"]["exploratory"] is False
    for row in figures["liked"]["variants"]:
        assert row["n"] == product.served[row["variant"]], "every unit is measured, old and new"
    analysed = {row["key"]: row for row in status["analysis"]["metrics"]}
    assert analysed["liked"]["exploratory"] is True
    page = client.get(f"/dashboard/experiments/{KEY}").text
    assert "exploratory" in page
    shown = CliRunner().invoke(main, ["status", KEY, "--url", server.url, "--key", server.key])
    assert "liked (exploratory)" in shown.output


def metric_history(client: httpx2.Client) -> dict[str, Any]:
    return client.get(f"/experiments/{KEY}/metrics").json()


def rebuilt(server: Up) -> int:
    """Return the exit status of `wald rebuild` on the engines of the server."""
    environment = server.part("worker")[0].environ()
    urls = (
        *("--database-url", environment["WALD_DATABASE_URL"]),
        *("--valkey-url", environment["WALD_VALKEY_URL"]),
    )
    return subprocess.run([sys.executable, "-m", "app.cli", "rebuild", *urls], check=False).returncode


def test_an_experiment_lives_through_releases_under_one_key(
    server: Up, client: httpx2.Client, product: Product
) -> None:
    product.serve(150)
    first = product.status()
    assert [row["key"] for row in first["variants"]] == ["v1", "v2", "v3"]

    # A fourth prompt joins; the others keep what they have shown.
    added = change(client, variants=[*PROMPTS, V4])
    assert added["epoch"] == first["epoch"] + 1
    assert change(client, variants=[*PROMPTS, V4])["epoch"] == added["epoch"], (
        "a repeated call changes nothing"
    )
    assert product.serve(200)["v4"] > 0
    rows = {row["key"]: row for row in product.status()["variants"]}
    assert rows["v4"]["allocation"] >= 0.3 / 4 - 1e-9
    before = {row["key"]: row["rewards"] for row in first["variants"]}
    assert all(rows[key]["rewards"] >= rewards for key, rewards in before.items()), "totals go on"

    # The second prompt is retired while the worker is dead: no more units, its data stays.
    for worker in server.part("worker"):
        worker.send_signal(signal.SIGKILL)
    retired = [PROMPTS[0], PROMPTS[1] | {"retired": True}, PROMPTS[2], V4]
    change(client, variants=retired)
    wait_until(lambda: server.part("worker"), within_s=60)
    server.wait_published()
    assert product.serve(100)["v2"] == 0
    status = product.status()
    rows = {row["key"]: row for row in status["variants"]}
    assert rows["v2"]["allocation"] == 0
    assert rows["v2"]["assignments"] > 0
    assert rows["v2"]["retired"] is True
    assert rows["v2"]["probability_best"] is None
    shown = CliRunner().invoke(main, ["status", KEY, "--url", server.url, "--key", server.key])
    assert "v2 (retired)" in shown.output

    add_a_metric_while_the_worker_dies(server, client, product)

    # A canary completes and becomes the control; then the next one is rolled back.
    fixed = {"kind": "fixed", "weights": {"v1": 1, "v3": 0, "v4": 0}}
    change(client, policy=fixed)
    canary = roll_out(client, "v4")
    server.wait_published()
    assert set(product.serve(60)) <= {"v1", "v4"}
    weights = fixed["weights"] | {"v5": 0}
    detail = refusal(
        client, 409, variants=[*retired, {"key": "v5"}], policy={"kind": "fixed", "weights": weights}
    )
    assert "while a rollout is in motion" in detail
    assert act(client, canary, "advance")["state"]["kind"] == "completed"
    server.wait_published()
    assert set(product.serve(20)) == {"v4"}

    promoted = [
        {"key": "v1", "payload": {"prompt": "v1"}, "retired": True},
        retired[1],
        PROMPTS[2] | {"retired": True},
        V4 | {"control": True},
        {"key": "v5", "payload": {"prompt": "v5"}},
    ]
    change(client, variants=promoted, policy={"kind": "fixed", "weights": {"v4": 1, "v5": 0}})
    server.wait_published()
    assert set(product.serve(20)) == {"v4"}
    status = product.status()
    assert status["analysis"]["control"] == "v4"
    following = roll_out(client, "v5")
    server.wait_published()
    assert set(product.serve(60)) == {"v4", "v5"}
    assert act(client, following, "rollback")["state"]["kind"] == "rolled_back"
    server.wait_published()
    assert set(product.serve(20)) == {"v4"}
    product.status()

    versions = client.get(f"/experiments/{KEY}/versions").json()
    assert [one["event"] for one in versions["promotions"]][:2] == ["started", "completed"]
    assert [one["key"] for one in versions["versions"] if one["standard"]] == ["v4"]
    exported = client.get(f"/experiments/{KEY}/assignments", headers={"Accept": "text/csv"})
    assert exported.status_code == 200, exported.text
    assert exported.text.count("\n") == product.served.total() + 1
    assert rebuilt(server) == 0, "all totals equal those of a rebuild, bit for bit"
