"""What `wald doctor` looks at: engines, durability, schema, clocks, room to work, and events that wait."""

import resource
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, LiteralString, cast

import msgspec
import psycopg
from psycopg.rows import DictRow, dict_row
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from rich.text import Text

from app.core import limits, migrations
from app.core.clock import Clock
from app.core.postgres import psycopg_dsn
from app.core.settings import Settings
from app.core.tables import Column, Table
from app.core.valkey import create_client, shard_key
from app.feedback.series import Kept

_GIB: Final = 1 << 30
_VALKEY_VERSION_MIN: Final = (7, 2)
_REDIS_VERSION_MIN: Final = (7, 0)
_POSTGRES_VERSION_MIN: Final = 15
_SKEW_WARN: Final = timedelta(seconds=1)
_SKEW_FAIL: Final = timedelta(seconds=30)
_LAG_EVENTS_WARN: Final = 100_000
_DESCRIPTORS_WARN: Final = 4_096
_CONNECT_TIMEOUT_S: Final = 5

_FACTS: Final = """
    SELECT current_setting('server_version_num')::int / 10000 AS major,
           current_setting('server_version') AS version,
           current_setting('server_encoding') AS encoding,
           current_setting('fsync') AS fsync,
           current_setting('full_page_writes') AS full_page_writes,
           current_setting('synchronous_commit') AS synchronous_commit,
           to_regclass('alembic_version') IS NOT NULL AS has_schema,
           clock_timestamp() AS now"""
_REVISION: Final = "SELECT version_num FROM alembic_version"
_POSITIONS: Final = """
    SELECT shard, applied, coalesce(lease_until > now(), false) AS owned FROM stream_positions"""
_OVERDUE_SERIES: Final = """
    SELECT count(*) AS waiting
    FROM (
        SELECT FROM metric_series WHERE span = 1 AND minute < %(before)s LIMIT %(rows_max)s + 1
    ) AS overdue"""
_DEAD_LETTERS: Final = "SELECT count(*) AS waiting FROM dead_letters"


