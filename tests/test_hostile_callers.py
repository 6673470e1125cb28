"""What strangers, guessers, slow readers and proxies get: on a real server with the engines of the tests."""

import asyncio
import json
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import psycopg
import pytest

from app.core.clock import SystemClock
from app.core.engines import EmbeddedEngines
from app.core.health import beat
from app.core.postgres import psycopg_dsn
from app.core.valkey import create_client
from tests.support.server import free_port
from tests.support.serving import ADMIN_KEY, Served, ensure_keys, served

pytestmark = pytest.mark.anyio

PROXY = "127.0.0.0/8"
SHARES = ("wald_variant_allocation_ratio", "secret-name", "hidden-variant")


@pytest.fixture(scope="module")
async def server(engines: EmbeddedEngines, module_database: str) -> AsyncIterator[Served]:
    """A server behind a trusted proxy. Each test acts as the proxy, for another client."""
    async with create_client(engines.valkey_url) as valkey:
        await valkey.flushall()
    await ensure_keys(module_database, engines.valkey_url)
    port = free_port()
    async with served(
        module_database, engines.valkey_url, trusted_proxies=(PROXY,), operations_port=port
    ) as running:
        async with running.client() as client:
            variants = [{"key": "control", "control": True}, {"key": "hidden-variant"}]
            body = {"key": "secret-name", "variants": variants}
            (await client.post("/experiments", json=body)).raise_for_status()
            (await client.post("/experiments/secret-name/start")).raise_for_status()
            query = {"experiment": "secret-name", "unit": "u"}
            (await client.get("/assign", params=query)).raise_for_status()
        yield running


async def until(client: httpx2.AsyncClient, path: str, holds: Callable[[httpx2.Response], bool]) -> str:
    """Ask until the answer is as it should be; its text."""
    async with asyncio.timeout(20):
        while not holds(answer := await client.get(path)):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)
        return answer.text


async def counts(client: httpx2.AsyncClient, n: int, path: str = "/keys", **headers: str) -> dict[int, int]:
    """Return how often each status answers `n` requests."""
    answers = await asyncio.gather(*(client.get(path, headers=headers) for _ in range(n)))
    return dict(Counter(answer.status_code for answer in answers))


# Wrong keys


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
async def test_wrong_keys_are_throttled_and_the_right_key_of_that_address_is_not(server: Served, header: str):
    address = {"X-Forwarded-For": f"203.0.113.{len(header)}"}
    wrong = {header: "Bearer wrong" if header == "Authorization" else "wrong"}
    async with server.stranger(**address) as client:
        found = await counts(client, 160, **wrong)
        assert found.keys() == {401, 429}
        assert found[401] >= 100
        answers = await asyncio.gather(*(client.get("/keys", headers=wrong) for _ in range(20)))
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == "/problems/too-many-requests"
        right = {"Authorization": f"Bearer {ADMIN_KEY}"}
        assert await counts(client, 20, **right) == {200: 20}
        assert await counts(client, 3) == {401: 3}, "without a key nobody guesses"
    async with server.stranger(**{"X-Forwarded-For": "203.0.113.200"}) as other:
        assert await counts(other, 3, **wrong) == {401: 3}


async def test_a_wrong_key_is_throttled_on_the_fast_paths_too(server: Served):
    address = {"X-Forwarded-For": "203.0.113.40", "Authorization": "Bearer wrong"}
    async with server.stranger(**address) as client:
        found = await counts(client, 160, path="/assign?experiment=secret-name&unit=u")
    assert found.keys() == {401, 429}


async def test_sign_ins_with_wrong_keys_are_throttled_and_the_right_key_signs_in(server: Served):
    async with server.stranger(**{"X-Forwarded-For": "203.0.113.50"}) as client:
        forms = [{"key": f"wrong-{number}"} for number in range(160)]
        answers = await asyncio.gather(*(client.post("/login", data=form) for form in forms))
        assert {answer.status_code for answer in answers} == {401, 429}
        answer = next(answer for answer in answers if answer.status_code == 429)
        assert answer.headers["retry-after"]
        assert 'action="/login"' in answer.text, "the form is there to try again"
        assert (await client.post("/login", data={"key": ADMIN_KEY})).status_code == 303


async def test_sessions_of_one_key_are_begun_no_faster_than_one_a_second_and_calls_go_on(server: Served):
    made = await make_key(server, name="reader")
    key = {"Authorization": f"Bearer {made['secret']}"}
    async with server.stranger() as client:
        form = {"key": made["secret"]}
        answers = await asyncio.gather(*(client.post("/login", data=form) for _ in range(60)))
        assert 429 in {answer.status_code for answer in answers}
        assert (await client.get("/experiments", headers=key)).status_code == 200


# Sessions


async def sign_in(client: httpx2.AsyncClient) -> str:
    answer = await client.post("/login", data={"key": ADMIN_KEY})
    assert answer.status_code == 303
    return answer.headers["set-cookie"].partition(";")[0].partition("=")[2]


async def test_a_copied_cookie_is_refused_after_sign_out_by_every_server(server: Served):
    settings = server.settings
    async with served(settings.database_url or "", settings.valkey_url or "") as other:
        async with server.stranger() as browser:
            stolen = await sign_in(browser)
            kept = await sign_in(browser)
            assert (
                await browser.post("/logout", headers={"Cookie": f"wald_session={stolen}"})
            ).status_code == 303
        for place in (server, other):
            async with place.stranger() as thief:
                for spelling in (stolen, stolen + "=", stolen[:-1] + chr(ord(stolen[-1]) + 1)):
                    answer = await thief.get("/", headers={"Cookie": f"wald_session={spelling}"})
                    assert answer.status_code == 401
                answer = await thief.get("/", headers={"Cookie": f"wald_session={kept}"})
                assert answer.status_code == 200, "another session of the same key goes on"


