"""The composed HTTP application: operations, and answers to what no route expects."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from app.access.service import AccessService
from app.access.store import AccessStore
from app.core import migrations
from app.core.clock import SystemClock
from app.core.errors import Conflict
from app.core.postgres import create_engine
from app.core.serving import Ending
from app.core.settings import Settings
from app.core.valkey import create_client
from app.server import application

pytestmark = pytest.mark.anyio

ADMIN_KEY = "an-admin-key-of-the-tests"
JSON = {"Content-Type": "application/json"}
HOSTILE_BODIES = [
    b"",
    b"{",
    b"nonsense",
    b'{"key": "\xff"}',
    b"[" * 5_000 + b"]" * 5_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b"\xef\xbb\xbf{}",
    b'{"key": NaN}',
    b'{"key": 1e400}',
    b'{"key": "a\\u0000b"}',
    b'{"key": "\\ud800"}',
    b"[]",
    b"null",
    b'"text"',
    b'{"key": true}',
]


@pytest.fixture
async def client(database_url: str, valkey_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with an admin key, of a server without a worker."""
    engine, valkey = create_engine(database_url), create_client(valkey_url)
    access = AccessService(AccessStore(engine, valkey), SystemClock())
    await access.ensure_signing_key()
    await access.ensure_admin_key(ADMIN_KEY)
    settings = Settings(valkey_url=valkey_url, database_url=database_url)
    async with application(settings, Ending()) as (app, _):
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://wald", headers=headers) as client:
            yield client
    await valkey.aclose()
    await engine.dispose()


def assert_problem(answer: httpx2.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"].startswith("/problems/")
    assert problem["title"]
    assert problem["detail"]


async def test_health_says_alive_without_a_key(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/health", headers={"Authorization": ""})
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


async def test_ready_is_degraded_and_names_the_missing_worker(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/ready")
    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    failed = [check for check in answer.json()["checks"] if not check["ok"]]
    assert [check["name"] for check in failed] == ["worker"]
    assert "no worker" in failed[0]["detail"]


async def test_metrics_are_prometheus_text(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert "# TYPE wald_snapshot_age_seconds gauge" in answer.text


async def test_every_route_but_pages_is_documented(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/openapi/openapi.json")).json()
    documented = {(path, method) for path, methods in document["paths"].items() for method in methods}
    for expected in [
        ("/assign", "get"),
        ("/assign", "post"),
        ("/feedback", "post"),
        ("/experiments", "post"),
        ("/experiments/{key}", "patch"),
        ("/experiments/{key}/start", "post"),
        ("/experiments/{key}/status", "get"),
        ("/keys", "post"),
        ("/webhooks", "post"),
    ]:
        assert expected in documented


@pytest.mark.parametrize("path", ["/experiments", "/keys", "/webhooks", "/feedback", "/assign"])
async def test_a_malformed_body_is_400(client: httpx2.AsyncClient, path: str) -> None:
    for body in HOSTILE_BODIES:
        assert_problem(await client.post(path, content=body, headers=JSON), 400)


async def test_a_field_of_the_wrong_type_is_named(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/assign", json={"unit": "u", "experiments": 3})
    assert_problem(answer, 400)
    assert answer.json()["errors"][0]["field"] == "experiments"


@pytest.mark.parametrize("path", ["/experiments", "/keys", "/webhooks", "/feedback", "/assign"])
async def test_a_body_over_its_limit_is_413(client: httpx2.AsyncClient, path: str) -> None:
    body = b'{"key": "' + b"a" * 10_000_000 + b'"}'
    assert_problem(await client.post(path, content=body, headers=JSON), 413)


@pytest.mark.parametrize("path", ["/experiments", "/keys", "/webhooks", "/assign"])
async def test_a_body_that_says_it_is_not_json_is_415(client: httpx2.AsyncClient, path: str) -> None:
    headers = {"Content-Type": "application/xml"}
    assert_problem(await client.post(path, content=b"<a/>", headers=headers), 415)


async def test_an_unknown_path_is_404_and_a_wrong_method_405(client: httpx2.AsyncClient) -> None:
    assert_problem(await client.get("/nowhere"), 404)
    assert_problem(await client.delete("/experiments"), 405)


@pytest.mark.parametrize(
    "path", ["/experiments", "/keys", "/webhooks", "/assign?experiment=e&unit=u", "/experiments/e/status"]
)
async def test_without_a_key_it_is_401(client: httpx2.AsyncClient, path: str) -> None:
    answer = await client.get(path, headers={"Authorization": ""})
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_without_postgres_it_listens_and_says_that_the_schema_is_not_known(
    valkey_url: str, tmp_path: Path
) -> None:
    away = f"postgresql://postgres@/wald?host={tmp_path}"
    async with application(Settings(valkey_url=valkey_url, database_url=away), Ending()) as (app, _):
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://wald") as client:
            checks = {check["name"]: check for check in (await client.get("/ready")).json()["checks"]}
    assert not checks["schema"]["ok"]
    assert "the schema is not checked yet" in checks["schema"]["detail"]
    assert checks["loop start"]["ok"]


async def test_with_another_number_of_stream_shards_it_does_not_start(
    client: httpx2.AsyncClient, valkey_url: str, database_url: str
) -> None:
    other = Settings(valkey_url=valkey_url, database_url=database_url, stream_shards=3)
    with pytest.raises(Conflict, match="WALD_STREAM_SHARDS is 3 here, but 2 in the database"):
        async with application(other, Ending()):
            pass


async def test_a_table_that_is_missing_is_503_and_names_the_command(
    client: httpx2.AsyncClient, database_url: str
) -> None:
    migrations.downgrade(database_url, "base")
    answer = await client.get("/rollouts")
    assert_problem(answer, 503)
    assert "run `wald migrate`" in answer.json()["detail"]
