"""One story on a whole Wald: shadow, calibrated, promoted, feeding, drifted, and back in shadow."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.judging.conftest import decision
from tests.support.model_server import ModelServer, model_server
from tests.support.polling import eventually
from tests.support.server import Up, up

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(400)]
KEY, SIGNAL = "answers", "judge.right"
DEFINITION = {
    "key": KEY,
    "variants": [{"key": "control", "control": True}, {"key": "short"}],
    "policy": {"kind": "fixed", "weights": {"control": 0.5, "short": 0.5}},
    "reward": {"signals": {SIGNAL: 1.0}, "horizon_s": 3_600},
    "metrics": [
        {
            "key": "quality",
            "measure": {"kind": "mean", "signal": SIGNAL, "cap": [0, 1]},
            "role": "guardrail",
            "margin": {"size": 0.1},
        }
    ],
}
PATIENCE_S = 120.0


class Product:
    """An application whose answers are good for two of three units, and its reviewers."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http
        self.n = 0

    async def call(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        answer = await self.http.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def serve(self, n: int) -> range:
        """Assign `n` new units and send what they were shown."""
        numbers = range(self.n, self.n + n)
        self.n += n
        responses = []
        for number in numbers:
            assigned = await self.call("GET", f"/assign?experiment={KEY}&unit=u{number}")
            responses.append(
                {
                    "assignment_id": assigned["assignment_id"],
                    "response_id": f"r{number}",
                    "prompt": "What is it?",
                    "response": f"{_truth(number)} answer {number}",
                }
            )
        receipt = await self.call("POST", "/responses", responses, 202)
        assert receipt["accepted"] == n
        return numbers

    async def label(self, numbers: range) -> None:
        """Import the labels of people about these responses, once they are in the sample."""
        lines = [
            {"response_id": f"r{number}", "label": 2 if _truth(number) == "good" else 1, "reviewer": "ann"}
            for number in numbers
        ]
        body = "\n".join(map(json.dumps, lines))
        overview = f"/experiments/{KEY}/reviews"

        async def drawn() -> bool:
            stored = await self.http.get(f"{overview}/export?content=items&format=jsonl")
            return stored.text.count("\n") >= len(numbers)

        await eventually(drawn, "the sample is not drawn", within_s=PATIENCE_S)
        headers = {"Content-Type": "application/x-ndjson"}
        answer = await self.http.post(f"{overview}/import", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["imported"] == len(numbers), answer.text
        assert answer.json()["outside_sample"] == 0

    async def judged(self, n: int) -> dict[str, Any]:
        """Wait until so many responses are judged, and return the rule."""

        async def rule() -> dict[str, Any] | None:
            (view,) = (await self.call("GET", f"/experiments/{KEY}/judging"))["rules"]
            return view if view["funnel"]["judged"] == n else None

        return await eventually(rule, f"{n} responses are not judged", within_s=PATIENCE_S)

    async def rewards(self) -> int:
        status = await self.call("GET", f"/experiments/{KEY}/status")
        return sum(variant["rewards"] for variant in status["variants"])

    async def trust(self) -> str:
        (version,) = (await self.call("GET", "/judges/right"))["versions"]
        return version["trust"]


def _truth(number: int) -> str:
    return "bad" if number % 3 == 0 else "good"


def _seen(state: Any) -> float:
    return 0.9 if "good answer" in json.dumps(state) else 0.1


@pytest.fixture
async def models(anyio_backend: str) -> AsyncIterator[ModelServer]:
    async with model_server() as running:
        running.probability = _seen
        yield running


@pytest.fixture
async def running(folder: Path) -> AsyncIterator[Up]:
    with up(folder) as running:
        yield running


async def test_a_judge_earns_trust_feeds_and_loses_it_again(running: Up, models: ModelServer):
    async with running.async_client() as http:
        http.timeout = PATIENCE_S
        product = Product(http)
        await product.call("POST", "/experiments", DEFINITION, 201)
        await product.call("POST", f"/experiments/{KEY}/start")
        labels = {"1": "bad", "2": "good"}
        await product.call("PUT", f"/experiments/{KEY}/review", {"rate": 1.0, "labels": labels})
        patient = {"price": {"input_usd": 1.0, "output_usd": 0.0}, "timeout_s": 60}
        version = await product.call("POST", "/judges", decision(models, operation=patient), 201)
        await product.call("POST", f"/experiments/{KEY}/judging", {"judge": "right", "rate": 1}, 201)
        path = f"/judges/right/versions/{version['version'][:12]}"

        # In shadow: scored and shown, but nothing counts, and a client can't pass as the judge.
        first = await product.serve(240)
        await product.judged(240)
        report = await product.call("GET", path)
        assert report["version"]["trust"] == "shadow"
        assert report["effects"][0]["variants"][0]["judged"] > 0
        assert await product.rewards() == 0
        forged = {"experiment": KEY, "unit": "u1", "signal": SIGNAL, "value": 1, "source": "automated"}
        refused = await product.call("POST", "/feedback", forged, 403)
        assert "promoted judges" in refused["detail"]
        refused = await product.call("POST", f"{path}/promote", status=409)
        assert refused["errors"]

        # Calibrated by people, then promoted.
        await product.label(first)
        promoted = await product.call("POST", f"{path}/promote")
        assert (promoted["trust"], promoted["signal"]) == ("promoted", SIGNAL)

        # It feeds the reward and the guardrail of a rollout, each score once, across kill -9.
        plan = {
            "experiment": KEY,
            "canaries": ["short"],
            "guardrails": ["quality"],
            "stages": [{"share": 0.5, "duration_s": 3_600}, {"share": 1.0}],
        }
        rollout = await product.call("POST", "/rollouts", plan, 201)
        models.latency_s = 0.3
        second = await product.serve(200)
        await eventually(lambda: models.in_flight > 0, within_s=PATIENCE_S)
        for process in running.part("worker"):
            process.kill()
        models.latency_s = 0.0
        await product.judged(440)

        async def fed() -> bool:
            return await product.rewards() == 200

        await eventually(fed, "200 scores are not 200 rewards", within_s=PATIENCE_S)

        async def guarded() -> bool:
            looked = (await product.call("GET", f"/rollouts/{rollout['id']}"))["looked"]
            readings = looked["reading"]["guardrails"] if looked else []
            return any(reading["canary_units"] > 0 for reading in readings)

        await eventually(guarded, "the guardrail sees no scores", within_s=PATIENCE_S)

        # The model behind it changes: agreement falls, and it goes back to shadow by itself.
        models.probability = lambda state: 1 - _seen(state)
        third = await product.serve(60)
        await product.judged(500)
        await product.label(second)
        await product.label(third)

        async def in_shadow() -> bool:
            return await product.trust() == "shadow"

        await eventually(in_shadow, "the drift was not noticed", within_s=PATIENCE_S)
        history = (await product.call("GET", path))["history"]
        assert [change["event"] for change in history[:1]] == ["drift"]
        before = await product.rewards()
        await product.serve(20)
        await product.judged(520)
        assert await product.rewards() == before
