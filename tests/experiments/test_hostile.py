"""Whatever is put in place of a part of a definition: it is stored and readable, or refused by field."""

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from app.experiments.routes import ROUTES
from tests.support.api import MASTER_KEY, api, bearer, keyring_of_scopes

pytestmark = pytest.mark.anyio

VALID = {
    "key": "hostile",
    "description": "why",
    "variants": [{"key": "control", "control": True, "payload": {"a": [1, "b"]}}, {"key": "short"}],
    "unit": "user",
    "stickiness": "unit",
    "policy": {"kind": "fixed", "weights": {"control": 0.5, "short": 0.5}},
    "reward": {
        "signals": {"score": 1.0},
        "combine": "last",
        "range": [0.0, 1.0],
        "horizon_s": 60.0,
        "silence": 0.0,
    },
    "targeting": [{"attribute": "age", "operator": "greater", "values": [17.0]}],
    "overrides": {"me": "short"},
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, 10**400, 1e308, -1e308, 5e-324, -0.0])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(
        ["", "\0", "control", "short", "fixed", "thompson", "in", "exists", "x" * 129, "a\n", "🦜"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_numbers = itertools.count()


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every part of a JSON value but the whole."""
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [place for name, child in children for place in [(*path, name), *places(child, (*path, name))]]


def with_part(value: Any, path: tuple[str | int, ...], part: Any) -> Any:
    copy = json.loads(json.dumps(value))
    target = copy
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = part
    return copy


@pytest.fixture
async def client(experiments) -> AsyncIterator[httpx2.AsyncClient]:
    async with api(ROUTES, {"experiment_service": experiments}, keyring_of_scopes()) as client:
        client.headers.update(bearer(MASTER_KEY))
        yield client


@given(st.sampled_from(places(VALID)), JSON)
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_part_may_be_anything(client, place, part):
    body = json.dumps(with_part(VALID | {"key": f"hostile-{next(_numbers)}"}, place, part))
    made = await client.post("/experiments", content=body)
    event(str(made.status_code))
    if made.status_code == 201:
        view = made.json()
        found = await client.get(f"/experiments/{view['key']}")
        assert found.json() == view
        again = await client.patch(f"/experiments/{view['key']}", content=body)
        assert again.json() == view  # what was stored is what was asked for
        await client.post(f"/experiments/{view['key']}/start")
        moved = await client.patch(f"/experiments/{view['key']}", json={"description": "running"})
        assert moved.status_code == 200
    else:
        assert made.status_code in {400, 409}, made.text
        problem = made.json()
        assert problem["detail"]
        assert problem["errors"][0]["field"]
