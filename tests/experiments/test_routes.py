"""Definitions and their life over HTTP."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from app.access.model import Scope
from app.core.clock import SystemClock
from app.core.limits import PAGE_SIZE_MAX
from app.core.postgres import create_engine
from app.experiments.routes import ROUTES
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from tests.support.api import KEYS, MASTER_KEY, api, bearer, keyring_of_scopes

pytestmark = pytest.mark.anyio

EXAMPLE = {
    "key": "summary-prompt",
    "variants": [
        {"key": "control", "control": True, "payload": {"model": "m-large", "prompt": "v1"}},
        {"key": "short", "payload": {"model": "m-small", "prompt": "v2"}},
    ],
    "unit": "request",
    "stickiness": "none",
    "policy": {"kind": "thompson", "exploration_floor": 0.05},
    "reward": {
        "signals": {"thumbs_up": 1.0, "thumbs_down": 0.0},
        "combine": "last",
        "horizon_s": 3600,
        "silence": None,
    },
}


@pytest.fixture
async def client(experiments) -> AsyncIterator[httpx2.AsyncClient]:
    async with api(ROUTES, {"experiment_service": experiments}, keyring_of_scopes()) as client:
        client.headers.update(bearer(MASTER_KEY))
        yield client


@pytest.fixture
def reader() -> dict[str, str]:
    return bearer(KEYS[Scope.READ])


def assert_problem(answer: httpx2.Response, status: int, *parts: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    for part in parts:
        assert part in answer.text


async def test_an_experiment_is_defined_read_and_led_through_its_life(client, reader):
    made = await client.post("/experiments", json=EXAMPLE)
    assert made.status_code == 201
    view = made.json()
    assert view["state"] == "draft"
    assert view["policy"] == {
        "kind": "thompson",
        "prior": {"alpha": 1.0, "beta": 1.0},
        "exploration_floor": 0.05,
    }
    assert (await client.get("/experiments/summary-prompt", headers=reader)).json() == view
    states = []
    for action in ("start", "pause", "resume", "stop", "archive"):
        answer = await client.post(f"/experiments/summary-prompt/{action}")
        assert answer.status_code == 200
        states.append(answer.json()["state"])
    assert states == ["running", "paused", "running", "stopped", "archived"]
    assert answer.json()["revision"] == 6


async def test_a_view_shows_when_things_happened_and_never_the_salt(client):
    await client.post("/experiments", json=EXAMPLE)
    started = (await client.post("/experiments/summary-prompt/start")).json()
    assert started["started_at"].endswith("Z")
    assert started["stopped_at"] is None
    stopped = (await client.post("/experiments/summary-prompt/stop", json={"winner": "short"})).json()
    assert (stopped["winner"], stopped["started_at"]) == ("short", started["started_at"])
    assert "salt" not in stopped


async def test_a_definition_that_was_read_can_be_sent_back(client):
    view = (await client.post("/experiments", json=EXAMPLE)).json()
    definition = {field: view[field] for field in (*EXAMPLE, "description", "targeting", "overrides")}
    again = await client.patch("/experiments/summary-prompt", json=definition)
    assert again.json() == view


async def test_a_change_replaces_whole_fields(client):
    await client.post("/experiments", json=EXAMPLE)
    changed = await client.patch(
        "/experiments/summary-prompt", json={"reward": {"silence": 0}, "description": "why"}
    )
    assert changed.status_code == 200
    assert changed.json()["reward"]["silence"] == 0
    assert changed.json()["reward"]["horizon_s"] == 3600
    assert changed.json()["revision"] == 2


async def test_weights_of_a_running_experiment_open_an_epoch_and_its_unit_stays(client):
    await client.post("/experiments", json=EXAMPLE)
    await client.post("/experiments/summary-prompt/start")
    weights = {"policy": {"kind": "fixed", "weights": {"control": 0.25, "short": 0.75}}}
    changed = (await client.patch("/experiments/summary-prompt", json=weights)).json()
    assert (changed["epoch"], changed["policy"]) == (2, weights["policy"])
    refused = await client.patch("/experiments/summary-prompt", json={"unit": "user", "stickiness": "unit"})
    assert_problem(refused, 409, "stop it and create a new experiment")
    assert [error["field"] for error in refused.json()["errors"]] == ["stickiness", "unit"]


async def test_a_wrong_step_is_a_conflict_that_names_the_right_ones(client):
    await client.post("/experiments", json=EXAMPLE)
    answer = await client.post("/experiments/summary-prompt/resume")
    assert_problem(answer, 409, "cannot resume an experiment that is draft; allowed now: start or archive")
    assert_problem(await client.post("/experiments", json=EXAMPLE), 409, "already")


async def test_a_winner_that_is_no_variant_is_unprocessable(client):
    await client.post("/experiments", json=EXAMPLE)
    await client.post("/experiments/summary-prompt/start")
    answer = await client.post("/experiments/summary-prompt/stop", json={"winner": "long"})
    assert_problem(answer, 422, "there are control, short")
    assert answer.json()["errors"][0]["field"] == "winner"


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"winner": null}'])
async def test_stopping_without_a_winner_needs_no_body(client, body):
    await client.post("/experiments", json=EXAMPLE)
    await client.post("/experiments/summary-prompt/start")
    answer = await client.post("/experiments/summary-prompt/stop", content=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["winner"] is None


async def test_a_list_is_paged(client, reader):
    for key in ("a", "b", "c"):
        await client.post("/experiments", json=EXAMPLE | {"key": key})
    await client.post("/experiments/c/archive")
    first = (await client.get("/experiments?limit=1", headers=reader)).json()
    assert ([view["key"] for view in first["experiments"]], first["next"]) == (["a"], "a")
    second = (await client.get("/experiments?limit=1&after=a", headers=reader)).json()
    assert ([view["key"] for view in second["experiments"]], second["next"]) == (["b"], None)
    archived = (await client.get("/experiments?state=archived", headers=reader)).json()
    assert [view["key"] for view in archived["experiments"]] == ["c"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("limit=" + "9" * 5_000, "limit"),
        ("state=gone", "state"),
        ("after=a%00", "after"),
        ("after=%ff", "after"),
    ],
)
async def test_a_page_that_cannot_be_is_refused_by_field(client, query, field):
    answer = await client.get(f"/experiments?{query}")
    assert_problem(answer, 400)
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("method", ["GET", "PATCH"])
@pytest.mark.parametrize("key", ["nobody", "%00", "a%0A", "%ff", "a%20b", "x" * 5_000, "%F0%9F%A6%9C"])
async def test_a_key_that_is_not_there_is_not_found(client, method, key):
    answer = await client.request(method, f"/experiments/{key}", json={} if method == "PATCH" else None)
    assert_problem(answer, 404)
    assert_problem(await client.post(f"/experiments/{key}/start"), 404)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"key": "a b"}, "key"),
        ({"key": "a\n"}, "key"),
        ({"key": None}, "key"),
        ({"variants": []}, "variants"),
        ({"variants": [{"key": "x"}]}, "variants"),
        ({"variants": 7}, "variants"),
        ({"unit": ""}, "unit"),
        ({"stickiness": "sometimes"}, "stickiness"),
        ({"policy": {"kind": "magic"}}, "policy"),
        ({"policy": {"kind": "fixed", "weights": {"control": 1}}}, "policy.weights"),
        ({"policy": {"kind": "thompson", "exploration_floor": True}}, "exploration_floor"),
        ({"reward": {"horizon_s": 0}}, "horizon_s"),
        ({"reward": {"signals": {"thumbs_up": 7}}}, "reward.signals.thumbs_up"),
        ({"overrides": {"me": "nobody"}}, "overrides.me"),
        ({"targeting": [{"attribute": "a", "operator": "like"}]}, "operator"),
        ({"description": "nul \0"}, "description"),
        ({"salt": "mine"}, "salt"),
        ({"revision": 1}, "revision"),
    ],
)
async def test_a_value_that_cannot_be_is_refused_naming_its_field_when_defining_and_when_changing(
    client, change, field
):
    assert_problem(await client.post("/experiments", json=EXAMPLE | change), 400, field)
    await client.post("/experiments", json=EXAMPLE)
    assert_problem(await client.patch("/experiments/summary-prompt", json=change), 400, field)
    assert (await client.get("/experiments/summary-prompt")).json()["revision"] == 1


HOSTILE = [
    b"",
    b"nonsense",
    b"[]",
    b"null",
    b'"text"',
    b'{"key": ',
    b'{"key": "\xff"}',
    b'{"key": "\xed\xa0\x80"}',
    b'{"description": "\\ud800"}',
    b'{"description": NaN}',
    b'{"reward": {"horizon_s": 1e400}}',
    b'{"variants": ' + b"[" * 5_000,
    b'{"variants": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    b"\xef\xbb\xbf{}",
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_json_is_a_problem_and_changes_nothing(client, body):
    made = (await client.post("/experiments", json=EXAMPLE)).json()
    headers = {"Content-Type": "application/json"}
    assert_problem(await client.post("/experiments", content=body, headers=headers), 400)
    changing = await client.patch("/experiments/summary-prompt", content=body, headers=headers)
    assert_problem(changing, 400)
    assert (await client.get("/experiments")).json()["experiments"] == [made]


@pytest.mark.parametrize(
    "payload",
    [b'"\\u0000"', b'{"a\\u0000": 1}', b"1" * 400, b"[" * 70 + b"]" * 70, b'"' + b"x" * 20_000 + b'"'],
    ids=["nul", "nul in a name", "huge integer", "deep", "long"],
)
async def test_a_payload_that_cannot_be_kept_is_refused_by_field(client, payload):
    body = (
        b'{"key": "e", "variants": [{"key": "control", "control": true}, {"key": "b", "payload": %s}]}'
        % payload
    )
    answer = await client.post("/experiments", content=body)
    assert_problem(answer, 400)
    assert answer.json()["errors"][0]["field"].startswith("variants[1].payload")


@pytest.mark.parametrize("payload", [b"1e308", b"1.0", b"-0.0", b"18446744073709551615", b'{"z": 1, "a": 2}'])
async def test_a_payload_comes_back_as_it_was_given(client, payload):
    body = b'{"key":"e","variants":[{"key":"control","control":true},{"key":"b","payload":%s}]}' % payload
    await client.post("/experiments", content=body)
    found = await client.get("/experiments/e")
    assert found.content.count(b'"payload":' + payload.replace(b": ", b":").replace(b", ", b",")) == 1


async def test_a_body_that_is_not_json_is_refused(client):
    answer = await client.post("/experiments", content=b"key=a", headers={"Content-Type": "text/plain"})
    assert_problem(answer, 415)


@pytest.mark.parametrize("scope", Scope)
async def test_reading_needs_read_and_everything_else_admin(client, scope):
    key = bearer(KEYS[scope])
    for method, path, needed in [
        ("GET", "/experiments", Scope.READ),
        ("GET", "/experiments/summary-prompt", Scope.READ),
        ("POST", "/experiments", Scope.ADMIN),
        ("PATCH", "/experiments/summary-prompt", Scope.ADMIN),
        *((("POST", f"/experiments/summary-prompt/{action}", Scope.ADMIN)) for action in ("start", "stop")),
    ]:
        answer = await client.request(method, path, headers=key)
        assert (answer.status_code == 403) is (scope is not needed)


async def test_without_postgresql_the_answer_is_503(tmp_path):
    engine = create_engine(f"postgresql:///nobody?host={tmp_path}")

    async def on_change(_: int) -> None: ...

    nowhere = ExperimentService(ExperimentStore(engine), SystemClock(), on_change)
    async with api(ROUTES, {"experiment_service": nowhere}, keyring_of_scopes()) as client:
        client.headers.update(bearer(MASTER_KEY))
        answers = [await client.get("/experiments/e"), await client.post("/experiments", json=EXAMPLE)]
    for answer in answers:
        assert_problem(answer, 503)
        assert answer.headers["Retry-After"] == "1"
    await engine.dispose()


def test_the_bound_of_a_page_is_in_the_reference():
    from litestar import Litestar

    operation = Litestar(ROUTES).openapi_schema.paths["/experiments"].get
    limit = next(parameter for parameter in operation.parameters if parameter.name == "limit")
    assert limit.schema.maximum == PAGE_SIZE_MAX


async def test_the_catalogue_is_listed(client):
    listed = {row["signal"]: row for row in (await client.get("/signals")).json()["signals"]}
    weights = {"copied": 0.8, "regenerated": -0.5, "thumbs_up": 1, "thumbs_down": -1, "abandoned": -0.3}
    assert {name: listed[name]["weight"] for name in weights} == weights
    assert listed["copied"]["reward"] == pytest.approx(0.9)
    assert listed["stars"]["range"] == [1, 5]
    assert all(row["meaning"] and row["noise"] for row in listed.values())
