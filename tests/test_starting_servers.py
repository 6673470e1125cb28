"""Servers while an engine is away, empty or being refilled: what exists is never called unknown."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.access.service import AccessService, KeyRequest
from app.access.store import AccessStore
from app.allocation import limits as allocation_limits
from app.allocation.kill_store import KillStore
from app.allocation.kill_switch import KillSwitch
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.assignment.published_store import PublishedStore
from app.assignment.snapshot_keeper import SnapshotKeeper
from app.assignment.store import KILLED_KEY, WHOLE_KEY
from app.core.clock import SystemClock
from app.core.serving import Ending
from app.core.settings import Settings
from app.core.telemetry import REALLOCATIONS
from app.core.valkey import registry_key
from app.experiments.model import Definition, Variant
from app.experiments.policies import FixedPolicy
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.server import application
from tests.support.dying import Dying
from tests.support.polling import eventually

pytestmark = pytest.mark.anyio

ADMIN_KEY = "an-admin-key-of-the-tests"
NO_VALKEY = "redis://127.0.0.1:1"
NO_DATABASE = "postgresql://wald@127.0.0.1:1/wald"
KEYS = [f"exp-{n}" for n in range(6)]
ALL_V2 = FixedPolicy({"v1": 0, "v2": 1})


class Installed(NamedTuple):
    """Services on both engines, as a worker has them."""

    access: AccessService
    allocation: AllocationService
    store: AllocationStore
    experiments: ExperimentService
    switch: KillSwitch


@pytest.fixture
async def installed(engine: AsyncEngine, valkey: Redis) -> Installed:
    """Six running experiments that servers know."""
    clock = SystemClock()
    access = AccessService(AccessStore(engine, valkey), clock)
    await access.ensure_signing_key()
    await access.ensure_admin_key(ADMIN_KEY)
    store = AllocationStore(engine, valkey)
    allocation = AllocationService(store, clock)
    experiments = ExperimentService(ExperimentStore(engine), clock, allocation.reallocate)
    for key in KEYS:
        await define(experiments, key)
    await allocation.refill_if_lost()
    switch = KillSwitch(KillStore(engine, valkey), clock, allocation.reallocate)
    return Installed(access, allocation, store, experiments, switch)


async def define(experiments: ExperimentService, key: str) -> None:
    variants = (Variant("v1", control=True), Variant("v2"))
    await experiments.create(Definition(key=key, variants=variants, policy=ALL_V2))
    await experiments.start(key)


@asynccontextmanager
async def server(valkey_url: str, database_url: str, folder: Path) -> AsyncIterator[httpx2.AsyncClient]:
    settings = Settings(valkey_url=valkey_url, database_url=database_url, snapshot_dir=folder)
    async with application(settings, Ending()) as (app, _):
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://wald", headers=headers) as client:
            yield client


async def assign(client: httpx2.AsyncClient, key: str) -> httpx2.Response:
    return await client.get("/assign", params={"experiment": key, "unit": "u"})


def event(key: str) -> dict[str, Any]:
    return {"experiment": key, "unit": "u", "signal": "thumbs_up"}


def recorded(answer: httpx2.Response) -> bool:
    return not base64.urlsafe_b64decode(answer.json()["assignment_id"])[2] & 1


async def check(client: httpx2.AsyncClient, name: str) -> dict[str, Any]:
    checks = (await client.get("/ready")).json()["checks"]
    return next(one for one in checks if one["name"] == name)


def assert_unavailable(answer: httpx2.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_server_that_starts_on_an_emptied_valkey_knows_everything_from_postgres(
    installed: Installed, valkey: Redis, valkey_url: str, database_url: str, tmp_path: Path
) -> None:
    await valkey.flushall()
    async with server(valkey_url, database_url, tmp_path) as client:
        assert (await client.get("/ready")).status_code == 200
        for key in KEYS:
            answer = await assign(client, key)
            assert (answer.status_code, answer.json()["variant"]) == (200, "v2")
        receipt = await client.post("/feedback", json=[event(key) for key in KEYS])
        assert (receipt.json()["accepted"], receipt.json()["rejected"]) == (len(KEYS), [])
        assert (await assign(client, "no-such")).status_code == 404


async def test_while_valkey_refills_and_postgres_is_away_what_is_not_known_yet_is_never_called_unknown(
    installed: Installed, valkey: Redis, valkey_url: str, tmp_path: Path
) -> None:
    await valkey.flushall()
    await installed.access.publish()
    (page,) = [page async for page in installed.store.stored_pages()]
    await installed.store.publish_page(page[:2])
    async with server(valkey_url, NO_DATABASE, tmp_path) as client:
        assert (await client.get("/ready")).status_code == 503
        assert (await check(client, "snapshot"))["critical"]
        assert (await assign(client, KEYS[0])).status_code == 200
        for key in (*KEYS[2:], "no-such"):
            assert_unavailable(await assign(client, key))
        assert_unavailable(await client.post("/assign", json={"unit": "u"}))
        assert_unavailable(await client.post("/assign", json={"unit": "u", "experiments": KEYS}))
        assert_unavailable(await client.post("/feedback", json=event(KEYS[3])))
        assert_unavailable(await client.post("/feedback", json=[event(key) for key in KEYS]))
        known = await client.post("/feedback", json=[event(key) for key in KEYS[:2]])
        answer = known.json()
        assert (answer["accepted"], answer["rejected"]) == (2, []), (
            "and of the request before nothing was taken"
        )

        assert await installed.allocation.refill_if_lost() == len(KEYS)

        async def is_ready() -> bool:
            return (await client.get("/ready")).status_code == 200

        await eventually(is_ready)
        receipt = await client.post("/feedback", json=[event(key) for key in KEYS])
        assert (receipt.json()["accepted"], receipt.json()["rejected"]) == (len(KEYS), [])
        assert (await assign(client, KEYS[5])).status_code == 200
        assert (await assign(client, "no-such")).status_code == 404
        assert (await client.post("/feedback", json=event("no-such"))).status_code == 404
        assert len((await client.post("/assign", json={"unit": "u"})).json()["assignments"]) == len(KEYS)


async def test_a_server_that_starts_without_valkey_loads_from_postgres_and_follows_it(
    installed: Installed, database_url: str, tmp_path: Path
) -> None:
    await installed.switch.kill(KEYS[1], by="key 1", reason="it swears")
    revoked, secret = await installed.access.create(
        KeyRequest(name="gone soon", scopes=frozenset({"assign"}))
    )
    async with server(NO_VALKEY, database_url, tmp_path) as client:
        answer = await assign(client, KEYS[0])
        assert (answer.status_code, answer.json()["variant"]) == (200, "v2")
        assert not recorded(answer)
        killed = (await assign(client, KEYS[1])).json()
        assert (killed["variant"], killed["reason"]) == ("v1", "DISABLED")
        assert (await assign(client, "no-such")).status_code == 404
        assert_unavailable(await client.post("/feedback", json=event(KEYS[0])))
        assert (await check(client, "snapshot"))["ok"]
        assert not (await check(client, "valkey"))["ok"]
        headers = {"Authorization": f"Bearer {secret}"}
        parameters = {"experiment": KEYS[0], "unit": "u"}
        assert (await client.get("/assign", params=parameters, headers=headers)).status_code == 200

        await installed.access.revoke(revoked.id)
        await define(installed.experiments, "defined-meanwhile")
        await installed.switch.revive(KEYS[1], by="key 1", reason="mended")

        async def is_known() -> bool:
            return (await assign(client, "defined-meanwhile")).status_code == 200

        async def is_revoked() -> bool:
            return (await client.get("/assign", params=parameters, headers=headers)).status_code == 401

        async def is_revived() -> bool:
            return bool((await assign(client, KEYS[1])).json()["variant"] == "v2")

        for condition in (is_known, is_revoked, is_revived):
            await eventually(condition)


async def test_a_server_that_starts_while_postgres_is_away_loads_from_valkey_alone(
    installed: Installed, valkey_url: str, tmp_path: Path
) -> None:
    async with server(valkey_url, NO_DATABASE, tmp_path) as client:
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        for key in KEYS:
            answer = await assign(client, key)
            assert answer.status_code == 200
            assert recorded(answer)
        assert (await assign(client, "no-such")).status_code == 404


async def test_a_server_that_starts_with_neither_and_without_a_file_answers_503(tmp_path: Path) -> None:
    async with server(NO_VALKEY, NO_DATABASE, tmp_path) as client:
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/health")).status_code == 200
        assert_unavailable(await assign(client, KEYS[0]))
        assert_unavailable(await client.post("/feedback", json=event(KEYS[0])))


async def test_a_running_server_keeps_everything_when_valkey_is_emptied_again_and_again(
    installed: Installed, valkey: Redis, valkey_url: str, database_url: str, tmp_path: Path
) -> None:
    async with server(valkey_url, database_url, tmp_path) as client:
        for _ in range(3):
            await valkey.flushall()
            for _ in range(5):
                for key in KEYS:
                    assert (await assign(client, key)).status_code == 200
                receipt = await client.post("/feedback", json=[event(key) for key in KEYS])
                assert (receipt.json()["accepted"], receipt.json()["rejected"]) == (len(KEYS), [])
            assert await installed.allocation.refill_if_lost() == len(KEYS)


async def test_a_valkey_that_is_emptied_while_a_server_reads_it_does_not_count_as_everything(
    installed: Installed, valkey: Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = SnapshotKeeper(valkey_url, SystemClock())
    read_versions = keeper._store.versions

    async def emptied_before() -> dict[str, int]:
        await valkey.flushall()
        return await read_versions()

    monkeypatch.setattr(keeper._store, "versions", emptied_before)
    await keeper.start()
    try:
        assert not keeper.loaded
        assert not keeper.snapshot.complete
        monkeypatch.undo()
        await installed.access.publish()
        await installed.allocation.refill_if_lost()
        await eventually(lambda: keeper.loaded and keeper.snapshot.complete)
        assert set(keeper.snapshot.by_key) == set(KEYS)
    finally:
        await keeper.stop()


async def test_a_refill_computes_nothing_and_gives_back_equal_bytes(
    installed: Installed, valkey: Redis
) -> None:
    def computed() -> float:
        return sum(REALLOCATIONS.labels(result)._value.get() for result in ("changed", "unchanged"))

    before, names = computed(), [registry_key(name) for name in ("experiments", "versions")]
    content = [await valkey.hgetall(name) for name in names]
    await valkey.flushall()
    assert await installed.allocation.refill_if_lost() == len(KEYS)
    assert [await valkey.hgetall(name) for name in names] == content
    assert computed() == before
    assert await installed.allocation.due() == []
    assert await installed.allocation.refill_if_lost() is None


@pytest.mark.parametrize("answered", [False, True])
async def test_a_worker_that_dies_during_a_refill_never_marks_a_part_as_whole(
    installed: Installed, valkey: Redis, answered: bool
) -> None:
    content = await valkey.hgetall(registry_key("experiments"))
    for number in range(1, 200):
        await valkey.flushall()
        dying = Dying(installed.allocation.refill_if_lost(), number, answered=answered)
        await asyncio.wait({dying.task})
        if await valkey.exists(WHOLE_KEY):
            assert await valkey.hgetall(registry_key("experiments")) == content
        if dying.waits < number:
            return
        await installed.allocation.refill_if_lost()
        assert await valkey.hgetall(registry_key("experiments")) == content
        assert await valkey.exists(WHOLE_KEY)
    raise AssertionError("a refill has fewer waits")


async def test_a_valkey_that_is_emptied_during_a_refill_is_not_called_whole(
    installed: Installed, valkey: Redis
) -> None:
    await valkey.flushall()
    token = await installed.store.begin_refill()
    assert token is not None
    await valkey.flushall()
    assert not await installed.store.end_refill(token)
    other = await installed.store.begin_refill()
    assert other is not None
    assert not await installed.store.end_refill(token), "another worker took over"
    assert await installed.store.end_refill(other)
    assert await installed.store.begin_refill() is None


async def test_what_is_stored_is_what_was_published_and_what_is_missing_is_computed(
    installed: Installed, engine: AsyncEngine, valkey: Redis
) -> None:
    """As after an upgrade: the table is empty, and the first worker fills it."""
    content = await valkey.hgetall(registry_key("experiments"))
    store = PublishedStore(engine)
    stored = {one.key.encode(): one.body async for page in store.pages() for one in page}
    assert stored == content
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            "DELETE FROM published_experiments WHERE experiment_id IN (SELECT id FROM experiments LIMIT 2)"
        )
    assert (await store.fingerprint()).missing == 2
    assert await installed.allocation.store_missing() == 2
    assert len(await installed.allocation.due()) == 2
    await valkey.flushall()
    assert await installed.allocation.refill_if_lost() == len(KEYS)
    assert await valkey.hgetall(registry_key("experiments")) == content
    assert (await store.fingerprint()).missing == 0
    assert await installed.allocation.due() == []


async def test_a_kill_with_valkey_gone_is_in_force_at_the_answer_and_then_on_other_servers(
    installed: Installed, database_url: str, tmp_path: Path
) -> None:
    async with (
        server(NO_VALKEY, database_url, tmp_path / "1") as one,
        server(NO_VALKEY, database_url, tmp_path / "2") as two,
    ):

        def serves(client: httpx2.AsyncClient, variant: str) -> Any:
            async def is_served() -> bool:
                return bool((await assign(client, KEYS[2])).json()["variant"] == variant)

            return is_served

        for way, variant in (
            ("kill", "v1"),
            ("kill", "v1"),
            ("revive", "v2"),
            ("revive", "v2"),
            ("kill", "v1"),
        ):
            done = await one.post(f"/experiments/{KEYS[2]}/{way}", json={"reason": "a test"})
            assert done.json() == {
                "experiment": KEYS[2], "killed": way == "kill", "applied": True, "recorded": True,
            }  # fmt: skip
            assert await serves(one, variant)()
            await eventually(serves(two, variant))
        for way in ("kill", "revive"):
            assert (await one.post(f"/experiments/no-such/{way}", json={"reason": "x"})).status_code == 404


async def test_a_kill_that_no_engine_has_is_kept_here_and_spread_when_one_is_back(
    installed: Installed, valkey: Redis, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocation_limits, "KILL_RECORD_INTERVAL_S", 0.05)
    before = (await valkey.config_get("maxmemory"))["maxmemory"]
    async with server(valkey_url, NO_DATABASE, tmp_path) as client:
        await valkey.config_set("maxmemory", 1)
        try:
            for _ in range(2):
                done = await client.post(f"/experiments/{KEYS[0]}/kill", json={"reason": "a test"})
                said = done.json()
                assert (said["applied"], said["recorded"], said["servers"]) == (True, False, "this")
                assert (await assign(client, KEYS[0])).json()["reason"] == "DISABLED"
            assert_unavailable(await client.post(f"/experiments/{KEYS[0]}/revive", json={"reason": "a test"}))
            assert (await client.post("/experiments/no-such/kill", json={"reason": "x"})).status_code == 404
        finally:
            await valkey.config_set("maxmemory", before)

        async def has_it() -> bool:
            return bool(await valkey.hexists(KILLED_KEY, KEYS[0]))

        await eventually(has_it)
        assert (await assign(client, KEYS[0])).json()["reason"] == "DISABLED"
    await installed.switch.record_waiting()
    assert (await installed.experiments.get(KEYS[0])).killed
    assert not await has_it()
