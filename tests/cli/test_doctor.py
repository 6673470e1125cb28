"""`wald doctor`: what is well, what is not, and what to do, on real engines and on bad news of every kind."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rich.console import Console

from app.access.service import AccessService
from app.access.store import AccessStore
from app.cli import checks
from app.cli.checks import Finding, Verdict, examine
from app.cli.doctor import findings_table
from app.core import migrations
from app.core.agreement import agree
from app.core.clock import SystemClock
from app.core.postgres import psycopg_dsn
from app.core.settings import Settings
from app.core.valkey import create_client, shard_key
from app.start import ensure_access_of

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
FACTS = {
    "major": 18,
    "version": "18.1",
    "encoding": "UTF8",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
}


def settings(**values: Any) -> Settings:
    return Settings(**{"data_dir": Path("/"), "stream_shards": 2} | values)


async def test_the_embedded_engines_are_clean(valkey_url, database_url, engine):
    wanted = settings(valkey_url=valkey_url, database_url=database_url, admin_key="an-admin-key-of-the-tests")
    await ensure_access_of(wanted)
    await agree(engine, wanted)
    findings = await examine(settings(valkey_url=valkey_url, database_url=database_url), SystemClock())
    of_engines = [finding for finding in findings if finding.check not in {"Disk", "Open files"}]
    assert [finding for finding in of_engines if finding.verdict is not Verdict.OK] == []
    assert {finding.check for finding in findings} == {
        "Valkey",
        "Valkey durability",
        "Valkey memory",
        "Valkey writes",
        "Clock of Valkey",
        "PostgreSQL",
        "PostgreSQL durability",
        "Clock of PostgreSQL",
        "Schema",
        "Admin key",
        "Signing key",
        "Shared settings",
        "Ledger",
        "Dead letters",
        "Series",
        "Disk",
        "Open files",
    }


async def test_engines_that_are_away_are_findings_with_a_fix(tmp_path):
    away = settings(
        valkey_url=f"unix://{tmp_path}/none.sock", database_url=f"postgresql://postgres@/wald?host={tmp_path}"
    )
    failed = [one for one in await examine(away, SystemClock()) if one.verdict is Verdict.FAIL]
    assert [finding.check for finding in failed] == ["Valkey", "PostgreSQL"]
    assert all("wald up" in finding.fix for finding in failed)


async def test_an_empty_database_needs_migration(valkey_url, engines):
    url = engines.database_url.replace("/wald?", "/postgres?")
    findings = await examine(settings(valkey_url=valkey_url, database_url=url), SystemClock())
    lacking = f"empty; this version needs {migrations.head()}"
    assert Finding("Schema", Verdict.FAIL, lacking, FIX_SCHEMA) in findings


async def test_keys_that_nobody_has_made_yet_are_failures_with_a_fix(valkey_url, database_url):
    findings = await examine(settings(valkey_url=valkey_url, database_url=database_url), SystemClock())
    failed = {finding.check: finding.fix for finding in findings if finding.verdict is Verdict.FAIL}
    assert failed.keys() == {"Admin key", "Signing key"}
    assert "wald keys create NAME --kind adm" in failed["Admin key"]
    assert "wald migrate" in failed["Signing key"]


async def test_settings_that_differ_from_those_of_other_processes_are_found(valkey_url, database_url, engine):
    urls = {"valkey_url": valkey_url, "database_url": database_url}
    await agree(engine, settings(**urls))
    for changed, verdict in (
        ({"stream_shards": 3}, Verdict.FAIL),
        ({"webhook_allowed_ports": (443, 8443)}, Verdict.WARN),
        ({}, Verdict.OK),
    ):
        findings = await examine(settings(**urls, **changed), SystemClock())
        (found,) = [finding for finding in findings if finding.check == "Shared settings"]
        assert found.verdict is verdict


async def test_a_preset_key_that_was_changed_or_revoked_is_noted(valkey_url, database_url, engine, valkey):
    urls = {"valkey_url": valkey_url, "database_url": database_url}
    for preset in ("the-first-preset-key", "the-second-preset-key"):
        await ensure_access_of(settings(**urls, admin_key=preset))
    both = await admin_finding(settings(**urls, admin_key="the-second-preset-key"))
    assert both.verdict is Verdict.WARN
    assert "wald keys revoke" in both.fix
    access = AccessService(AccessStore(engine, valkey), SystemClock())
    first, second = await access.list()
    await access.revoke(first.id)
    assert (await admin_finding(settings(**urls, admin_key="the-second-preset-key"))).verdict is Verdict.OK
    await access.revoke(second.id)
    gone = await admin_finding(settings(**urls, admin_key="the-second-preset-key"))
    assert gone.verdict is Verdict.FAIL


async def admin_finding(examined: Settings) -> Finding:
    return next(one for one in await examine(examined, SystemClock()) if one.check == "Admin key")


async def test_finds_events_that_no_worker_reads_and_dead_letters(valkey_url, database_url):
    client = create_client(valkey_url)
    await client.set(shard_key(1, "appended"), 7)
    await client.set(shard_key(9, "appended"), 2)  # by a server with another number of shards
    await client.aclose()
    async with await psycopg.AsyncConnection.connect(psycopg_dsn(database_url)) as connection:
        await connection.execute("INSERT INTO stream_positions (shard, applied) VALUES (1, 4)")
        await connection.execute(
            "INSERT INTO dead_letters (shard, stream_id, body, error) VALUES (1, '1-0', '', 'unknown kind')"
        )
    findings = await examine(settings(valkey_url=valkey_url, database_url=database_url), SystemClock())
    found = {finding.check: finding for finding in findings if finding.verdict is not Verdict.OK}
    assert found["Ledger"].found == "5 events wait, and no worker reads shard 1, 9"
    assert found["Ledger"].fix == "start `wald worker`"
    assert found["Dead letters"].verdict is Verdict.WARN


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (checks.valkey_version({"redis_version": "7.2.4", "valkey_version": "9.1.2"}), Verdict.OK),
        (checks.valkey_version({"redis_version": "7.2.4", "valkey_version": "7.0.0"}), Verdict.FAIL),
        (checks.valkey_version({"redis_version": "7.0.15"}), Verdict.OK),
        (checks.valkey_version({"redis_version": "6.2.14"}), Verdict.FAIL),
        (checks.valkey_durability(DURABLE | {"appendfsync": "everysec"})[0], Verdict.WARN),
        (checks.valkey_durability(DURABLE | {"appendfsync": "no"})[0], Verdict.FAIL),
        (checks.valkey_durability(DURABLE | {"appendonly": "no"})[0], Verdict.FAIL),
        (checks.valkey_durability(DURABLE | {"maxmemory-policy": "allkeys-lru"})[0], Verdict.FAIL),
        (checks.memory(10, 0), Verdict.WARN),
        (checks.memory(79, 100), Verdict.OK),
        (checks.memory(80, 100), Verdict.WARN),
        (checks.memory(95, 100), Verdict.FAIL),
        (checks.postgres_version(FACTS | {"major": 15}), Verdict.OK),
        (checks.postgres_version(FACTS | {"major": 14}), Verdict.FAIL),
        (checks.postgres_version(FACTS | {"encoding": "SQL_ASCII"}), Verdict.FAIL),
        (checks.postgres_durability(FACTS | {"synchronous_commit": "remote_apply"}), Verdict.OK),
        (checks.postgres_durability(FACTS | {"synchronous_commit": "off"}), Verdict.FAIL),
        (checks.postgres_durability(FACTS | {"fsync": "off"}), Verdict.FAIL),
        (checks.schema("0002", "0001"), Verdict.FAIL),
        (checks.lag({0: 100_001}, [{"shard": 0, "applied": 0, "owned": True}]), Verdict.WARN),
        (checks.lag({0: 5}, [{"shard": 0, "applied": 6, "owned": True}]), Verdict.OK),
        (checks.lag({0: 5}, []), Verdict.FAIL),
        (checks.writes(""), Verdict.OK),
        (checks.writes("events are refused for every shard: OOM; raise maxmemory"), Verdict.FAIL),
        (checks.writes("events are refused for shards 1: WRONGTYPE"), Verdict.FAIL),
        (checks.shared_clock(-0.9), Verdict.OK),
        (checks.shared_clock(3_600), Verdict.WARN),
        (checks.descriptors(1_024), Verdict.WARN),
        (checks.descriptors(-1), Verdict.OK),
    ],
)
def test_each_kind_of_bad_news_has_its_verdict_and_a_fix(finding, verdict):
    assert finding.verdict is verdict
    assert bool(finding.fix) is (verdict is not Verdict.OK)


@pytest.mark.parametrize(
    ("offset_s", "verdict"),
    [(0.05, Verdict.OK), (-0.9, Verdict.OK), (1.2, Verdict.WARN), (-5, Verdict.WARN), (31, Verdict.FAIL)],
)
def test_clocks_may_differ_by_less_than_a_second_beside_the_time_of_the_way(offset_s, verdict):
    there = NOW + timedelta(seconds=offset_s)
    assert checks.clock_skew("Valkey", NOW, there, NOW + timedelta(seconds=0.1)).verdict is verdict


def test_the_table_shows_every_finding_with_its_fix():
    findings = [
        checks.memory(1, 2),
        checks.memory(10, 0),
        checks.dead_letters(0),
        checks.series(10_001),
        checks.schema(None, "0001"),
    ]
    text = StringIO()
    Console(width=200, file=text).print(findings_table(findings))
    assert all(finding.found in text.getvalue() for finding in findings)
    assert all(finding.fix in text.getvalue() for finding in findings)


FIX_SCHEMA = checks.schema(None, "0001").fix
