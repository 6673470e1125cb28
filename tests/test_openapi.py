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
    """Create one object of each kind, so that answers other than 404 are checked too."""

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
    """Return what is wrong with the answer to one request."""
    answer = case.call(headers=headers)
    try:
        case.validate_response(answer, checks=CHECKS)
    except (Failure, FailureGroup) as failure:
        failures = failure.exceptions if isinstance(failure, FailureGroup) else [failure]
        return [f"{case.method} {case.path} {answer.status_code}: {one}" for one in failures]
    return []


def conformance(url: str) -> list[str]:
    """Return all problems with the answers to generated requests, with and without a key."""
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


def test_the_document_names_both_key_headers_optional_bodies_and_hidden_parameters(
    document: dict[str, Any],
):
    schemes = document["components"]["securitySchemes"].values()
    assert {(one["type"], one.get("name") or one["scheme"]) for one in schemes} == {
        ("http", "bearer"),
        ("apiKey", "X-API-Key"),
    }
    assert len(document["security"]) == 2
    paths = document["paths"]
    (context,) = (one for one in paths["/assign"]["get"]["parameters"] if one["name"].startswith("context."))
    assert context["explode"]
    optional = {
        (path, method)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if operation.get("requestBody", {}).get("required") is False
    }
    assert optional == {
        ("/experiments/{key}/stop", "post"),
        ("/reviews/claim", "post"),
        ("/webhooks/{webhook_id}/rotate", "post"),
        ("/rollouts/{rollout_id}/{action}", "post"),
    }
    assert {"baseline", "units"} <= {one["name"] for one in paths["/power"]["get"]["parameters"]}
    assert list(paths["/changes"]["get"]["responses"]["200"]["content"]) == ["text/event-stream"]
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["description"]
            keyed = {} not in operation.get("security", document["security"])
            assert not keyed or {"400", "401", "403", "429", "503"} <= operation["responses"].keys(), path


async def test_a_refusal_without_a_key_and_an_endless_stream_are_as_documented(
    server: Served, document: dict[str, Any]
):
    schema = schemathesis.openapi.from_dict(document)
    operation = schema["/changes"]["GET"]
    async with server.stranger() as client:
        refused = await client.get("/changes")
    assert refused.status_code == 401
    assert str(refused.status_code) in operation.definition.raw["responses"]
    async with server.client() as client, client.stream("GET", "/changes") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
