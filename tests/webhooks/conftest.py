from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from random import Random
from typing import Any

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.postgres import psycopg_dsn
from app.webhooks.destination import NetworkPolicy
from app.webhooks.dispatch import Dispatcher
from app.webhooks.model import Endpoint
from app.webhooks.outbox import WebhookOutbox
from app.webhooks.sender import Sender
from app.webhooks.service import EndpointRequest, WebhookService
from app.webhooks.store import WebhookStore
from tests.support.clocks import SettableClock
from tests.support.receiver import Receiver
from tests.support.receiver import receiver as running_receiver


@pytest.fixture
async def database_url(module_database: str) -> str:
    """An engine whose database has no webhooks and numbers them from 1."""
    async with await psycopg.AsyncConnection.connect(psycopg_dsn(module_database)) as connection:
        await connection.execute(
            "TRUNCATE webhook_endpoints, webhook_messages, webhook_deliveries, webhook_attempts"
            " RESTART IDENTITY"
        )
    return module_database


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def receiver(anyio_backend) -> AsyncIterator[Receiver]:
    async with running_receiver() as running:
        yield running


@pytest.fixture
def policy(receiver: Receiver) -> NetworkPolicy:
    """A policy that allows loopback on the receiver's port, and the internet by https on 443."""
    return NetworkPolicy((ip_network("127.0.0.0/8"),), frozenset({443, receiver.port}))


@pytest.fixture
def store(engine: AsyncEngine) -> WebhookStore:
    return WebhookStore(engine)


@pytest.fixture
def webhooks(store: WebhookStore, policy: NetworkPolicy, clock: SettableClock) -> WebhookService:
    return WebhookService(store, policy, clock)


@pytest.fixture
def sender(policy: NetworkPolicy, clock: SettableClock) -> Sender:
    return Sender(policy, clock)


@pytest.fixture
def dispatcher(store: WebhookStore, sender: Sender, clock: SettableClock) -> Dispatcher:
    return Dispatcher(store, sender, clock, Random(20260101))


@pytest.fixture
async def endpoint(webhooks: WebhookService, receiver: Receiver) -> Endpoint:
    """A standard endpoint for all events."""
    endpoint, _ = await webhooks.create(EndpointRequest(url=receiver.url))
    return endpoint


@pytest.fixture
def enqueue(engine: AsyncEngine, clock: SettableClock) -> Callable[..., Any]:
    """A function that commits an event and returns its webhook id."""

    async def enqueue(key: str = "decision-1", event_type: str = "rollout.rolled_back", **data: Any) -> str:
        async with engine.begin() as connection:
            return await WebhookOutbox().enqueue(
                connection, key=key, type=event_type, data=data, at=clock.now()
            )

    return enqueue


@pytest.fixture
def deliver(dispatcher: Dispatcher) -> Callable[[], Any]:
    """A function that attempts all due deliveries in turn and returns their number."""

    async def deliver() -> int:
        claims = await dispatcher.claim(100)
        for claim in claims:
            await dispatcher.attempt(claim)
        return len(claims)

    return deliver