# Proxies


@pytest.mark.parametrize(("proto", "secure"), [("https", True), ("http", False), ("", False)])
async def test_the_session_cookie_is_secure_behind_tls(server: Served, proto: str, secure: bool):
    async with server.stranger(**({"X-Forwarded-Proto": proto} if proto else {})) as browser:
        answer = await browser.post("/login", data={"key": ADMIN_KEY})
        assert ("Secure" in answer.headers["set-cookie"]) is secure


async def test_forwarded_headers_of_an_address_that_is_not_trusted_change_nothing(server: Served):
    settings = server.settings
    proxies = ("10.0.0.0/8",)
    async with (
        served(settings.database_url or "", settings.valkey_url or "", trusted_proxies=proxies) as other,
        other.stranger(**{"X-Forwarded-Proto": "https"}) as browser,
    ):
        answer = await browser.post("/login", data={"key": ADMIN_KEY})
        assert "Secure" not in answer.headers["set-cookie"]
        forged = [{"X-Forwarded-For": f"198.51.100.{n}", "X-API-Key": "wrong"} for n in range(160)]
        answers = await asyncio.gather(*(browser.get("/keys", headers=headers) for headers in forged))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused, "a forged address does not escape the throttle"


# Operations


async def test_callers_without_a_key_see_no_names_shares_hosts_or_processes(server: Served):
    name = f"{socket.gethostname()}:{os.getpid()}:abcd"
    async with create_client(server.settings.valkey_url or "") as valkey:
        await beat(valkey, name, {"ledger": 'connection to "10.0.0.7", port 5432 failed'}, SystemClock())
    private = (name, socket.gethostname(), "10.0.0.7", *SHARES)
    async with server.stranger() as stranger, server.client() as admin:
        await until(admin, "/ready", lambda answer: "10.0.0.7" in answer.text)
        whole = await until(admin, "/metrics", lambda answer: "secret-name" in answer.text)
        for path in ("/health", "/ready", "/metrics"):
            text = (await stranger.get(path)).text
            assert [secret for secret in private if secret in text] == []
        ready = (await stranger.get("/ready")).json()
        checks = {check["name"]: check["ok"] for check in ready["checks"]}
        assert checks["worker"] is False
        assert checks["valkey"] is True
        public = (await stranger.get("/metrics")).text
        assert 'wald_assignments_total{reason="SPLIT",recorded="true"} ' in public
        assert 'experiment="secret-name"' in whole


async def test_the_operations_port_shows_everything_without_a_key(server: Served):
    url = f"http://127.0.0.1:{server.settings.operations_port}"
    async with httpx2.AsyncClient(base_url=url, verify=False) as scraper:
        assert (await scraper.get("/health")).status_code == 200
        assert "secret-name" in (await scraper.get("/metrics")).text
        assert (await scraper.get("/ready")).status_code == 200
        assert (await scraper.get("/experiments")).status_code == 404


async def test_two_hundred_looks_at_ready_and_metrics_take_a_handful_of_connections(server: Served):
    def sessions() -> int:
        with psycopg.connect(psycopg_dsn(server.settings.database_url or ""), autocommit=True) as connection:
            row = connection.execute(
                "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
            assert row is not None
            return int(row[0])

    async with server.stranger() as stranger:
        before = await asyncio.to_thread(sessions)
        answers = await asyncio.gather(*(stranger.get(path) for path in ["/ready"] * 200 + ["/metrics"] * 40))
        assert {answer.status_code for answer in answers} == {200}
        assert await asyncio.to_thread(sessions) - before < 30


# Changes


async def events(client: httpx2.AsyncClient, key: str) -> AsyncIterator[str]:
    headers = {"Authorization": f"Bearer {key}"}
    async with client.stream("GET", "/changes", headers=headers, timeout=20) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            yield line


async def make_key(server: Served, **body: Any) -> dict[str, Any]:
    async with server.client() as admin:
        made: dict[str, Any] = (await admin.post("/keys", json={"kind": "srv"} | body)).json()
    async with server.stranger(**{"X-API-Key": made["secret"]}) as client:
        await until(client, "/experiments", lambda answer: answer.is_success)
    return made


async def test_changes_end_within_five_seconds_of_the_revocation_of_their_key(server: Served):
    made = await make_key(server, name="reader of changes")
    lines = []
    async with server.client() as admin, server.stranger() as client:
        async with asyncio.timeout(10):
            async for line in events(client, made["secret"]):
                lines.append(line)
                if line.startswith("data: {"):
                    async with asyncio.timeout(5):
                        (await admin.delete(f"/keys/{made['key']['id']}")).raise_for_status()
    assert "event: end" in lines
    assert "data: the API key was revoked or has expired" in lines
    change = json.loads(next(line for line in lines if line.startswith("data: {"))[6:])
    assert change["experiment"] == "secret-name"
    assert change["state"] == "running"


# Request ids


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-123", True),
        ("Root=1-67891233-abcdef012345678912345678", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("two words", False),
        ('{"a":1}', False),
        ("é", False),
    ],
)
async def test_a_request_id_is_returned_if_it_is_valid_and_made_otherwise(
    server: Served, given: str, kept: bool
):
    async with server.client() as client:
        answer = await client.get("/keys", headers={"X-Request-ID": given.encode()})
        returned = answer.headers["x-request-id"]
        assert (returned == given) is kept
        assert returned.isascii()
        assert 0 < len(returned) <= 128


async def test_every_answer_of_the_framework_has_a_request_id(server: Served):
    async with server.client() as client:
        found = {
            (await client.get(path)).headers["x-request-id"] for path in ("/keys", "/nowhere", "/health")
        }
        assert len(found) == 3
