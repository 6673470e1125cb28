"""Webhooks over HTTP."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from app.access.model import Scope
from app.webhooks.routes import ROUTES
from tests.support.api import KEYS, api, bearer, keyring_of_scopes
from tests.support.receiver import answer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(webhooks) -> AsyncIterator[httpx2.AsyncClient]:
    async with api(ROUTES, {"webhook_service": webhooks}, keyring_of_scopes()) as client:
        client.headers.update(bearer(KEYS[Scope.ADMIN]))
        yield client


async def test_a_secret_is_shown_once(client, receiver):
    made = await client.post("/webhooks", json={"url": receiver.url, "events": ["rollout.*"]})
    assert made.status_code == 201
    secret, webhook = made.json()["secret"], made.json()["webhook"]
    assert webhook["enabled"]
    rotated = await client.post(f"/webhooks/{webhook['id']}/rotate")
    assert rotated.status_code == 200
    assert rotated.json()["secret"] not in {secret, None}
    for answered in (await client.get("/webhooks"), await client.get(f"/webhooks/{webhook['id']}")):
        assert answered.status_code == 200
        assert "whsec_" not in answered.text


async def test_the_url_of_slack_is_a_secret_and_not_shown(client):
    url = "https://hooks.slack.com/services/T0/B0/very-secret"
    made = await client.post("/webhooks", json={"url": url, "adapter": "slack"})
    assert made.json()["secret"] is None
    assert "very-secret" not in made.text + (await client.get("/webhooks")).text


async def test_the_life_of_a_webhook(client, receiver, deliver):
    webhook = (await client.post("/webhooks", json={"url": receiver.url})).json()["webhook"]
    path = f"/webhooks/{webhook['id']}"
    pinged = await client.post(f"{path}/ping")
    assert pinged.status_code == 202
    receiver.replies = [answer(500)]
    await deliver()
    page = (await client.get(f"{path}/deliveries", params={"limit": 1})).json()
    (delivery,) = page["deliveries"]
    assert page["next"] is None
    assert (delivery["webhook_id"], delivery["type"]) == (pinged.json()["webhook_id"], "webhook.ping")
    assert delivery["state"] == "failed"
    assert delivery["attempts"][0]["status"] == 500
    again = await client.post(f"/deliveries/{delivery['id']}/redeliver")
    assert (again.status_code, again.json()["state"]) == (202, "pending")
    changed = await client.patch(path, json={"enabled": False})
    assert (changed.json()["enabled"], changed.json()["disabled_reason"]) == (False, "by an administrator")
    assert (await client.post(f"{path}/ping")).status_code == 409
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404
    assert (await client.get("/webhooks")).json() == {"webhooks": []}


CALLS = [
    ("GET", "/webhooks"),
    ("POST", "/webhooks"),
    ("GET", "/webhooks/1"),
    ("PATCH", "/webhooks/1"),
    ("DELETE", "/webhooks/1"),
    ("POST", "/webhooks/1/rotate"),
    ("POST", "/webhooks/1/ping"),
    ("GET", "/webhooks/1/deliveries"),
    ("POST", "/deliveries/1/redeliver"),
]


async def test_only_administrators_manage_webhooks(client):
    for scope in set(Scope) - {Scope.ADMIN}:
        for method, path in CALLS:
            refused = await client.request(method, path, headers=bearer(KEYS[scope]))
            assert refused.status_code == 403, (scope, method, path)


REFUSED = [
    ({}, "url"),
    ({"url": ""}, "url"),
    ({"url": 7}, "url"),
    ({"url": "http://93.184.216.34/"}, "url"),
    ({"url": "https://10.0.0.1/"}, "url"),
    ({"url": "https://169.254.169.254/"}, "url"),
    ({"url": "https://[::ffff:10.0.0.1]/"}, "url"),
    ({"url": "https://example.com:8443/"}, "url"),
    ({"url": "https://example.com/" + "a" * 3_000}, "url"),
    ({"url": "https://example.com/", "adapter": "fax"}, "adapter"),
    ({"url": "https://example.com/", "events": []}, "events"),
    ({"url": "https://example.com/", "events": ["Rollout"]}, "events[0]"),
    ({"url": "https://example.com/", "events": ["a"] * 65}, "events"),
    ({"url": "https://example.com/", "description": "\0"}, "description"),
    ({"url": "https://example.com/", "secret": "x"}, "secret"),
    ({"url": "https://example.com/", "adapter": "github"}, "secret"),
    ({"url": "https://example.com/", "adapter": "github", "secret": "a\r\nX: y"}, "secret"),
    ({"url": "https://example.com/", "id": 1}, "id"),
]


async def test_an_invalid_request_names_the_field(client):
    for body, field in REFUSED:
        refused = await client.post("/webhooks", json=body)
        assert refused.status_code == 400, body
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["errors"][0]["field"] == field, body
    assert (await client.get("/webhooks")).json() == {"webhooks": []}


async def test_missing_objects_are_not_found(client):
    for number in ["0", "-1", "99999999999", "9" * 30, "9" * 5_000, "x", "1.5"]:
        for path in (f"/webhooks/{number}", f"/webhooks/{number}/deliveries"):
            assert (await client.get(path)).status_code in {400, 404}, path
        assert (await client.post(f"/deliveries/{number}/redeliver")).status_code in {400, 404}


async def test_a_page_has_a_size_and_comes_after_an_id(client):
    webhook = (await client.post("/webhooks", json={"url": "https://example.com/"})).json()["webhook"]
    path = f"/webhooks/{webhook['id']}/deliveries"
    for wrong in ("limit=0", "limit=501", "limit=x", "after=x", "after=0", f"after={2**63}", "after=-1"):
        assert (await client.get(f"{path}?{wrong}")).status_code == 400, wrong
    assert (await client.get(f"{path}?after={2**63 - 1}&limit=500")).status_code == 200
