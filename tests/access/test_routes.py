"""API keys over HTTP."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from app.access.model import KeyRing, Scope
from app.access.routes import ROUTES
from app.access.store import load
from tests.support.api import KEYS, api, bearer, keyring_of_scopes

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(access) -> AsyncIterator[httpx2.AsyncClient]:
    async with api(ROUTES, {"access": access}, keyring_of_scopes()) as client:
        client.headers.update(bearer(KEYS[Scope.ADMIN]))
        yield client


async def test_a_key_is_shown_once_and_then_listed_without_its_secret(client):
    made = await client.post("/keys", json={"name": "checkout", "kind": "srv"})
    assert made.status_code == 201
    body = made.json()
    assert body["secret"].startswith("wald_srv_")
    assert body["key"]["scopes"] == ["assign", "feedback", "read"]
    listed = await client.get("/keys")
    assert listed.json() == {"keys": [body["key"]]}
    assert body["secret"] not in listed.text


async def test_a_made_key_opens_what_it_may_and_a_revoked_one_nothing(client, access, valkey):
    made = (await client.post("/keys", json={"name": "k", "kind": "adm"})).json()
    async with api(ROUTES, {"access": access}, KeyRing(await load(valkey))) as other:
        assert (await other.get("/keys", headers=bearer(made["secret"]))).status_code == 200
        assert (await other.get("/keys", headers={"X-API-Key": made["secret"]})).status_code == 200
    assert (await client.delete(f"/keys/{made['key']['id']}")).status_code == 204
    async with api(ROUTES, {"access": access}, KeyRing(await load(valkey))) as other:
        answer = await other.get("/keys", headers=bearer(made["secret"]))
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "unknown API key"


@pytest.mark.parametrize("scope", [scope for scope in Scope if scope is not Scope.ADMIN])
@pytest.mark.parametrize(("method", "path"), [("GET", "/keys"), ("POST", "/keys"), ("DELETE", "/keys/1")])
async def test_only_administrators_manage_keys(client, scope, method, path):
    answer = await client.request(method, path, headers=bearer(KEYS[scope]))
    assert answer.status_code == 403
    assert answer.json()["detail"] == f"this API key lacks the scope admin; it has {scope}"


async def test_without_a_key_the_answer_says_how_to_send_one(client):
    answer = await client.get("/keys", headers={"Authorization": ""})
    assert answer.status_code == 401
    assert "Bearer KEY" in answer.json()["detail"]


async def test_before_keys_are_loaded_the_answer_is_503(access):
    async with api(ROUTES, {"access": access}, None) as client:
        answer = await client.get("/keys", headers=bearer("whatever"))
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"name": ""}', "name"),
        (b'{"name": 7}', "name"),
        (b'{"name": "k\\u0000", "kind": "srv"}', "name"),
        (b'{"name": "k", "kind": "root"}', "kind"),
        (b'{"name": "k"}', "kind"),
        (b'{"name": "k", "scopes": ["fly"]}', "scopes"),
        (b'{"name": "k", "kind": "cli", "scopes": ["admin"]}', "scopes"),
        (b'{"name": "k", "kind": "srv", "expires_at": "2020-01-01T00:00:00Z"}', "expires_at"),
        (b'{"name": "k", "kind": "srv", "expires_at": "2999-01-01T00:00:00"}', "expires_at"),
        (b'{"name": "k", "kind": "srv", "id": 1}', "id"),
        (b"{}", "name"),
        (b"[]", None),
        (b"", None),
        (b"nonsense", None),
        (b'{"name": "\xff"}', None),
        (b'{"name":' + b"[" * 5_000, None),
    ],
)
async def test_an_invalid_request_names_the_field(client, body, field):
    answer = await client.post("/keys", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    if field is not None:
        assert field in answer.text
    assert (await client.get("/keys")).json() == {"keys": []}


@pytest.mark.parametrize("key_id", ["0", "1", "-1", "99999999999", "9" * 30, "9" * 5_000, "x", "%00", "1.5"])
async def test_revoking_what_is_not_there_is_not_found(client, key_id):
    assert (await client.delete(f"/keys/{key_id}")).status_code in {400, 404}
