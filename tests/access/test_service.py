"""Keys and signing secrets on real engines: what is committed is what servers load."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.access import limits
from app.access.model import SCOPES, AccessSnapshot, KeyKind, KeyRing, Scope, is_mistyped
from app.access.service import AccessService, KeyRequest
from app.access.store import AccessStore, Publication, load
from app.access.tables import api_keys
from app.core.clock import SystemClock
from app.core.errors import Conflict, InvalidInput, NotFound, Unauthorized, Unavailable
from app.core.postgres import create_engine
from app.core.valkey import CHANGES_CHANNEL, create_client, registry_key

pytestmark = pytest.mark.anyio


async def keyring(valkey: Redis) -> KeyRing:
    snapshot = await load(valkey)
    assert snapshot is not None
    return KeyRing(snapshot)


def header(key: str) -> bytes:
    return f"Bearer {key}".encode()


def now_ms() -> int:
    return SystemClock().now_ms()


@pytest.fixture
def without_valkey(engine: AsyncEngine, tmp_path) -> AccessService:
    absent = create_client(f"unix://{tmp_path}/absent.sock")
    return AccessService(AccessStore(engine, absent), SystemClock())


@pytest.mark.parametrize("kind", KeyKind)
async def test_a_new_key_is_known_to_servers_with_the_scopes_of_its_kind(access, valkey, kind):
    stored, key = await access.create(KeyRequest("a key", kind))
    assert stored.scopes == SCOPES[kind]
    found = (await keyring(valkey)).authenticate(header(key), Scope.ASSIGN, now_ms())
    assert (found.id, found.kind, found.scopes) == (stored.id, kind, SCOPES[kind])


async def test_a_key_is_stored_by_its_digest_only(access, engine):
    _, key = await access.create(KeyRequest("a key", KeyKind.SERVER))
    async with engine.connect() as connection:
        rows = (await connection.execute(select(api_keys))).all()
    secret = key.removeprefix("wald_srv_")
    assert secret not in repr(rows)
    assert not is_mistyped(key)


@pytest.mark.parametrize(
    ("request_", "kind", "scopes"),
    [
        (KeyRequest("k", scopes=frozenset({Scope.READ})), KeyKind.SERVER, {Scope.READ}),
        (KeyRequest("k", scopes=frozenset({Scope.ADMIN})), KeyKind.ADMIN, {Scope.ADMIN}),
        (KeyRequest("k", KeyKind.CLIENT, frozenset({Scope.ASSIGN})), KeyKind.CLIENT, {Scope.ASSIGN}),
    ],
)
async def test_a_key_may_have_fewer_scopes_than_its_kind(access, request_, kind, scopes):
    stored, _ = await access.create(request_)
    assert (stored.kind, stored.scopes) == (kind, scopes)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (KeyRequest("k"), "kind"),
        (KeyRequest("k", KeyKind.SERVER, frozenset()), "scopes"),
        (KeyRequest("k", KeyKind.CLIENT, frozenset({Scope.READ})), "scopes"),
        (KeyRequest("k", KeyKind.SERVER, frozenset({Scope.ADMIN})), "scopes"),
        (KeyRequest("k\0", KeyKind.SERVER), "name"),
        (KeyRequest("k", KeyKind.SERVER, expires_at=datetime(2020, 1, 1, tzinfo=UTC)), "expires_at"),
    ],
)
async def test_an_invalid_key_request_names_the_field(access, request_, field):
    with pytest.raises(InvalidInput) as caught:
        await access.create(request_)
    assert [error.field for error in caught.value.errors] == [field]
    assert await access.list() == []


async def test_there_is_a_limit_to_the_number_of_keys(access, monkeypatch):
    monkeypatch.setattr(limits, "API_KEYS_MAX", 2)
    for _ in range(2):
        await access.create(KeyRequest("k", KeyKind.SERVER))
    with pytest.raises(Conflict, match="2 API keys already"):
        await access.create(KeyRequest("k", KeyKind.SERVER))


async def test_an_expiry_reaches_the_servers(access, valkey):
    expiry = datetime.now(UTC) + timedelta(hours=1)
    _, key = await access.create(KeyRequest("k", KeyKind.SERVER, expires_at=expiry))
    keys = await keyring(valkey)
    assert keys.authenticate(header(key), Scope.READ, now_ms())
    with pytest.raises(Unauthorized, match="expired"):
        keys.authenticate(header(key), Scope.READ, now_ms() + 3_700_000)


async def test_a_revoked_key_is_unknown_to_servers_and_no_longer_listed(access, valkey):
    kept, _ = await access.create(KeyRequest("kept", KeyKind.SERVER))
    gone, key = await access.create(KeyRequest("gone", KeyKind.SERVER))
    await access.revoke(gone.id)
    with pytest.raises(Unauthorized, match="unknown API key"):
        (await keyring(valkey)).authenticate(header(key), Scope.READ, now_ms())
    assert [stored.id for stored in await access.list()] == [kept.id]


async def test_revoking_again_is_harmless_and_revoking_nothing_is_not_found(access):
    stored, _ = await access.create(KeyRequest("k", KeyKind.SERVER))
    await access.revoke(stored.id)
    await access.revoke(stored.id)
    for key_id in (stored.id + 1, 0, -1, 2**31, 2**63, 10**30):
        with pytest.raises(NotFound):
            await access.revoke(key_id)


async def test_every_change_is_announced_and_counted(access, valkey):
    async with valkey.pubsub() as listener:
        await listener.subscribe(CHANGES_CHANNEL)
        await listener.get_message(timeout=5)
        stored, _ = await access.create(KeyRequest("k", KeyKind.SERVER))
        await access.revoke(stored.id)
        messages = [await listener.get_message(timeout=5) for _ in range(2)]
    assert [message["data"] for message in messages] == [b"@access", b"@access"]
    assert await valkey.get(registry_key("revision")) == b"2"


async def test_the_first_start_makes_an_admin_key_and_the_second_does_not(access, valkey):
    key = await access.ensure_admin_key(None)
    assert key is not None
    assert (await keyring(valkey)).authenticate(header(key), Scope.ADMIN, now_ms())
    assert await access.ensure_admin_key(None) is None


async def test_two_processes_that_start_at_once_make_one_admin_key_and_one_signing_key(
    access, database_url, valkey_url, valkey
):
    async def start() -> str | None:
        engine, client = create_engine(database_url), create_client(valkey_url)
        service = AccessService(AccessStore(engine, client), SystemClock())
        key = await service.ensure_admin_key(None)
        await service.ensure_signing_key()
        await engine.dispose()
        await client.aclose()
        return key

    made = await asyncio.gather(*(start() for _ in range(5)))
    assert len([key for key in made if key is not None]) == 1
    assert len(await access.list()) == 1
    assert len((await keyring(valkey)).signing_keys) == 1


async def test_an_admin_key_is_made_again_when_all_are_revoked_or_expired(access, engine):
    await access.ensure_admin_key(None)
    (first,) = await access.list()
    await access.revoke(first.id)
    assert await access.ensure_admin_key(None) is not None
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE api_keys SET expires_at = now() - interval '1 second'"))
    assert await access.ensure_admin_key(None) is not None


async def test_a_preset_admin_key_is_stored_once_and_never_returned(access, valkey):
    for _ in range(2):
        assert await access.ensure_admin_key("hunter22") is None
    assert (await keyring(valkey)).authenticate(b"Bearer hunter22", Scope.ADMIN, now_ms())
    assert len(await access.list()) == 1


async def test_a_preset_admin_key_that_was_revoked_stays_revoked(access, valkey):
    await access.ensure_admin_key("hunter22")
    (preset,) = await access.list()
    await access.revoke(preset.id)
    await access.ensure_admin_key("hunter22")
    with pytest.raises(Unauthorized):
        (await keyring(valkey)).authenticate(b"Bearer hunter22", Scope.ADMIN, now_ms())


async def test_rotation_adds_a_signing_key_in_front_and_keeps_the_others(access, valkey):
    await access.ensure_signing_key()
    await access.ensure_signing_key()
    assert await access.rotate_signing_key() == 2
    keys = (await keyring(valkey)).signing_keys
    assert [key.id for key in keys] == [2, 1]
    assert len({key.secret for key in keys}) == 2


async def test_a_retired_signing_key_is_gone_from_servers(access, valkey):
    await access.ensure_signing_key()
    await access.rotate_signing_key()
    await access.retire_signing_key(1)
    await access.retire_signing_key(1)
    assert [key.id for key in (await keyring(valkey)).signing_keys] == [2]


async def test_the_key_that_signs_cannot_be_retired_and_an_unknown_one_is_not_found(access):
    await access.ensure_signing_key()
    with pytest.raises(Conflict, match="rotate first"):
        await access.retire_signing_key(1)
    with pytest.raises(NotFound):
        await access.retire_signing_key(2)


async def test_ids_of_signing_keys_are_used_again_once_retired(access, valkey):
    await access.ensure_signing_key()
    for _ in range(254):
        await access.rotate_signing_key()
    with pytest.raises(Conflict, match="retire one first"):
        await access.rotate_signing_key()
    before = {key.id: key.secret for key in (await keyring(valkey)).signing_keys}
    await access.retire_signing_key(7)
    assert await access.rotate_signing_key() == 7
    after = (await keyring(valkey)).signing_keys
    assert after[0].id == 7
    assert after[0].secret != before[7]


async def test_without_valkey_a_new_key_is_valid_and_published_later(access, without_valkey, valkey):
    stored, key = await without_valkey.create(KeyRequest("k", KeyKind.SERVER))
    assert await load(valkey) is None
    assert await access.publish_if_due()
    assert (await keyring(valkey)).authenticate(header(key), Scope.READ, now_ms()).id == stored.id
    assert not await access.publish_if_due()


async def test_without_valkey_a_revocation_stands_and_says_that_servers_do_not_know_yet(
    access, without_valkey, valkey
):
    stored, key = await access.create(KeyRequest("k", KeyKind.SERVER))
    with pytest.raises(Unavailable):
        await without_valkey.revoke(stored.id)
    await access.publish_if_due()
    with pytest.raises(Unauthorized):
        (await keyring(valkey)).authenticate(header(key), Scope.READ, now_ms())


async def test_an_emptied_valkey_is_published_to_again(access, valkey):
    await access.ensure_admin_key("hunter22")
    await valkey.flushall()
    assert await load(valkey) is None
    assert await access.publish_if_due()
    assert (await keyring(valkey)).authenticate(b"Bearer hunter22", Scope.ADMIN, now_ms())


async def test_servers_follow_a_database_restored_from_a_backup(access, engine, valkey):
    await access.ensure_admin_key("hunter22")
    await access.create(KeyRequest("made after the backup", KeyKind.SERVER))
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE access_changes SET revision = 1"))
        await connection.execute(text("DELETE FROM api_keys WHERE kind = 'srv'"))
    assert await access.publish_if_due()
    snapshot = await load(valkey)
    assert snapshot is not None
    assert snapshot.revision == 1
    assert len(snapshot.api_keys) == 1


async def test_an_older_snapshot_never_replaces_a_newer_one(engine, valkey):
    store = AccessStore(engine, valkey)
    assert await store.publish(AccessSnapshot(2)) == Publication.PUBLISHED
    assert await store.publish(AccessSnapshot(1)) == Publication.KEPT_NEWER
    assert await store.publish(AccessSnapshot(2)) == Publication.PUBLISHED
    assert await store.publish(AccessSnapshot(0)) == Publication.REFUSED
    assert await load(valkey) == AccessSnapshot(2)


async def test_concurrent_changes_end_with_all_of_them_published(access, valkey):
    made = await asyncio.gather(
        *(access.create(KeyRequest(f"k{number}", KeyKind.SERVER)) for number in range(8))
    )
    await asyncio.gather(*(access.revoke(stored.id) for stored, _ in made[:4]))
    snapshot = await load(valkey)
    assert snapshot is not None
    assert {key.id for key in snapshot.api_keys} == {stored.id for stored, _ in made[4:]}
    assert snapshot.revision == 12