class Verdict(StrEnum):
    """How good it is."""

    OK = "ok"
    WARN = "warn"  # works, but will not always
    FAIL = "fail"  # does not work, or may lose what it acknowledged


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: what was found and, unless it is well, what to do about it."""

    check: str
    verdict: Verdict
    found: str
    fix: str = ""


async def examine(settings: Settings, clock: Clock) -> list[Finding]:
    """Look at everything; `settings` name both engines. An engine that is away is a finding, not an error."""
    if settings.valkey_url is None or settings.database_url is None:
        raise ValueError("both engines have to be named by URL")
    of_valkey, appended = await _examine_valkey(settings.valkey_url, settings.stream_shards, clock)
    of_postgres = await _examine_postgres(settings.database_url, appended, clock)
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return [*of_valkey, *of_postgres, disk(settings.data_dir), descriptors(hard_limit)]


def verdict(findings: list[Finding]) -> Verdict:
    """The worst of them."""
    found = {finding.verdict for finding in findings}
    return next((worst for worst in (Verdict.FAIL, Verdict.WARN) if worst in found), Verdict.OK)


def table(findings: list[Finding]) -> Table:
    """For people."""
    colours = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
    shown = Table(
        Column("", "text"), Column("Check", "name"), Column("Found", "text"), Column("What to do", "text")
    )
    for finding in findings:
        mark = Text(finding.verdict, style=colours[finding.verdict])
        shown.add(mark, finding.check, finding.found, finding.fix)
    return shown


async def _examine_valkey(
    url: str, shards: int, clock: Clock
) -> tuple[list[Finding], Mapping[int, int] | None]:
    """What is found, and the events appended to each shard: None when Valkey is away."""
    client = create_client(url)
    try:
        info = await client.info()
        before = clock.now()
        seconds, microseconds = await client.time()
        after = clock.now()
        there = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)
        counts = await client.mget([shard_key(shard, "appended") for shard in range(shards)])
        durability = await _valkey_durability(client)
    except (RedisError, OSError) as error:
        fix = "start `wald up`, or correct WALD_VALKEY_URL"
        return [Finding("Valkey", Verdict.FAIL, str(error), fix)], None
    finally:
        await client.aclose()
    findings = [
        valkey_version(info),
        *durability,
        memory(int(info["used_memory"]), int(info["maxmemory"])),
        clock_skew("Valkey", before, there, after),
    ]
    return findings, {shard: int(count or 0) for shard, count in enumerate(counts)}


async def _valkey_durability(client: Redis) -> list[Finding]:
    try:
        config = await client.config_get("appendonly", "appendfsync", "maxmemory-policy")
    except ResponseError as error:  # managed services forbid CONFIG
        fix = "make sure that it runs with appendonly yes, appendfsync always, maxmemory-policy noeviction"
        return [Finding("Valkey durability", Verdict.WARN, f"not to be seen: {error}", fix)]
    return valkey_durability(cast("dict[str, str]", config))


async def _examine_postgres(url: str, appended: Mapping[int, int] | None, clock: Clock) -> list[Finding]:
    try:
        async with await psycopg.AsyncConnection.connect(
            psycopg_dsn(url), autocommit=True, row_factory=dict_row, connect_timeout=_CONNECT_TIMEOUT_S
        ) as connection:
            before = clock.now()
            (facts,) = await _rows(connection, _FACTS)
            findings = [
                postgres_version(facts),
                postgres_durability(facts),
                clock_skew("PostgreSQL", before, facts["now"], clock.now()),
            ]
            revisions = await _rows(connection, _REVISION) if facts["has_schema"] else []
            found = schema(revisions[0]["version_num"] if revisions else None, migrations.head())
            findings.append(found)
            if found.verdict is Verdict.OK:
                if appended is not None:
                    findings.append(lag(appended, await _rows(connection, _POSITIONS)))
                (letters,) = await _rows(connection, _DEAD_LETTERS)
                findings.append(dead_letters(letters["waiting"]))
                overdue = await connection.execute(
                    _OVERDUE_SERIES,
                    {
                        "before": Kept.at(clock.now().timestamp()).hours,
                        "rows_max": limits.SERIES_THIN_ROWS_MAX,
                    },
                )
                findings.append(series((await overdue.fetchall())[0]["waiting"]))
            return findings
    except psycopg.Error as error:
        fix = "start `wald up`, or correct WALD_DATABASE_URL"
        return [Finding("PostgreSQL", Verdict.FAIL, str(error), fix)]


async def _rows(connection: psycopg.AsyncConnection[DictRow], query: LiteralString) -> list[DictRow]:
    return await (await connection.execute(query)).fetchall()


def valkey_version(info: Mapping[str, Any]) -> Finding:
    """Of Valkey, or of the Redis it says it is compatible with."""
    name, number, least = "Redis", str(info["redis_version"]), _REDIS_VERSION_MIN
    if "valkey_version" in info:
        name, number, least = "Valkey", str(info["valkey_version"]), _VALKEY_VERSION_MIN
    if tuple(int(part) for part in number.split(".")[:2]) >= least:
        return Finding("Valkey", Verdict.OK, f"{name} {number}")
    return Finding("Valkey", Verdict.FAIL, f"{name} {number}", "upgrade to Valkey 7.2+ or Redis 7.0+")


def valkey_durability(config: Mapping[str, str]) -> list[Finding]:
    """Whether an acknowledged event survives a crash, and is never evicted."""
    found = ", ".join(f"{name} {value}" for name, value in sorted(config.items()))
    fixes = {}
    if config["appendonly"] != "yes":
        fixes["CONFIG SET appendonly yes"] = Verdict.FAIL
    if config["maxmemory-policy"] != "noeviction":
        fixes["CONFIG SET maxmemory-policy noeviction"] = Verdict.FAIL
    if config["appendfsync"] != "always":
        # While an fsync is slow, `everysec` holds acknowledged writes back in memory.
        fixes["CONFIG SET appendfsync always"] = (
            Verdict.WARN if config["appendfsync"] == "everysec" else Verdict.FAIL
        )
    if not fixes:
        return [Finding("Valkey durability", Verdict.OK, found)]
    return [Finding("Valkey durability", severity, found, fix) for fix, severity in fixes.items()]


def memory(used: int, limit: int) -> Finding:
    """Bytes of Valkey against its own limit (0: none), over which it refuses writes."""
    name, fix = "Valkey memory", "raise maxmemory, or see why the worker does not drain the streams"
    if limit == 0:
        found = f"{used / _GIB:.2f} GiB without a limit"
        return Finding(
            name, Verdict.WARN, found, "set maxmemory: refusing writes is better than being killed"
        )
    share = used / limit
    severity = Verdict.OK if share < 0.8 else Verdict.WARN if share < 0.95 else Verdict.FAIL
    found = f"{used / _GIB:.2f} of {limit / _GIB:.2f} GiB"
    return Finding(name, severity, found, "" if severity is Verdict.OK else fix)


def postgres_version(facts: Mapping[str, Any]) -> Finding:
    """Of PostgreSQL, and the encoding of the database."""
    found = f"PostgreSQL {facts['version']}, {facts['encoding']}"
    if facts["major"] < _POSTGRES_VERSION_MIN:
        return Finding("PostgreSQL", Verdict.FAIL, found, f"upgrade to PostgreSQL {_POSTGRES_VERSION_MIN}+")
    if facts["encoding"] != "UTF8":
        return Finding("PostgreSQL", Verdict.FAIL, found, "make the database with ENCODING 'UTF8'")
    return Finding("PostgreSQL", Verdict.OK, found)


def postgres_durability(facts: Mapping[str, Any]) -> Finding:
    """Whether a committed transaction survives a crash."""
    names = ("fsync", "full_page_writes", "synchronous_commit")
    found = ", ".join(f"{name} {facts[name]}" for name in names)
    off = [name for name in names if facts[name] == "off"]
    if off:
        fix = "; ".join(f"ALTER SYSTEM SET {name} = on" for name in off)
        return Finding("PostgreSQL durability", Verdict.FAIL, found, fix)
    return Finding("PostgreSQL durability", Verdict.OK, found)


def clock_skew(engine: str, before: datetime, there: datetime, after: datetime) -> Finding:
    """An engine's clock against ours, read before and after it; the time of the way is not skew."""
    skew = max(before - there, there - after, timedelta(0))
    severity = Verdict.OK if skew < _SKEW_WARN else Verdict.WARN if skew < _SKEW_FAIL else Verdict.FAIL
    fix = "" if severity is Verdict.OK else "synchronise the clocks of the machines (NTP)"
    return Finding(f"Clock of {engine}", severity, f"differs by {skew.total_seconds():.3f} s", fix)


