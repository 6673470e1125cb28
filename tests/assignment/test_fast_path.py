"""The fast path and the framework give the same answers."""

import asyncio
import json
from random import Random
from typing import Any
from urllib.parse import quote, quote_plus

import httpx2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide

from app.assignment.fast_path import AssignFastPath
from app.assignment.routes import ROUTES
from app.core.http import EXCEPTION_HANDLERS, require_json
from app.experiments.model import Archived, Condition, Draft, Paused, Stopped
from app.experiments.policies import LinTsPolicy
from bandits.features import Categorical, Numeric, Schema
from bandits.linear import LinearTotals
from tests.assignment.conftest import running_server
from tests.support.registry import API_KEY, READ_KEY, START, experiment, publish

pytestmark = pytest.mark.anyio

NOW_MS = 1_800_000_000_000
GOLD = (Condition("tier", "in", ("gold", "größe")), Condition("age", "greater", (17.0,)))
FEATURES = (Numeric("age", location=40.0, scale=20.0), Categorical("tier", ("gold", "größe")))
ROWS = np.array([Schema(FEATURES).vector_fixed({"age": age, "tier": "gold"}) for age in (20, 60)])
LEARNED = [LinearTotals.of_rows(ROWS, np.array(rewards)) for rewards in ([0.0, 1.0], [1.0, 0.0])]
EXPERIMENTS = (
    experiment("plain", id=1),
    experiment("sticky", id=2, stickiness="unit", shares=[0.2, 0.3, 0.5]),
    experiment("strict", id=3, stickiness="strict"),
    experiment("gold.only", id=4, targeting=GOLD),
    experiment("forced", id=5, overrides={"boss": "v1", "": "v1", "a b": "v1"}),
    experiment("draft", id=6, state=Draft()),
    experiment("paused", id=7, state=Paused(START, START)),
    experiment("stopped", id=8, state=Stopped(START, START, winner="v1")),
    *(
        experiment(
            f"by.context.{reaction}",
            id=number,
            stickiness=stickiness,
            policy=LinTsPolicy(features=FEATURES, on_bad_context=reaction),
            learned=LEARNED,
        )
        for number, reaction, stickiness in ((10, "refuse", "none"), (11, "fallback", "unit"))
    ),
    experiment("archived", id=9, state=Archived(START)),
)
RUNNING = sorted(one.key for one in EXPERIMENTS if one.state == "running")


class FixedClock:
    def now_ms(self) -> int:
        return NOW_MS


class Apps:
    """The framework alone, and the fast path before it, on the same server."""

    def __init__(self, server: Any) -> None:
        self._assigner = server.assigner
        self._assigner.clock = FixedClock()
        self.framework = Litestar(
            ROUTES,
            dependencies={"assigner": Provide(lambda: server.assigner, sync_to_thread=False)},
            before_request=require_json,
            exception_handlers=EXCEPTION_HANDLERS,
            state=State({"access": server.keeper}),
            openapi_config=None,
        )
        self.passed_on = 0
        self.fast_path = AssignFastPath(server.assigner)

    async def short(self, query: bytes, headers: list[tuple[bytes, bytes]]) -> Any:
        """Return what a client gets that comes through the fast path."""
        self._assigner._rng = Random(7)
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not (
            self.fast_path.admits(headers)
            and self.fast_path.answer(query, headers, b"", lambda *response: answered.set_result(response))
        ):
            self.passed_on += 1
            return await self.get(self.framework, query, headers)
        status, found, body = await answered
        return status, {**dict(found), b"content-length": b"%d" % len(body)}, body

    async def get(self, app: Any, query: bytes, headers: list[tuple[bytes, bytes]]) -> Any:
        """Status, headers that matter, body; with the same chance each time."""
        self._assigner._rng = Random(7)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/assign",
            "raw_path": b"/assign",
            "root_path": "",
            "query_string": query,
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await app(scope, receive, send)
        matter = (b"content-type", b"content-length", b"www-authenticate", b"retry-after")
        found = {name: value for name, value in sent[0]["headers"] if name in matter}
        return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
