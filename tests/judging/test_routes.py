"""Judges and rules over HTTP: statuses, scopes, and hostile requests."""

from collections.abc import AsyncIterator

import httpx2
import msgspec
import pytest

from app.access.model import Scope
from app.judging.report_service import ReportService, VersionReport
from app.judging.routes import ROUTES
from app.judging.trust_service import TrustService
from app.reviews.store import ReviewStore
from tests.judging.conftest import RULE_JUDGE, decision
from tests.support.api import KEYS, api, bearer, keyring_of_scopes

pytestmark = pytest.mark.anyio
ADMIN, READ = bearer(KEYS[Scope.ADMIN]), bearer(KEYS[Scope.READ])


@pytest.fixture
async def http(registry, rules, stores, engine, clock) -> AsyncIterator[httpx2.AsyncClient]:
    trust = TrustService(stores, ReviewStore(engine), clock)
    dependencies = {
        "judge_registry": registry,
        "judging_rules": rules,
        "judge_trust": trust,
        "judge_reports": ReportService(stores, trust, clock),
    }
    async with api(ROUTES, dependencies, keyring_of_scopes()) as client:
        yield client


async def add(http, definition=RULE_JUDGE):
    return await http.post("/judges", json=definition, headers=ADMIN)


async def test_a_definition_is_201_once_and_200_afterwards(http):
    first, again = await add(http), await add(http)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["version"] == again.json()["version"]
    assert first.json()["trust"] == "shadow"
    assert first.json()["signal"] == "judge.filled"
    listed = (await http.get("/judges", headers=READ)).json()["judges"]
    assert [(judge["judge"], judge["versions"], judge["promoted"]) for judge in listed] == [
        ("filled", 1, None)
    ]


async def test_a_secret_is_named_and_never_shown(http, models, monkeypatch):
    monkeypatch.setenv("WALD_JUDGE_SECRET", "the-secret-itself")
    definition = decision(models, operation={"credential": "WALD_JUDGE_SECRET"})
    answer = await add(http, definition)
    assert answer.json()["credential"] == "WALD_JUDGE_SECRET"
    assert "the-secret-itself" not in answer.text
    assert "the-secret-itself" not in (await http.get("/judges/right", headers=READ)).text


async def test_each_call_needs_its_scope(http):
    assert (await http.post("/judges", json=RULE_JUDGE, headers=READ)).status_code == 403
    assert (await http.get("/judges")).status_code == 401
    assert (await http.post("/experiments/exp/judging", json={"judge": "x"}, headers=READ)).status_code == 403


async def test_a_version_in_shadow_is_not_promoted_and_the_reasons_are_given(http):
    version = (await add(http)).json()["version"]
    refused = await http.post(f"/judges/filled/versions/{version[:8]}/promote", headers=ADMIN)
    assert refused.status_code == 409
    assert refused.json()["errors"][0]["field"] == "calibration"
    demoted = await http.post(
        f"/judges/filled/versions/{version}/demote", json={"reason": "x"}, headers=ADMIN
    )
    assert demoted.status_code == 409


async def test_the_life_of_a_rule(http, respond, planner, judge_all):
    await add(http)
    path = "/experiments/exp/judging"
    made = await http.post(path, json={"judge": "filled", "priority": 9}, headers=ADMIN)
    assert made.status_code == 201, made.text
    rule = f"{path}/{made.json()['id']}"
    assert made.json()["rate"] == 1.0
    await respond(range(4))
    await planner.plan()
    await judge_all()
    listed = (await http.get(path, headers=READ)).json()["rules"]
    assert listed[0]["funnel"]["judged"] == 4
    changed = await http.patch(rule, json={"paused": True, "rate": 0.5}, headers=ADMIN)
    assert (changed.json()["state"], changed.json()["rate"]) == ("paused", 0.5)
    assert (await http.patch(rule, json={}, headers=ADMIN)).status_code == 200
    assert (await http.delete(rule, headers=ADMIN)).status_code == 204
    assert (await http.get(rule, headers=READ)).status_code == 404