def schema(current: str | None, needed: str) -> Finding:
    """The revision the database is at against the one this code needs."""
    if current == needed:
        return Finding("Schema", Verdict.OK, f"revision {current}")
    found = f"{'empty' if current is None else f'revision {current}'}, needed is {needed}"
    return Finding("Schema", Verdict.FAIL, found, "run `wald migrate`, or a version of Wald that knows it")


def lag(appended: Mapping[int, int], positions: list[dict[str, Any]]) -> Finding:
    """Acknowledged events that the ledger does not hold yet, and whether anybody works on them."""
    rows = {row["shard"]: row for row in positions}
    waiting = {
        shard: max(0, count - (rows[shard]["applied"] if shard in rows else 0))
        for shard, count in appended.items()
    }
    idle = [shard for shard, events in waiting.items() if events and not rows.get(shard, {}).get("owned")]
    total = sum(waiting.values())
    if idle:
        found = f"{total} events wait, and nobody works on shard {', '.join(map(str, idle))}"
        return Finding("Ledger", Verdict.FAIL, found, "start `wald worker`")
    if total > _LAG_EVENTS_WARN:
        return Finding("Ledger", Verdict.WARN, f"{total} events wait", "start more workers and stream shards")
    return Finding("Ledger", Verdict.OK, f"{total} events wait")


def dead_letters(count: int) -> Finding:
    """Stream entries that could not be read."""
    if count == 0:
        return Finding("Dead letters", Verdict.OK, "none")
    return Finding("Dead letters", Verdict.WARN, f"{count} entries", "read `error` in the table dead_letters")


def series(overdue: int) -> Finding:
    """Minutes of series that should have become hours. Some always wait: what came late to a thinned hour."""
    if overdue <= limits.SERIES_THIN_ROWS_MAX:
        return Finding("Series", Verdict.OK, f"{overdue} old minutes wait to be thinned")
    found = f"more than {limits.SERIES_THIN_ROWS_MAX} old minutes wait to be thinned"
    return Finding("Series", Verdict.WARN, found, "look at the loop `forgotten` in `/ready` of a worker")


def disk(folder: Path) -> Finding:
    """Room where the data folder is, or will be."""
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    severity = Verdict.OK
    if usage.free < 5 * _GIB or usage.free < usage.total * 0.05:
        severity = Verdict.WARN
    if usage.free < _GIB:
        severity = Verdict.FAIL
    found = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free at {existing}"
    return Finding(
        "Disk", severity, found, "" if severity is Verdict.OK else "make room: a full disk stops writes"
    )


def descriptors(limit: int) -> Finding:
    """How many files and connections a process of ours may have at most."""
    if limit == resource.RLIM_INFINITY or limit >= _DESCRIPTORS_WARN:
        return Finding(
            "Open files", Verdict.OK, "no limit" if limit == resource.RLIM_INFINITY else f"{limit}"
        )
    return Finding("Open files", Verdict.WARN, f"at most {limit}", f"ulimit -Hn {_DESCRIPTORS_WARN} or more")
