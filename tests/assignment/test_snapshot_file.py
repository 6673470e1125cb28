"""The snapshot file: read back as written, never trusted when anything about it is odd, never in the way."""

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.assignment import limits, snapshot
from app.assignment.snapshot_file import Saved, SnapshotFile, installation_of
from app.assignment.snapshot_keeper import SnapshotKeeper
from app.assignment.snapshot_saver import SnapshotSaver
from app.core.clock import SystemClock
from app.core.telemetry import SNAPSHOT_FILES
from app.core.valkey import create_client, registry_key
from tests.support.polling import eventually
from tests.support.registry import ACCESS, experiment, publish

pytestmark = pytest.mark.anyio

NOW_MS = 1_800_000_000_000
OURS = installation_of("redis://valkey:6379/0", "postgresql://wald:secret@postgres/wald")
NOWHERE = "redis://127.0.0.1:1"


def counted(result: str) -> float:
    return SNAPSHOT_FILES.labels(result)._value.get()


def a_file(folder: Path, installation: bytes = OURS) -> SnapshotFile:
    return SnapshotFile(folder, installation)


def written(folder: Path, at_ms: int = NOW_MS) -> SnapshotFile:
    file = a_file(folder)
    assert file.try_lock()
    file.write(ACCESS, {"exp": b"{}"}, [snapshot.encode(experiment())], at_ms)
    return file


def test_it_is_read_back_as_written_and_is_open_to_its_owner_only(tmp_path: Path) -> None:
    file = written(tmp_path / "snapshot")
    assert file.read(NOW_MS) == Saved(OURS, NOW_MS, ACCESS, {"exp": b"{}"}, [snapshot.encode(experiment())])
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert sorted(one.name for one in file.path.parent.iterdir()) == ["snapshot", "snapshot.lock"]