async def apps(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("app.assignment.limits.REFRESH_SPACING_S", 0.0)
    await publish(valkey_url, *EXPERIMENTS)
    async with running_server(valkey_url) as server:
        yield Apps(server)


AUTHORIZED = [(b"host", b"wald"), (b"authorization", b"Bearer " + API_KEY.encode())]

quoting = st.sampled_from([quote, quote_plus, lambda text: "".join(f"%{byte:02X}" for byte in text.encode())])
text = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12), st.sampled_from(["boss", "a b", "x" * 256, "x" * 257])
)
keys = st.one_of(st.sampled_from([one.key for one in EXPERIMENTS]), text)
names = st.one_of(
    st.sampled_from(["experiment", "unit", "context.tier", "context.age", "context.", "context", "Unit", ""]),
    text,
)
values = st.one_of(
    text, st.sampled_from(["gold", "größe", "18", "1e3", "%", "%zz", "%ff", "%00", "+", "&", ";", "="])
)
pairs = st.builds(lambda name, value, how: f"{how(name)}={how(value)}", names, values, quoting)
raw_pairs = st.builds(lambda name, value: f"{name}={value}", names, values)
sensible = st.builds(
    lambda key, unit, more, how: "&".join([f"experiment={how(key)}", f"unit={how(unit)}", *more]),
    keys,
    text,
    st.lists(st.one_of(pairs, raw_pairs, st.sampled_from(["", "unit", "a=b=c"])), max_size=3),
    quoting,
)
queries = st.one_of(
    sensible.map(str.encode),
    st.lists(st.one_of(pairs, raw_pairs), max_size=5).map("&".join).map(str.encode),
    st.binary(max_size=40),
    st.binary(max_size=12).map(lambda raw: b"experiment=plain&unit=" + raw),
)
headers = st.one_of(
    st.just(AUTHORIZED),
    st.sampled_from(
        [
            [],
            [(b"authorization", b"")],
            [(b"authorization", b"Bearer wrong")],
            [(b"authorization", b"bearer   " + API_KEY.encode())],
            [(b"authorization", b"Bearer " + READ_KEY.encode())],
            [(b"authorization", b"Basic abc")],
            [(b"authorization", b"Bearer \xff\xfe")],
            [(b"x-api-key", API_KEY.encode())],
            [*AUTHORIZED, (b"content-type", b"text/plain"), (b"accept", b"text/html")],
        ]
    ),
)


@settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(query=queries, headers=headers)
@example(query=b"experiment=plain&unit=" + b"x" * 20_000, headers=AUTHORIZED)
@example(
    query=b"experiment=plain&unit=a" + b"".join(b"&context.a%d=1" % n for n in range(65)), headers=AUTHORIZED
)
@example(query=b"experiment=plain&unit=a&unit=b", headers=AUTHORIZED)
@example(query=b"experiment=plain&unit=%ff", headers=AUTHORIZED)
@example(query=b"experiment=plain&unit=%00", headers=AUTHORIZED)
@example(query=b"experiment=plain&unit=%ed%a0%80", headers=AUTHORIZED)
@example(query=b"experiment=plain;unit=a", headers=AUTHORIZED)
@example(query=b"experiment=plain&unit=a&", headers=AUTHORIZED)
async def test_both_paths_give_the_same_answer(apps: Apps, query: bytes, headers: Any):
    short = await apps.short(query, headers)
    assert short == await apps.get(apps.framework, query, headers)
    status, found, body = short
    assert status in {200, 400, 401, 403, 404, 413}
    assert int(found[b"content-length"]) == len(body)
    assert found[b"content-type"] == (b"application/json" if status == 200 else b"application/problem+json")
    assert status == 200 or json.loads(body)["status"] == status


@pytest.mark.parametrize("published", EXPERIMENTS[:-1], ids=lambda one: one.key)
async def test_plain_requests_take_the_fast_path(apps: Apps, published: Any):
    query = b"experiment=%b&unit=a%%20unit&context.tier=gold&context.age=18" % published.key.encode()
    status, _, body = await apps.short(query, AUTHORIZED)
    assert (status, json.loads(body)["experiment"]) == (200, published.key)
    assert apps.passed_on == (published.state == "draft" or published.stickiness == "strict")


