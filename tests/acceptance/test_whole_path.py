"""One A/A experiment through real HTTP, and the same events in this process: the readouts are equal.

That is what lets `benchmarks/whole_path.py` speak for the server when it replays hundreds of them.
"""

import csv
import io
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from app.allocation.model import VariantTotals, allocate
from app.assignment.bucketing import WHOLE
from app.experiments.metrics import Mean, Metric, Proportion
from app.experiments.policies import ThompsonPolicy
from benchmarks.whole_path import Signal, WholePath
from tests.support.server import Up, up

N = 300
DEFINITION = {
    "key": "aa",
    "variants": [{"key": "v0", "control": True}, {"key": "v1"}],
    "policy": {"kind": "thompson"},
    "reward": {"signals": {"score": 1.0}, "horizon_s": 3600},
    "metrics": [
        {"key": "solved", "measure": {"kind": "proportion", "signal": "score"}, "role": "primary"},
        {"key": "score", "measure": {"kind": "mean", "signal": "score", "cap": [0, 1]}},
    ],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("whole-path") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def told(server: Up) -> tuple[list[str], dict[str, list[float]], list[float]]:
    """The variants in order, what was said about each unit (half is revised), and propensities."""
    rng, variants, scores, propensities = random.Random(20260101), [], {}, []
    with server.client() as client:
        client.post("/experiments", json=DEFINITION).raise_for_status()
        client.post("/experiments/aa/start").raise_for_status()
        for unit in range(N):
            given = client.post("/assign", json={"unit": f"u{unit}", "experiments": ["aa"]})
            (assignment,) = given.json()["assignments"]
            variants.append(assignment["variant"])
            propensities.append(assignment["propensity"])
            scores[f"u{unit}"] = [float(rng.random() < 0.5) for _ in range(rng.choice([0, 1, 2]))]
            for value in scores[f"u{unit}"]:
                event = {"assignment_id": assignment["assignment_id"], "signal": "score", "value": value}
                client.post("/feedback", json=event).raise_for_status()
    server.wait_no_lag("aa")
    server.wait_published()
    return variants, scores, propensities


def in_process(told: tuple[list[str], dict[str, list[float]], list[float]]) -> WholePath:
    variants, scores, propensities = told
    solved = Metric(key="solved", measure=Proportion("score"), role="primary")
    score = Metric(key="score", measure=Mean("score", (0.0, 1.0)))
    path = WholePath(ThompsonPolicy(), metrics=(solved, score))
    path.expose([int(variant[1]) for variant in variants], 0, propensities)
    for look in range(2):
        said = [
            Signal(owner, values[look], look)
            for owner, values in enumerate(scores.values())
            if len(values) > look
        ]
        path.commit(said, look)
    path.allocate()
    return path


def test_the_readout_of_the_server_is_that_of_the_same_events_in_process(server: Up, told: Any) -> None:
    with server.client() as client:
        status = client.get("/experiments/aa/status").json()
    path = in_process(told)
    readout = msgspec.to_builtins(path.readout())
    assert [metric["key"] for metric in readout["metrics"]] == ["reward", "solved", "score"]
    for part in ("control", "adaptive", "units", "metrics", "leader"):
        assert status["analysis"][part] == msgspec.json.decode(msgspec.json.encode(readout[part])), part
    [split] = status["analysis"]["integrity"]
    assert (split["kind"], split["severity"]) == ("sample_ratio", "fine"), "which only the ledger can tell"
    weights = allocate(path.experiment.definition, [path.totals.get((1, k), VariantTotals()) for k in (0, 1)])
    assert [one["allocation"] for one in status["variants"]] == [weight / WHOLE for weight in weights]


def test_the_export_says_what_was_assigned_and_what_it_earned(server: Up, told: Any) -> None:
    variants, scores, _ = told
    with server.client() as client:
        answer = client.get("/experiments/aa/assignments")
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    found = {row["unit"]: (row["variant"], row["reward"]) for row in rows}
    assert len(rows) == N
    assert found == {
        unit: (variant, str(values[-1]) if values else "")
        for variant, (unit, values) in zip(variants, scores.items(), strict=True)
    }
    assert all(0 < float(row["propensity"]) <= 1 for row in rows)


def test_the_worker_keeps_the_history(server: Up, told: Any) -> None:
    with server.client() as client:
        deadline = time.monotonic() + 60
        while True:
            answer = client.get("/experiments/aa/status", params={"at": datetime.now(UTC).isoformat()})
            if (
                answer.status_code == 200
                and sum(row["assignments"] for row in answer.json()["variants"]) == N
            ):
                break
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.2)
        before = datetime.now(UTC) - timedelta(hours=1)
        assert client.get("/experiments/aa/status", params={"at": before.isoformat()}).status_code == 404
    assert answer.json()["analysis"]["units"] == N
