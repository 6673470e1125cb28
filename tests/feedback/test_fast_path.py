"""Fast path of `/feedback` and the framework answer alike; a charset makes a request go the long way."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from app.assignment import assignment_id
from app.assignment.assignment_id import Signer
from app.core.clock import SystemClock
from app.core.serving import Ending, serve_http
from app.core.settings import Settings
from app.feedback.fast_path import FeedbackFastPath
from app.server import application
from tests.support import registry
from tests.support.server import free_port, listening

pytestmark = pytest.mark.anyio

SIGNER = Signer([(registry.SIGNING_KEY.id, registry.SIGNING_KEY.secret)])
STRANGER = Signer([(registry.SIGNING_KEY.id, bytes(16))])


def token(number: int = 0, *, signer: Signer = SIGNER, experiment_id: int = 1, age_ms: int = 0) -> str:
    return signer.sign(
        assignment_id.body(
            key_id=signer.key_id,
            flags=0,
            variant=0,
            experiment_id=experiment_id,
            epoch=1,
            policy_version=1,
            id=assignment_id.uuid7(SystemClock().now_ms() - age_ms, number),
            propensity=0.5,
            unit_hash=1,
        )
    )


def bodies() -> list[bytes]:
    good = {"assignment_id": token(), "signal": "thumbs_up"}
    events: list[Any] = [
        good,
        [good],
        [good, {**good, "assignment_id": token(1)}],
        {**good, "assignment_id": token(signer=STRANGER)},
        {**good, "assignment_id": token(experiment_id=99)},
        {**good, "assignment_id": token(age_ms=10**11)},
        {**good, "assignment_id": "short"},
        [good, {**good, "assignment_id": token(signer=STRANGER)}, {**good, "value": 7}],
        [{**good, "assignment_id": "x" * 80}],
        {**good, "value": True},
        {**good, "value": 7},
        {**good, "unknown": 1},
        {**good, "id": "same", "value": 1},
        [{**good, "id": "i", "value": 1}, {**good, "id": "i", "value": 0}],
        {"experiment": "exp", "unit": "u", "signal": "thumbs_up"},
        {"experiment": "nowhere", "unit": "u", "signal": "thumbs_up"},
        {"signal": "thumbs_up"},
        [],
        {},
        [1, 2],
    ]
    hostile = [
        b"",
        b"{",
        b"\xff",
        b"[" * 5_000,
        b'{"signal": "a\\u0000"}',
        b'[{"signal": "\\ud800"}]',
        b"null",
    ]
    return [*(json.dumps(one).encode() for one in events), *hostile]


@pytest.fixture
async def url(valkey_url: str) -> AsyncIterator[str]:
    await registry.publish(valkey_url, registry.experiment("exp", id=1))
    ending, port = Ending(), free_port()
    # Without PostgreSQL, so that the published keys and experiments are those of this test.
    settings = Settings(valkey_url=valkey_url, database_url="postgresql://nobody@127.0.0.1:1/nothing")
    async with application(settings, ending) as (app, protocol):
        serving = asyncio.create_task(
            serve_http(app, host="127.0.0.1", port=port, ending=ending, protocol=protocol)
        )
        await listening(port)
        yield f"http://127.0.0.1:{port}"
        ending.begin()
        await serving


async def test_both_ways_give_the_same_answer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = 0
    answer = FeedbackFastPath.answer

    def counted(*arguments: Any) -> bool:
        nonlocal answered
        answered += 1
        return answer(*arguments)

    monkeypatch.setattr(FeedbackFastPath, "answer", counted)
    headers = {"Authorization": f"Bearer {registry.API_KEY}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers) as client:
        for number, body in enumerate(bodies(), start=1):
            short = await client.post("/feedback", content=body, headers={"Content-Type": "application/json"})
            assert answered == number
            long = await client.post(
                "/feedback", content=body, headers={"Content-Type": "application/json; charset=utf-8"}
            )
            assert answered == number
            assert (short.status_code, short.json()) == (long.status_code, long.json()), body
            assert short.headers["content-type"] == long.headers["content-type"]


async def test_a_body_over_the_limit_and_a_key_without_the_scope_are_refused(url: str) -> None:
    json_type = {"Content-Type": "application/json"}
    async with httpx2.AsyncClient(base_url=url, headers=json_type) as client:
        body = json.dumps({"assignment_id": token(), "signal": "thumbs_up"})
        assert (await client.post("/feedback", content=body)).status_code == 401
        reader = {"Authorization": f"Bearer {registry.READ_KEY}"}
        assert (await client.post("/feedback", content=body, headers=reader)).status_code == 403
        caller = {"Authorization": f"Bearer {registry.API_KEY}"}
        large = "[" + " " * 5_000_000 + body + "]"
        assert (await client.post("/feedback", content=large, headers=caller)).status_code == 413
        assert (await client.post("/feedback", content=body, headers=caller)).status_code == 202