async def post(apps: Apps, body: bytes) -> tuple[int, Any]:
    transport = httpx2.ASGITransport(app=apps.framework)
    async with httpx2.AsyncClient(transport=transport, base_url="http://wald") as client:
        answer = await client.post(
            "/assign",
            content=body,
            headers={"authorization": f"Bearer {API_KEY}", "content-type": "application/json"},
        )
        return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"unit": "u"}', 200),
        (b'{"unit": "u", "experiments": []}', 200),
        (b'{"unit": "u", "experiments": ["plain", "sticky"], "context": {"tier": "gold", "age": 20}}', 200),
        (b'{"unit": "u", "experiments": ["plain", "unknown"]}', 404),
        (b'{"unit": "u", "experiments": ["a b"]}', 400),
        (b'{"unit": ""}', 400),
        (b"{}", 400),
        (b'{"unit": "u", "variant": "v1"}', 400),
        (b'{"unit": "u", "context": {"age": "20"}}', 400),
        (b'{"unit": "u", "experiments": ["by.context.fallback"], "context": {"age": "20"}}', 200),
        (
            b'{"unit": "u", "experiments": ["by.context.refuse"], "context": {"age": null, "tier": "tin"}}',
            200,
        ),
        (b'{"unit": "u", "experiments": ["by.context.refuse"], "context": {"tier": ["gold"]}}', 400),
        (b'{"unit": "\\u0000"}', 400),
        (b'{"unit": "\\ud800"}', 400),
        (b'{"unit": "u", "context": {"a": "\\u0000"}}', 400),
        (b'{"unit": "u", "context": {"a": 1e999}}', 400),
        (b'{"unit": "u", "context": {"a": NaN}}', 400),
        (b'{"unit": "u", "context": {"a": ' + b"9" * 30 + b"}}", 400),
        (b'{"unit": "u", "context": {"a": "' + b"x" * 9_000 + b'"}}', 400),
        (b'{"unit": "u", "context": {"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}}", 400),
        (b'{"unit": "u", "context": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}", 400),
        (json.dumps({"unit": "u", "context": {f"a{n}": 1 for n in range(65)}}).encode(), 400),
        (b'{"unit": "\xff"}', 400),
        (b"\xef\xbb\xbf{}", 400),
        (b"[]", 400),
        (b"", 400),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else value,
)
async def test_posted_requests_and_what_is_refused(apps: Apps, body: bytes, status: int):
    answered, answer = await post(apps, body)
    assert answered == status, answer
    if status == 200:
        assert [one["experiment"] for one in answer["assignments"]] == (
            json.loads(body).get("experiments", RUNNING)
        )


@pytest.mark.parametrize(("age", "favourite"), [(b"20", "v1"), (b"60.0", "v0"), (b"6e1", "v0")])
async def test_a_text_is_read_as_the_number_that_the_policy_expects(apps: Apps, age: bytes, favourite: str):
    """What v0 earns rises with age, what v1 earns falls."""
    query = b"experiment=by.context.refuse&unit=u&context.tier=gold&context.age=" + age
    _, _, body = await apps.short(query, AUTHORIZED)
    answer = json.loads(body)
    assert (answer["propensity"] > 0.5) == (answer["variant"] == favourite)
    status, posted = await post(
        apps,
        json.dumps(
            {
                "unit": "u",
                "experiments": ["by.context.refuse"],
                "context": {"age": float(age), "tier": "gold"},
            }
        ).encode(),
    )
    shares = {answer["variant"]: answer["propensity"]}
    again = posted["assignments"][0]
    assert status == 200
    assert again["propensity"] == shares.get(again["variant"], 1 - answer["propensity"])


async def test_both_paths_name_the_feature_of_a_bad_context(apps: Apps):
    query = b"experiment=by.context.refuse&unit=u&context.age=old"
    status, _, body = await apps.short(query, AUTHORIZED)
    assert status == 400
    assert json.loads(body)["errors"][0]["field"] == "context.age"
    fallback = query.replace(b"refuse", b"fallback")
    status, _, body = await apps.short(fallback, AUTHORIZED)
    assert (status, json.loads(body)["propensity"], json.loads(body)["reason"]) == (200, 0.5, "SPLIT")
