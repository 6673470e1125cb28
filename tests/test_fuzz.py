"""Whatever documented operations are sent, the answer is theirs or a problem, never an unexpected error."""

import json
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from litestar.datastructures import State

from app.server import _framework
from tests.test_server import assert_problem, client

pytestmark = pytest.mark.anyio
__all__ = ["client"]  # the fixture

ENDLESS = "/changes"
DEPENDENCIES = (
    "changes",
    "access",
    "assigner",
    "experiment_service",
    "feedback",
    "analysis",
    "allocation_service",
    "kill_switch",
    "rollout_service",
    "webhook_service",
    "evaluation",
    "planning",
    "readiness",
    "response_service",
    "response_reader",
)
DOCUMENT = _framework(State(), **dict.fromkeys(DEPENDENCIES)).openapi_schema.to_schema()
OUR_KEY_ID = 1  # not to be revoked
Schema = dict[str, Any]

TEXTS = st.text(max_size=8) | st.sampled_from(
    ["a", "b", "fuzzed-1", "score", "\0", "x" * 300, "a\n", "../..", "2026-01-01T00:00:00Z", "A" * 80]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, 5e-324])
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
SIMPLE: dict[str, st.SearchStrategy[Any]] = {
    "integer": st.integers(-1, 1_000),
    "number": st.floats(-1, 2),
    "boolean": st.booleans(),
    "string": TEXTS,
}
VALID = {
    "variants": [{"key": "a", "control": True}, {"key": "b"}],
    "reward": {"signals": {"score": 0.0}},
}
EXPERIMENTS = st.integers(0, 50).map("fuzzed-{}".format)


def values(schema: Schema, schemas: Schema) -> st.SearchStrategy[Any]:
    """Build values that match `schema`, except for some part that is arbitrary."""
    return st.one_of(_fitting(schema, schemas), _fitting(schema, schemas), JSON)


def _fitting(schema: Schema, schemas: Schema) -> st.SearchStrategy[Any]:
    match schema:
        case {"$ref": reference}:
            return st.deferred(lambda: _fitting(schemas[reference.rpartition("/")[2]], schemas))
        case {"enum": allowed}:
            return st.sampled_from(allowed)
        case {"const": constant}:
            return st.just(constant)
        case {"oneOf": choices} | {"anyOf": choices}:
            return st.one_of([_fitting(choice, schemas) for choice in choices])
        case {"type": "object", "properties": properties}:
            required = schema["required"]
            parts = {name: values(part, schemas) for name, part in properties.items()}
            return st.fixed_dictionaries(
                {name: part for name, part in parts.items() if name in required},
                optional={name: part for name, part in parts.items() if name not in required},
            )
        case {"type": "null"}:
            return st.none()
        case {"type": "object"}:
            return st.dictionaries(TEXTS, values(schema.get("additionalProperties", {}), schemas), max_size=3)
        case {"type": "array"}:
            return st.lists(values(schema.get("items", {}), schemas), max_size=3)
        case _:
            return SIMPLE.get(schema.get("type", ""), JSON)


@st.composite
def requests(draw: st.DrawFn, document: Schema) -> tuple[str, str, dict[str, Any]]:
    """Build method, address and content of a request to an operation of an OpenAPI document."""
    schemas = document["components"]["schemas"]
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        if path != ENDLESS
        for method, operation in methods.items()
    ]
    method, path, operation = draw(st.sampled_from(operations))
    url, query = path, {}
    for parameter in operation.get("parameters", []):
        allowed = values(parameter["schema"], schemas).filter(lambda value: value != OUR_KEY_ID)
        value = draw(EXPERIMENTS | allowed if parameter["name"] == "key" else allowed)
        if parameter["in"] == "path":
            url = url.replace(f"{{{parameter['name']}}}", quote(str(value), safe="") or "-")
        elif draw(st.booleans()) or parameter["required"]:
            query[parameter["name"]] = str(value)
    rest: dict[str, Any] = {"params": query} if query else {}
    if "requestBody" in operation:
        body = values(operation["requestBody"]["content"]["application/json"]["schema"], schemas)
    else:
        return method, url, rest
    headers = {"Content-Type": "application/json"}
    return method, url, rest | {"content": json.dumps(draw(body)), "headers": headers}


@given(request=requests(DOCUMENT))
@settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
async def test_every_documented_operation_answers_anything_with_a_result_or_a_problem(
    client: httpx2.AsyncClient, request: tuple[str, str, dict[str, Any]]
) -> None:
    method, url, rest = request
    if "/fuzzed-" in url:
        await client.post("/experiments", json=VALID | {"key": url.split("/")[2]})
    answer = await client.request(method, url, **rest)
    event(f"{method} {url.split('/')[1::2]} {answer.status_code}")
    if answer.status_code >= 400:
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        if not (url in {"/feedback", "/responses"} and "rejected" in answer.json()):
            assert_problem(answer, answer.status_code)
