"""The OpenAPI document says all that the server does: every status, and the form of every answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.core.engines import EmbeddedEngines
from app.core.valkey import create_client
from tests.support.serving import ADMIN_KEY, Served, ensure_keys, served

pytestmark = pytest.mark.anyio

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
CASES = 3
"""Requests per operation, each sent with and without a key."""
ENDLESS = "/changes"
KEY = {"Authorization": f"Bearer {ADMIN_KEY}", "X-API-Key": ADMIN_KEY}
DEFINITION = {
    "key": "shown",
    "variants": [{"key": "control", "control": True}, {"key": "new", "payload": {"prompt": "p"}}],
    "policy": {"kind": "fixed", "weights": {"control": 1, "new": 0}},
    "metrics": [
        {
            "key": "errors",
            "measure": {"kind": "proportion", "signal": "error", "silence": 0},
            "role": "guardrail",
            "direction": "lower",
            "margin": {"size": 0.02},
        }
    ],
}
ROLLOUT = {
    "experiment": "shown",
    "canaries": ["new"],
    "guardrails": ["errors"],
    "stages": [{"share": 0.5, "duration_s": 3_600}, {"share": 1}],
}
PARAMETERS = {"key": "shown", "rollout_id": 1, "webhook_id": 1, "number": 1, "action": "pause"}


@pytest.fixture(scope="module")
async def server(engines: EmbeddedEngines, module_database: str) -> AsyncIterator[Served]:
    async with create_client(engines.valkey_url) as valkey:
        await valkey.flushall()
    await ensure_keys(module_database, engines.valkey_url)
    async with served(module_database, engines.valkey_url) as running:
        async with running.client() as client:
            await fill(client)
        yield running


async def fill(client: httpx2.AsyncClient) -> None:
    """One of each thing, so that answers other than 404 are checked as well."""

    async def post(path: str, body: Any = None) -> Any:
        answer = await client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    await post("/experiments", DEFINITION)
    await post("/experiments/shown/start")
    given = await client.get(
        "/assign", params={"experiment": "shown", "unit": "u", "context.device": "phone"}
    )
    await post("/feedback", {"assignment_id": given.json()["assignment_id"], "signal": "error", "value": 1})
    await post("/webhooks", {"url": "https://hooks.example.com/wald"})
    await post("/rollouts", ROLLOUT)


@pytest.fixture(scope="module")
async def document(server: Served) -> dict[str, Any]:
    async with server.stranger() as client:
        found: dict[str, Any] = (await client.get("/openapi/openapi.json")).json()
        return found


def check(case: Any, headers: dict[str, str] | None) -> list[str]:
    """What is wrong with the answer to one request."""
    answer = case.call(headers=headers)
    try:
        case.validate_response(answer, checks=CHECKS)
    except (Failure, FailureGroup) as failure:
        failures = failure.exceptions if isinstance(failure, FailureGroup) else [failure]
        return [f"{case.method} {case.path} {answer.status_code}: {one}" for one in failures]
    return []


def conformance(url: str) -> list[str]:
    """Everything that is wrong with the answers to generated requests, with a key and without."""
    wrong: list[str] = []

    def send(operation: Any) -> None:
        @given(case=operation.as_strategy())
        @settings(
            max_examples=CASES,
            database=None,
            derandomize=True,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def sent(case: Any) -> None:
            wrong.extend(check(case, KEY))
            wrong.extend(check(case, None))
            for name in PARAMETERS.keys() & (case.path_parameters or {}).keys():
                case.path_parameters[name] = PARAMETERS[name]
            wrong.extend(check(case, KEY))

        sent()

    for found in schemathesis.openapi.from_url(f"{url}/openapi/openapi.json").get_all_operations():
        operation = found.ok()
        if operation.path != ENDLESS:
            send(operation)
    return wrong


async def test_generated_requests_get_documented_answers(server: Served) -> None:
    wrong = await asyncio.to_thread(conformance, server.url)
    kinds = {text.partition("Value:")[0] for text in wrong}
    assert not wrong, f"{len(wrong)} answers:\n" + "\n\n".join(sorted(kinds)[:20])