async def test_two_versions_are_compared_on_the_responses_that_both_scored(
    http, respond, planner, judge_all, models
):
    models.probability = lambda state: 0.9
    first = (await add(http, decision(models))).json()["version"]
    await http.post("/experiments/exp/judging", json={"judge": "right", "rate": 1}, headers=ADMIN)
    second = (await add(http, decision(models, statement="It is polite."))).json()["version"]
    await respond(range(6))
    await planner.plan()
    await judge_all()
    diff = f"/judges/right/diff?a={first}&b={second}"
    assert (await http.get(diff, headers=READ)).status_code == 422
    body = {"judge": "right", "version": second[:10], "rate": 1, "since": "1970-01-01T00:00:00Z"}
    estimate = await http.post("/experiments/exp/judging/estimate", json=body, headers=READ)
    assert estimate.json()["responses"] == 6
    assert (await http.post("/experiments/exp/judging", json=body, headers=ADMIN)).status_code == 201
    models.probability = lambda state: 0.2
    await planner.plan()
    await judge_all()
    answer = (await http.get(diff, headers=READ)).json()
    assert (answer["compared"], answer["flips"]) == (6, 6)
    answered = await http.get(f"/judges/right/versions/{first[:6]}", headers=READ)
    msgspec.json.decode(answered.content, type=VersionReport)  # as the command reads it
    report = answered.json()
    assert report["usage"]["judged"] >= 6
    assert report["effects"][0]["variants"][0]["mean"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/judges", b"", 400),
        ("POST", "/judges", b"[]", 400),
        ("POST", "/judges", b"{", 400),
        ("POST", "/judges", b'{"kind": "rule", "name": "a\\u0000"}', 400),
        ("POST", "/judges", b'{"kind": 5}', 400),
        ("POST", "/judges", b'{"kind": "rule", "name": "x", "check": {"rule": "emty"}}', 400),
        ("GET", "/judges/%00", None, 404),
        ("GET", "/judges/nothing", None, 404),
        ("GET", "/judges/filled/versions/abc", None, 404),
        ("GET", "/judges/filled/versions/%00%00%00%00%00%00", None, 404),
        ("GET", "/judges/filled/diff?a=123456&b=123456", None, 404),
        ("POST", "/experiments/none/judging", b'{"judge": "filled"}', 404),
        ("POST", "/experiments/exp/judging", b'{"judge": "filld"}', 404),
        ("POST", "/experiments/exp/judging", b'{"judge": "filled", "rate": 0}', 400),
        ("POST", "/experiments/exp/judging", b'{"judge": "filled", "rate": 2}', 400),
        ("POST", "/experiments/exp/judging", b'{"judge": "filled", "window_s": 0}', 400),
        ("POST", "/experiments/exp/judging", b'{"judge": "filled", "budget": {"usd_per_day": 1}}', 400),
        (
            "POST",
            "/experiments/exp/judging",
            b'{"judge": "filled", "since": "0001-01-01T00:00:00+14:00"}',
            400,
        ),
        (
            "POST",
            "/experiments/exp/judging",
            b'{"judge": "filled", "since": "9999-12-31T23:59:59-14:00"}',
            400,
        ),
        ("POST", "/experiments/exp/judging", b'{"judge": "filled", "filter": {"variants": ["no"]}}', 400),
        ("POST", "/experiments/exp/judging", b'{"judge": "filled", "rat": 1}', 400),
        ("DELETE", "/experiments/exp/judging/99999999999", None, 404),
        ("PATCH", "/experiments/exp/judging/7", b"{}", 404),
        ("GET", "/experiments/exp/judging/7", None, 404),
    ],
)
async def test_a_hostile_request_is_refused_with_a_reason(http, method, path, body, status):
    await add(http)
    headers = ADMIN | ({"Content-Type": "application/json"} if body is not None else {})
    if method == "GET":
        headers = READ
    answer = await http.request(method, path, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
