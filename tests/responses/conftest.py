"""A server and a worker with a running experiment, for the tests of responses."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx2
import psycopg
import pytest

from app.core.postgres import psycopg_dsn
from tests.support.polling import eventually
from tests.support.serving import ensure_keys, served
from tests.support.working import working


class Product(NamedTuple):
    """A product with Wald: a client with the admin key, and the database behind it."""

    client: httpx2.AsyncClient
    database_url: str

    async def start(self, key: str = "exp", **definition: Any) -> None:
        """Create and start an experiment with two equal variants."""
        made = {
            "key": key,
            "variants": [{"key": "control", "control": True}, {"key": "other"}],
            "policy": {"kind": "fixed", "weights": {"control": 0.5, "other": 0.5}},
        }
        answer = await self.client.post("/experiments", json=made | definition)
        assert answer.status_code == 201, answer.text
        answer = await self.client.post(f"/experiments/{key}/start", json={})
        assert answer.status_code == 200, answer.text

    async def assign(self, unit: str, key: str = "exp") -> dict[str, Any]:
        """Assign a unit."""
        answer = await self.client.get("/assign", params={"experiment": key, "unit": unit})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def respond(self, *responses: dict[str, Any]) -> dict[str, Any]:
        """Send responses that must all be accepted."""
        answer = await self.client.post("/responses", json=list(responses))
        assert answer.status_code == 202, answer.text
        assert not answer.json()["rejected"], answer.text
        return answer.json()

    async def rate(self, **event: Any) -> dict[str, Any]:
        """Send one event of feedback, which must be accepted."""
        answer = await self.client.post("/feedback", json=event)
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def settled(self, key: str = "exp") -> None:
        """Wait until everything that was acknowledged is in PostgreSQL."""

        async def no_lag() -> bool:
            status = (await self.client.get(f"/experiments/{key}/status")).json()
            return status["lag_events"] == 0

        await eventually(no_lag)

    def rows(self, statement: str) -> list[Any]:
        """Return the rows of a query."""
        with psycopg.connect(psycopg_dsn(self.database_url)) as connection:
            return connection.execute(statement).fetchall()  # type: ignore[call-overload]

    async def until(self, statement: str, expected: Any) -> None:
        """Wait until a query of one value gives it."""

        async def right() -> bool:
            return self.rows(statement)[0][0] == expected

        await eventually(right)


@pytest.fixture
async def product(database_url: str, valkey_url: str) -> AsyncIterator[Product]:
    """Yield a product without experiments."""
    await ensure_keys(database_url, valkey_url)
    async with served(database_url, valkey_url) as server, working(server), server.client() as client:
        yield Product(client, database_url)
