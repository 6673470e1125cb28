"""The snapshot: what is published arrives, and stays when Valkey is away or has lost it."""

import asyncio

import msgspec
import pytest

from app.assignment import snapshot
from app.assignment.snapshot import PreparedExperiment
from app.assignment.store import KILLED_KEY
from app.core.valkey import create_client, registry_key
from app.experiments.model import Condition, Stopped
from tests.assignment.conftest import running_server
from tests.support.polling import eventually
from tests.support.registry import ACCESS, SIGNING_KEY, START, experiment, publish

pytestmark = pytest.mark.anyio


def test_what_is_published_is_read_back_and_grows_in_version():
    full = experiment(
        shares=[0.2, 0.8],
        targeting=(Condition("tier", "in", ("gold",)),),
        overrides={"boss": "v1"},
        state=Stopped(START, START, winner="v1"),
        stickiness="strict",
    )
    assert snapshot.decode(snapshot.encode(full)) == full
    assert (full.state, full.winner, full.control, full.overrides) == ("stopped", 1, 0, {"boss": 1})
    assert full.variants[1].payload == b'{"prompt":"p1"}'
    assert experiment(revision=2).version > experiment().version < experiment(policy_version=2).version


def test_fields_of_a_later_version_are_ignored():
    later = msgspec.msgpack.decode(snapshot.encode(experiment())) | {"invented_later": [1, 2]}
    assert snapshot.decode(msgspec.msgpack.encode(later)) == experiment()


def test_shares_are_exact_probabilities():
    prepared = PreparedExperiment(experiment(shares=[0.1, 0.2, 0.7]))
    assert sum(prepared.propensities) == 1.0
    assert [int(share * 2**32) for share in prepared.propensities] == list(prepared.published.weights)


async def test_a_server_starts_with_what_is_published(valkey_url: str):
    await publish(valkey_url, *(experiment(f"exp-{n}", id=n) for n in range(1, 1_203)))
    async with running_server(valkey_url) as server:
        assert server.keeper.error is None
        assert len(server.keeper.snapshot.by_key) == len(server.keeper.snapshot.by_id) == 1_202
        assert server.keeper.snapshot.by_id[7].published.key == "exp-7"
        assert server.keeper.keyring is not None
        assert server.keeper.snapshot.signer is not None


async def test_a_change_arrives_by_itself_and_keeps_what_did_not_change(valkey_url: str):
    await publish(valkey_url, experiment("one", id=1), experiment("two", id=2))
    async with running_server(valkey_url) as server:
        one = server.keeper.snapshot.by_key["one"]
        await publish(valkey_url, experiment("two", id=2, policy_version=2, shares=[0.9, 0.1]))
        await eventually(lambda: server.keeper.snapshot.by_key["two"].published.policy_version == 2)
        assert server.keeper.snapshot.by_key["one"] is one


async def test_polling_finds_a_change_without_announcement(valkey_url: str):
    await publish(valkey_url)
    async with running_server(valkey_url) as server, create_client(valkey_url) as valkey:
        await valkey.hset(registry_key("experiments"), "exp", snapshot.encode(experiment()))
        await valkey.hset(registry_key("versions"), "exp", experiment().version)
        await valkey.incr(registry_key("revision"))
        await eventually(lambda: "exp" in server.keeper.snapshot.by_key)


async def test_waiting_for_a_refresh_shows_what_was_published_before(valkey_url: str):
    await publish(valkey_url)
    async with running_server(valkey_url) as server:
        for number in range(1, 6):
            await publish(valkey_url, experiment(f"exp-{number}", id=number))
            await asyncio.gather(*(server.keeper.refresh_soon() for _ in range(100)))
            assert f"exp-{number}" in server.keeper.snapshot.by_key


async def test_a_flushed_valkey_is_reported_and_loses_nothing(valkey_url: str):
    await publish(valkey_url, experiment("one", id=1), experiment("two", id=2))
    async with running_server(valkey_url) as server:
        async with create_client(valkey_url) as valkey:
            await valkey.flushall()
        await eventually(lambda: server.keeper.error is not None)
        assert set(server.keeper.snapshot.by_key) == {"one", "two"}
        # The worker brings it back piece by piece.
        await publish(valkey_url, experiment("two", id=2, policy_version=5), access=None)
        await eventually(lambda: server.keeper.error is None)
        assert server.keeper.snapshot.by_key["two"].published.policy_version == 5
        assert set(server.keeper.snapshot.by_key) == {"one", "two"}
        assert server.keeper.keyring is not None


async def test_a_server_that_starts_first_becomes_ready_with_the_first_publication(valkey_url: str):
    async with running_server(valkey_url) as server:
        assert server.keeper.error is not None
        await server.keeper.refresh_soon()
        await publish(valkey_url, experiment())
        await eventually(lambda: server.keeper.snapshot.signer is not None)
        assert "exp" in server.keeper.snapshot.by_key


async def test_a_server_starts_without_valkey():
    async with running_server("redis://127.0.0.1:1") as server:
        assert server.keeper.error is not None
        assert server.keeper.keyring is None
        assert not server.appender.connected


async def test_one_unreadable_experiment_does_not_hide_the_others(valkey_url: str):
    await publish(valkey_url, experiment())
    async with running_server(valkey_url) as server:
        async with create_client(valkey_url) as valkey:
            await valkey.hset(registry_key("experiments"), "broken", b"\xc1")
            await valkey.hset(registry_key("versions"), "broken", 1)
        await publish(valkey_url, experiment("new", id=2))
        await eventually(lambda: "new" in server.keeper.snapshot.by_key)
        assert "broken" not in server.keeper.snapshot.by_key


async def test_a_new_signing_key_verifies_at_once_and_signs_when_all_have_it(valkey_url: str):
    await publish(valkey_url, experiment())
    async with running_server(valkey_url) as server:
        now_ms = server.assigner.clock.now_ms()
        fresh = msgspec.structs.replace(SIGNING_KEY, id=2, secret=b"sixteen bytes 02", created_at_ms=now_ms)
        access = msgspec.structs.replace(ACCESS, revision=2, signing_keys=(fresh, SIGNING_KEY))
        await publish(valkey_url, access=access)
        await eventually(lambda: len(server.keeper.snapshot.signer.keys) == 2)
        assert server.keeper.snapshot.signer.key_id == SIGNING_KEY.id


async def test_a_kill_that_valkey_lost_before_it_was_recorded_is_put_back_by_a_server(valkey_url: str):
    await publish(valkey_url, experiment())
    kill = b'{"by":"key 1","reason":"it swears","at":"2026-01-01T00:00:00Z"}'
    async with running_server(valkey_url) as server, create_client(valkey_url) as valkey:
        await valkey.hset(KILLED_KEY, "exp", kill)
        await eventually(lambda: not server.keeper.snapshot.by_key["exp"].running)
        await valkey.flushall()

        async def is_back() -> bool:
            return await valkey.hget(KILLED_KEY, "exp") == kill

        async with asyncio.timeout(10):
            while not await is_back():  # noqa: ASYNC110 - Valkey tells nobody
                await asyncio.sleep(0.02)
        assert not server.keeper.snapshot.by_key["exp"].running
        await publish(valkey_url, experiment(policy_version=2))
        await eventually(lambda: server.keeper.snapshot.by_key["exp"].published.policy_version == 2)
        assert not server.keeper.snapshot.by_key["exp"].running
