"""What one server has answered, all servers know: new keys, revoked keys and started experiments."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import NamedTuple

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from app.access.model import KeyKind, plaintext
from app.access.service import AccessService
from app.access.store import AccessStore
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.assignment.limits import REFRESH_SPACING_S
from app.assignment.snapshot_keeper import SnapshotKeeper
from app.core.clock import SystemClock
from app.core.postgres import create_engine
from app.core.serving import Ending
from app.core.settings import Settings
from app.core.valkey import create_client
from app.server import application

pytestmark = pytest.mark.anyio
ADMIN_KEY = "a-key-that-the-environment-presets"
VARIANTS = [{"key": "a", "control": True}, {"key": "b"}]


class Servers(NamedTuple):
    """Two servers on the same engines, called in process."""

    first: httpx2.AsyncClient
    second: httpx2.AsyncClient

    async def make_key(self, kind: str = "srv") -> tuple[int, dict[str, str]]:
        """Its id and header."""
        answer = await self.first.post("/keys", json={"name": "k", "kind": kind}, headers=bearer(ADMIN_KEY))
        made = answer.raise_for_status().json()
        return made["key"]["id"], bearer(made["secret"])


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def made_up(kind: KeyKind = KeyKind.SERVER) -> dict[str, str]:
    """A header with a well-formed key that no server has made."""
    return bearer(plaintext(kind, secrets.token_bytes(32)))


@pytest.fixture
async def servers(database_url: str, valkey_url: str) -> AsyncIterator[Servers]:
    configured = Settings(valkey_url=valkey_url, database_url=database_url, admin_key=ADMIN_KEY)
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            app, _fast_paths = await stack.enter_async_context(application(configured, Ending()))
            transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
            client = httpx2.AsyncClient(transport=transport, base_url="http://wald")
            clients.append(await stack.enter_async_context(client))
        await refill(database_url, valkey_url)
        yield Servers(*clients)


async def refill(database_url: str, valkey_url: str) -> None:
    """Do what a worker does first, so that servers take Valkey's word for what there is."""
    engine, valkey = create_engine(database_url), create_client(valkey_url)
    try:
        await AllocationService(AllocationStore(engine, valkey), SystemClock()).refill_if_lost()
    finally:
        await valkey.aclose()
        await engine.dispose()


async def test_a_new_key_is_never_refused_by_any_server(servers):
    for _ in range(20):
        _, header = await servers.make_key()
        answers = await asyncio.gather(*(one.get("/experiments", headers=header) for one in servers))
        assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_revoked_key_is_refused_at_once_by_the_server_that_revoked_it(servers):
    key_id, header = await servers.make_key()
    assert (await servers.first.get("/experiments", headers=header)).status_code == 200
    gone = await servers.first.delete(f"/keys/{key_id}", headers=bearer(ADMIN_KEY))
    assert gone.status_code == 204
    assert (await servers.first.get("/experiments", headers=header)).status_code == 401


async def test_an_experiment_that_was_started_is_served_at_once_by_any_server(servers):
    for number in range(10):
        admin, key = bearer(ADMIN_KEY), f"e{number}"
        made = await servers.first.post(
            "/experiments", json={"key": key, "variants": VARIANTS}, headers=admin
        )
        assert made.status_code == 201
        assert (await servers.first.post(f"/experiments/{key}/start", headers=admin)).status_code == 200
        for server in servers:
            assigned = await server.get(f"/assign?experiment={key}&unit=u", headers=admin)
            assert assigned.json()["reason"] == "SPLIT"
        every = await servers.first.post("/assign", json={"unit": "u"}, headers=admin)
        assert key in {one["experiment"] for one in every.json()["assignments"]}
        stopped = await servers.first.post(f"/experiments/{key}/stop", json={"winner": "b"}, headers=admin)
        assert stopped.status_code == 200
        served = (await servers.first.get(f"/assign?experiment={key}&unit=u", headers=admin)).json()
        assert (served["variant"], served["reason"]) == ("b", "DISABLED")


