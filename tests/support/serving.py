"""A server on a real port, in this process, on the engines of the tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx2
import psycopg

from app.access.model import KeyRing
from app.access.service import AccessService
from app.access.store import AccessStore
from app.core.clock import SystemClock
from app.core.postgres import create_engine, psycopg_dsn
from app.core.serving import Ending, serve_http
from app.core.settings import Settings
from app.core.valkey import create_client
from app.server import application
from tests.support.server import free_port, listening

ADMIN_KEY = "an-admin-key-of-the-tests"
FIRST_KEY_ID = 1_000_003
"""Generated requests do not hit upon it, and revoke the key they are made with."""


class Served(NamedTuple):
    """A running server."""

    url: str
    port: int
    settings: Settings
    ending: Ending

    def client(self, **headers: str) -> httpx2.AsyncClient:
        """A client with the admin key and these headers."""
        carried = {"Authorization": f"Bearer {ADMIN_KEY}"} | headers
        return httpx2.AsyncClient(base_url=self.url, headers=carried, verify=False, timeout=20)

    def stranger(self, **headers: str) -> httpx2.AsyncClient:
        """A client without a key."""
        return httpx2.AsyncClient(base_url=self.url, headers=headers, verify=False, timeout=20)


async def ensure_keys(database_url: str, valkey_url: str) -> KeyRing:
    """Make a signing key and the admin key, and publish them."""
    async with await psycopg.AsyncConnection.connect(
        psycopg_dsn(database_url), autocommit=True
    ) as connection:
        await connection.execute(f"ALTER TABLE api_keys ALTER COLUMN id RESTART WITH {FIRST_KEY_ID}")
    engine, valkey = create_engine(database_url), create_client(valkey_url)
    store = AccessStore(engine, valkey)
    access = AccessService(store, SystemClock())
    await access.ensure_signing_key()
    await access.ensure_admin_key(ADMIN_KEY)
    keyring = KeyRing(await store.snapshot())
    await valkey.aclose()
    await engine.dispose()
    return keyring


@asynccontextmanager
async def served(database_url: str, valkey_url: str, **options: Any) -> AsyncIterator[Served]:
    """A server until the block ends; `options` are settings."""
    port = free_port()
    settings = Settings(valkey_url=valkey_url, database_url=database_url, port=port, **options)
    ending = Ending()
    async with application(settings, ending) as (app, protocol):
        serving = asyncio.create_task(
            serve_http(app, host="127.0.0.1", port=port, ending=ending, protocol=protocol)
        )
        await listening(port)
        yield Served(f"http://127.0.0.1:{port}", port, settings, ending)
        ending.begin()
        await serving
