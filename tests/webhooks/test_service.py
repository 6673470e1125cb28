"""Endpoints on a real database."""

from datetime import timedelta

import pytest

from app.core.errors import Conflict, InvalidInput, NotFound
from app.webhooks import limits
from app.webhooks.model import Adapter
from app.webhooks.service import EndpointChange, EndpointRequest, RotateRequest

pytestmark = pytest.mark.anyio

URL = "https://hooks.example/wald"


async def test_an_endpoint_is_stored_as_it_was_asked_for(webhooks, clock):
    asked = EndpointRequest(url=URL, events=("rollout.*", "alert.fired"), description="on call")
    made, secret = await webhooks.create(asked)
    assert secret.startswith("whsec_")
    assert (made.url, made.events, made.description) == (asked.url, asked.events, asked.description)
    assert made.created_at == clock.now()
    assert made.disabled is None
    assert await webhooks.list() == [made] == [await webhooks.get(made.id)]


async def test_no_two_endpoints_have_one_secret(webhooks):
    secrets = {(await webhooks.create(EndpointRequest(url=URL)))[1] for _ in range(3)}
    assert len(secrets) == 3


async def test_a_secret_that_the_receiver_makes_must_be_given_and_is_not_shown(webhooks):
    adapter = Adapter.PAGERDUTY
    with pytest.raises(InvalidInput, match="is required") as caught:
        await webhooks.create(EndpointRequest(url=URL, adapter=adapter))
    assert caught.value.errors[0].field == "secret"
    endpoint, shown = await webhooks.create(EndpointRequest(url=URL, adapter=adapter, secret="a-token"))
    assert shown is None
    assert (await webhooks.rotate(endpoint.id, RotateRequest(secret="another")))[1] is None
    with pytest.raises(InvalidInput, match="is required"):
        await webhooks.rotate(endpoint.id, RotateRequest())


async def test_a_secret_that_no_receiver_makes_must_not_be_given(webhooks):
    for adapter in (Adapter.STANDARD, Adapter.SLACK):
        with pytest.raises(InvalidInput, match="must not be given"):
            await webhooks.create(EndpointRequest(url=URL, adapter=adapter, secret="a-token"))


async def test_where_the_url_is_the_secret_there_is_none_to_rotate(webhooks):
    endpoint, _ = await webhooks.create(EndpointRequest(url=URL, adapter=Adapter.SLACK))
    with pytest.raises(InvalidInput, match="change its url"):
        await webhooks.rotate(endpoint.id, RotateRequest())


async def test_a_rotation_returns_how_long_the_old_secret_signs(webhooks, clock):
    endpoint, before = await webhooks.create(EndpointRequest(url=URL))
    rotated, after = await webhooks.rotate(endpoint.id, RotateRequest())
    assert after != before
    assert rotated.previous_until == clock.now() + timedelta(seconds=limits.WEBHOOK_SECRET_OVERLAP_S)


async def test_absent_fields_do_not_change(webhooks):
    endpoint, _ = await webhooks.create(EndpointRequest(url=URL, events=("a.*",), description="d"))
    assert await webhooks.change(endpoint.id, EndpointChange()) == endpoint
    changed = await webhooks.change(endpoint.id, EndpointChange(url="https://other.example/"))
    assert (changed.url, changed.events, changed.description) == ("https://other.example/", ("a.*",), "d")
    changed = await webhooks.change(endpoint.id, EndpointChange(events=("b",), description=""))
    assert (changed.events, changed.description) == (("b",), "")


async def test_disabled_and_enabled_again(webhooks, clock):
    endpoint, _ = await webhooks.create(EndpointRequest(url=URL))
    disabled = await webhooks.change(endpoint.id, EndpointChange(enabled=False))
    assert (disabled.disabled.at, disabled.disabled.reason) == (clock.now(), "by an administrator")
    clock.forward(60)
    assert await webhooks.change(endpoint.id, EndpointChange(enabled=False)) == disabled
    with pytest.raises(Conflict, match="enable it first"):
        await webhooks.ping(endpoint.id)
    assert await webhooks.change(endpoint.id, EndpointChange(enabled=True)) == endpoint


async def test_a_ping_goes_to_its_endpoint_alone_whatever_it_filters(webhooks, receiver, deliver):
    other, _ = await webhooks.create(EndpointRequest(url=f"{receiver.url}/other"))
    endpoint, _ = await webhooks.create(EndpointRequest(url=receiver.url, events=("rollout.*",)))
    told = await webhooks.ping(endpoint.id)
    assert await deliver() == 1
    (received,) = receiver.received
    assert received.headers["webhook-id"] == told
    assert received.json["type"] == "webhook.ping"
    assert (await webhooks.deliveries(other.id, after=None, limit=1))[0] == []


async def test_deliveries_are_paged_from_the_newest(webhooks):
    endpoint, _ = await webhooks.create(EndpointRequest(url=URL))
    told = [await webhooks.ping(endpoint.id) for _ in range(5)]
    seen, after, pages = [], None, 0
    while True:
        page, after = await webhooks.deliveries(endpoint.id, after=after, limit=2)
        seen += [delivery.webhook_id for delivery in page]
        pages += 1
        if after is None:
            break
    assert seen == told[::-1]
    assert pages == 3


async def test_a_delivery_in_progress_cannot_be_repeated(webhooks, receiver, dispatcher):
    endpoint, _ = await webhooks.create(EndpointRequest(url=receiver.url))
    await webhooks.ping(endpoint.id)
    (claim,) = await dispatcher.claim(1)
    with pytest.raises(Conflict, match="is being sent now"):
        await webhooks.redeliver(claim.delivery_id)
    await dispatcher.attempt(claim)
    assert (await webhooks.redeliver(claim.delivery_id)).state == "pending"
    await webhooks.change(endpoint.id, EndpointChange(enabled=False))
    with pytest.raises(Conflict, match="enable it first"):
        await webhooks.redeliver(claim.delivery_id)


async def test_there_is_a_bound_on_endpoints(webhooks, monkeypatch):
    monkeypatch.setattr(limits, "WEBHOOK_ENDPOINTS_MAX", 2)
    for _ in range(2):
        await webhooks.create(EndpointRequest(url=URL))
    with pytest.raises(Conflict, match="2 webhooks already"):
        await webhooks.create(EndpointRequest(url=URL))


async def test_missing_objects_are_not_found(webhooks):
    for missing in (0, -1, 7, 2**31, 10**30):
        for attempt in (
            webhooks.get(missing),
            webhooks.change(missing, EndpointChange(enabled=True)),
            webhooks.delete(missing),
            webhooks.rotate(missing, RotateRequest()),
            webhooks.ping(missing),
            webhooks.deliveries(missing, after=None, limit=1),
            webhooks.redeliver(missing),
        ):
            with pytest.raises(NotFound):
                await attempt