def test_a_missing_file_is_not_logged(tmp_path: Path) -> None:
    before = counted("ignored")
    assert a_file(tmp_path).read(NOW_MS) is None
    assert counted("ignored") == before


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_was_cut_off_or_changed_anywhere_is_ignored(tmp_path: Path, data: st.DataObject) -> None:
    file = written(tmp_path)
    try:
        content = bytearray(file.path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content = content[:place]
        else:
            content[place] ^= data.draw(st.integers(1, 255))
        if data.draw(st.booleans()):
            content += data.draw(st.binary(min_size=0, max_size=4))
        file.path.write_bytes(content)
        before = counted("ignored")
        assert file.read(NOW_MS) is None
        assert counted("ignored") == before + 1
    finally:
        file.unlock()


def test_a_file_of_other_engines_or_of_another_format_or_too_old_is_ignored(tmp_path: Path) -> None:
    file = written(tmp_path)
    theirs = installation_of("redis://valkey:6379/1", "postgresql://wald:secret@postgres/wald")
    assert a_file(tmp_path, theirs).read(NOW_MS) is None
    oldest_ms = NOW_MS + round(limits.SNAPSHOT_FILE_AGE_S_MAX * 1_000)
    assert file.read(oldest_ms) is not None
    assert file.read(oldest_ms + 1) is None
    assert file.read(0) is not None, "a clock that was put back"
    content = bytearray(file.path.read_bytes())
    content[8] += 1
    file.path.write_bytes(content)
    assert file.read(NOW_MS) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_file_that_others_may_read_or_write_is_ignored(tmp_path: Path, mode: int) -> None:
    file = written(tmp_path)
    file.path.chmod(mode)
    assert file.read(NOW_MS) is None


def test_a_file_that_is_not_regular_is_ignored(tmp_path: Path) -> None:
    file = written(tmp_path / "real")
    for number, make in enumerate(
        (lambda path: path.mkdir(), os.mkfifo, lambda path: path.symlink_to(file.path))
    ):
        other = a_file(tmp_path / str(number))
        other.path.parent.mkdir()
        make(other.path)
        assert other.read(NOW_MS) is None


@pytest.mark.parametrize(
    ("valkey_url", "database_url", "same"),
    [
        ("redis://other:secret@valkey:6379/0", "postgresql+psycopg://you:word@postgres/wald", True),
        ("rediss://valkey:6379/0", "postgresql://wald@postgres/wald", False),
        ("redis://valkey:6379/1", "postgresql://wald@postgres/wald", False),
        ("redis://valkey:6380/0", "postgresql://wald@postgres/wald", False),
        ("redis://valkey:6379/0", "postgresql://wald@postgres/other", False),
        ("redis://valkey:6379/0", "postgresql://wald@elsewhere/wald", False),
        ("redis://valkey:6379/0", "postgresql:///wald?host=/run/postgres", False),
    ],
)
def test_an_installation_is_identified_by_its_engine_addresses(
    valkey_url: str, database_url: str, same: bool
) -> None:
    assert (installation_of(valkey_url, database_url) == OURS) == same


@contextmanager
def no_room(bytes_max: int) -> Iterator[None]:
    """Files cannot grow beyond this, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_server_without_engines_starts_from_the_file_until_an_engine_answers(
    valkey_url: str, tmp_path: Path
) -> None:
    """Also: what the engine says replaces all of the file, not a part."""
    clock = SystemClock()
    file = a_file(tmp_path)
    await publish(valkey_url, experiment("one", id=1), experiment("gone", id=2))
    keeper = SnapshotKeeper(valkey_url, clock)
    await keeper.start()
    keeper.kill("one", b'{"by":"key 1","reason":"x","at":"2026-01-01T00:00:00Z"}')
    saver = SnapshotSaver(keeper, file, clock)
    await saver.save_if_due()
    await keeper.stop()
    file.unlock()
    assert saver.error is None

    later = SnapshotKeeper(NOWHERE, clock, file=file)
    await later.start()
    try:
        assert (later.source, later.loaded, later.snapshot.complete) == ("file", True, False)
        assert set(later.snapshot.by_key) == {"one", "gone"}
        assert not later.snapshot.by_key["one"].running, "a kill that nobody has recorded"
        assert later.snapshot.by_key["gone"].running
        assert later.snapshot.signer is not None
        assert later.error is not None
    finally:
        await later.stop()

    async with create_client(valkey_url) as valkey:
        await valkey.flushall()
    await publish(
        valkey_url,
        experiment("one", id=1, policy_version=7),
        access=msgspec.structs.replace(ACCESS, revision=9, api_keys=ACCESS.api_keys[1:]),
    )
    async with create_client(valkey_url) as valkey:
        await valkey.delete(registry_key("whole"))  # it is being refilled
        partly = SnapshotKeeper(valkey_url, clock, file=file)
        await partly.start()
        try:
            assert partly.source == "file"
            assert set(partly.snapshot.by_key) == {"one", "gone"}
            assert partly.keyring is not None
            assert partly.keyring.revision == 9, "a revoked key stays revoked"
            await publish(valkey_url, experiment("two", id=3))
            await eventually(lambda: partly.source == "valkey")
            assert set(partly.snapshot.by_key) == {"one", "two"}
            assert partly.snapshot.complete
        finally:
            await partly.stop()


async def test_a_file_that_cannot_be_written_is_reported_and_tried_again(
    valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_FILE_INTERVAL_S", 0.0)
    clock = SystemClock()
    folder = tmp_path / "snapshot"
    folder.write_text("a file where the folder should be")
    await publish(valkey_url, *(experiment(f"exp-{n}", id=n) for n in range(1, 200)))
    keeper = SnapshotKeeper(valkey_url, clock)
    await keeper.start()
    file = a_file(folder)
    saver = SnapshotSaver(keeper, file, clock)
    try:
        failed = counted("failed")
        await saver.save_if_due()
        assert saver.error is not None
        assert str(folder) in saver.error
        assert counted("failed") == failed + 1
        folder.unlink()
        await saver.save_if_due()
        assert saver.error is None
        before = file.path.read_bytes()

        keeper.kill("exp-1", b"{}")
        with no_room(1_000):
            await saver.save_if_due()
        assert saver.error is not None
        assert file.path.read_bytes() == before, "the old file stays whole"
        assert not (folder / "snapshot.new").exists()
        await saver.save_if_due()
        assert saver.error is None
        assert file.path.read_bytes() != before
    finally:
        file.unlock()
        await keeper.stop()


async def test_one_process_writes_until_another_takes_over(tmp_path: Path) -> None:
    first, second = a_file(tmp_path), a_file(tmp_path)
    assert first.try_lock()
    assert first.try_lock()
    assert not second.try_lock()
    first.unlock()
    assert second.try_lock()
    second.unlock()


async def test_it_is_written_at_a_bounded_rate_but_at_once_for_a_revoked_key(
    valkey_url: str, tmp_path: Path
) -> None:
    clock = SystemClock()
    await publish(valkey_url, experiment())
    keeper = SnapshotKeeper(valkey_url, clock)
    await keeper.start()
    file = a_file(tmp_path)
    saver = SnapshotSaver(keeper, file, clock)
    try:
        await saver.save_if_due()
        first = file.path.read_bytes()
        await publish(valkey_url, experiment(policy_version=2))
        await eventually(lambda: keeper.snapshot.by_key["exp"].published.policy_version == 2)
        await saver.save_if_due()
        assert file.path.read_bytes() == first, "an allocation can wait"
        await publish(valkey_url, access=msgspec.structs.replace(ACCESS, revision=2, api_keys=()))
        await eventually(lambda: keeper.keyring is not None and keeper.keyring.revision == 2)
        await saver.save_if_due()
        saved = file.read(clock.now_ms())
        assert saved is not None
        assert saved.access.api_keys == ()
        assert snapshot.decode(saved.experiments[0]).policy_version == 2
    finally:
        file.unlock()
        await keeper.stop()