async def test_made_up_keys_cost_few_looks_at_valkey_however_many_they_are(servers, valkey):
    await valkey.config_resetstat()
    begun = asyncio.get_running_loop().time()
    answers = await asyncio.gather(
        *(servers.first.get("/experiments", headers=made_up()) for _ in range(300))
    )
    seconds = asyncio.get_running_loop().time() - begun
    assert {answer.status_code for answer in answers} <= {401, 429, 503}
    assert await commands(valkey, "hget") <= 2 * (3 + seconds / REFRESH_SPACING_S)


async def test_known_keys_and_mistyped_ones_cost_no_look_at_valkey(servers, valkey):
    await valkey.config_resetstat()
    mistyped = bearer(plaintext(KeyKind.SERVER, secrets.token_bytes(32))[:-1] + "~")
    for header, status in ((bearer(ADMIN_KEY), 200), (mistyped, 401), (bearer("nonsense"), 401)):
        assert (await servers.first.get("/experiments", headers=header)).status_code == status
    assert await commands(valkey, "hget") == 0


async def commands(valkey: Redis, name: str) -> int:
    """How often a command was called since the statistics were reset."""
    return (await valkey.info("commandstats")).get(f"cmdstat_{name}", {}).get("calls", 0)


async def test_without_valkey_a_new_key_works_where_it_was_made_and_an_unknown_one_is_503(
    database_url, valkey_url, tmp_path
):
    engine, valkey = create_engine(database_url), create_client(valkey_url)
    keeper = SnapshotKeeper(valkey_url, SystemClock())
    try:
        here = AccessService(AccessStore(engine, valkey), SystemClock(), keeper.adopt_access)
        await here.ensure_signing_key()
        await refill(database_url, valkey_url)
        await keeper.start()
        nobody = create_client(f"unix://{tmp_path}/nobody.sock")
        apart = AccessService(AccessStore(engine, nobody), SystemClock(), keeper.adopt_access)
        await apart.ensure_admin_key(ADMIN_KEY)
        assert await keeper.load_access()  # what is published is older, and does not replace it
        assert keeper.keyring is not None
        assert await apart.has_admin_key()
        assert keeper.keyring.revision == (await AccessStore(engine, valkey).snapshot()).revision
        await here.publish_if_due()
        assert await keeper.load_access()
        assert keeper.keyring.revision == (await AccessStore(engine, valkey).snapshot()).revision
    finally:
        await keeper.stop()
        await valkey.aclose()
        await engine.dispose()


async def test_a_new_key_is_never_401_while_valkey_has_lost_everything(servers, valkey):
    for _ in range(5):
        await valkey.flushall()
        _, header = await servers.make_key()
        answer = await servers.second.get("/experiments", headers=header)
        assert answer.status_code in {200, 503}
        assert answer.status_code == 200 or answer.headers["retry-after"] == "1"
        assert (await servers.second.get("/experiments", headers=bearer(ADMIN_KEY))).status_code == 200


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(["make", "revoke", "use"]), min_size=1, max_size=8))
async def test_any_sequence_of_making_and_revoking_keys_holds_at_once_on_the_server_that_did_it(
    servers, steps
):
    keys: dict[int, dict[str, str]] = {}
    revoked: list[dict[str, str]] = []
    for step in steps:
        if step == "make":
            key_id, header = await servers.make_key()
            keys[key_id] = header
        elif step == "revoke" and keys:
            key_id, header = keys.popitem()
            await servers.first.delete(f"/keys/{key_id}", headers=bearer(ADMIN_KEY))
            revoked.append(header)
        for header in keys.values():
            assert (await servers.first.get("/experiments", headers=header)).status_code == 200
            assert (await servers.second.get("/experiments", headers=header)).status_code == 200
        for header in revoked:
            assert (await servers.first.get("/experiments", headers=header)).status_code == 401
