"""The checks of `wald doctor`: engines, durability, schema, clocks, space, and events that wait."""

import resource
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, LiteralString, cast

import msgspec
import psycopg
from psycopg.rows import DictRow, dict_row
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from app.access.service import NO_ADMIN_KEY, AccessService
from app.access.store import AccessStore
from app.core import migrations
from app.core.agreement import STREAM_SHARDS, differences, shards_differ
from app.core.clock import Clock, SystemClock
from app.core.limits import CLOCK_RETURN_US, CLOCK_SKEW_SHOWN_S, CLOCK_SYNC_S
from app.core.postgres import connect, create_engine
from app.core.settings import STREAM_SHARDS_MAX, Settings
from app.core.stream import refusal
from app.core.valkey import create_client, shard_key
from app.ledger.limits import SERIES_THIN_ROWS_MAX
from app.ledger.units.series import Kept

_GIB: Final = 1 << 30
_VALKEY_VERSION_MIN: Final = (7, 2)
_REDIS_VERSION_MIN: Final = (7, 0)
_POSTGRES_VERSION_MIN: Final = 15
_SKEW_WARN: Final = timedelta(seconds=1)
_SKEW_FAIL: Final = timedelta(seconds=30)
_LAG_EVENTS_WARN: Final = 100_000
_DESCRIPTORS_WARN: Final = 4_096

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
    SELECT shard, applied, EXISTS (
        SELECT FROM pg_stat_activity AS a WHERE a.pid::text = split_part(session, '/', 1)
    ) AS owned
    FROM stream_positions"""
_SHARED_CLOCK: Final = "SELECT ahead_us FROM shared_clock"
_OVERDUE_SERIES: Final = """
    SELECT count(*) AS waiting
    FROM (
        SELECT FROM metric_series WHERE span = 1 AND minute < %(before)s LIMIT %(rows_max)s + 1
    ) AS overdue"""
_AGREED: Final = "SELECT name, value FROM agreed_settings"
_DEAD_LETTERS: Final = "SELECT count(*) AS waiting FROM dead_letters"


class Verdict(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"  # works now, may fail later
    FAIL = "fail"  # does not work, or may lose acknowledged events


class Finding(msgspec.Struct, frozen=True):
    """The result of one check: what was found and, unless it is ok, what to do."""

    check: str
    verdict: Verdict
    found: str
    fix: str = ""


async def examine(settings: Settings, clock: Clock) -> list[Finding]:
    """Run all checks. `settings` name both engines; an engine that is away is a finding, not an error."""
    if settings.valkey_url is None or settings.database_url is None:
        raise ValueError("both engines must be named by URL")
    of_valkey, appended = await _examine_valkey(settings.valkey_url, clock, shards=settings.stream_shards)
    of_postgres = await _examine_postgres(settings, settings.database_url, appended, clock)
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return [*of_valkey, *of_postgres, disk(settings.data_dir), descriptors(hard_limit)]


async def _examine_valkey(
    url: str, clock: Clock, *, shards: int
) -> tuple[list[Finding], Mapping[int, int] | None]:
    """Return findings, and the number of events appended to each shard; None if Valkey is away.

    Counts all possible shards, because a process with another number of shards may have appended to them.
    """
    client = create_client(url)
    try:
        info = await client.info()
        before = clock.now()
        seconds, microseconds = await client.time()
        after = clock.now()
        there = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)
        counts = await client.mget([shard_key(shard, "appended") for shard in range(STREAM_SHARDS_MAX)])
        durability = await _valkey_durability(client)
        refused = await refusal(client, shards=shards)
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
        writes(refused),
    ]
    return findings, {
        shard: int(count) if count is not None and count.isdigit() else 0
        for shard, count in enumerate(counts)
    }


async def _valkey_durability(client: Redis) -> list[Finding]:
    try:
        config = await client.config_get("appendonly", "appendfsync", "maxmemory-policy")
    except ResponseError as error:  # managed services forbid CONFIG
        fix = "make sure that it has appendonly yes, appendfsync always, maxmemory-policy noeviction"
        return [Finding("Valkey durability", Verdict.WARN, f"cannot be read: {error}", fix)]
    return valkey_durability(cast("dict[str, str]", config))


async def _examine_postgres(
    settings: Settings, url: str, appended: Mapping[int, int] | None, clock: Clock
) -> list[Finding]:
    try:
        async with await connect(url, row_factory=dict_row) as connection:
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
                findings += await _examine_access(url, settings.admin_key)
                agreed = {row["name"]: row["value"] for row in await _rows(connection, _AGREED)}
                findings.append(shared_settings(settings, agreed))
                if appended is not None:
                    findings.append(lag(appended, await _rows(connection, _POSITIONS)))
                shared = await _rows(connection, _SHARED_CLOCK)
                findings += [shared_clock(row["ahead_us"] / 1e6) for row in shared]
                (letters,) = await _rows(connection, _DEAD_LETTERS)
                findings.append(dead_letters(letters["waiting"]))
                overdue = await connection.execute(
                    _OVERDUE_SERIES,
                    {
                        "before": Kept.at(clock.now().timestamp()).hours,
                        "rows_max": SERIES_THIN_ROWS_MAX,
                    },
                )
                findings.append(series((await overdue.fetchall())[0]["waiting"]))
            return findings
    except psycopg.Error as error:
        fix = "start `wald up`, or correct WALD_DATABASE_URL"
        return [Finding("PostgreSQL", Verdict.FAIL, str(error), fix)]


async def _examine_access(url: str, preset: str | None) -> list[Finding]:
    """Check for a key of an administrator and a key that signs."""
    engine, valkey = create_engine(url), create_client("unix:///")  # Valkey is not asked anything
    try:
        access = AccessService(AccessStore(engine, valkey), SystemClock())
        return [
            admin_key(await access.has_admin_key(), await access.doubts(preset)),
            signing_key(there=await access.has_signing_key()),
        ]
    finally:
        await engine.dispose()


async def _rows(connection: psycopg.AsyncConnection[DictRow], query: LiteralString) -> list[DictRow]:
    return await (await connection.execute(query)).fetchall()


def valkey_version(info: Mapping[str, Any]) -> Finding:
    """Check the version of Valkey or Redis."""
    name, number, least = "Redis", str(info["redis_version"]), _REDIS_VERSION_MIN
    if "valkey_version" in info:
        name, number, least = "Valkey", str(info["valkey_version"]), _VALKEY_VERSION_MIN
    if tuple(int(part) for part in number.split(".")[:2]) >= least:
        return Finding("Valkey", Verdict.OK, f"{name} {number}")
    return Finding("Valkey", Verdict.FAIL, f"{name} {number}", "upgrade to Valkey 7.2+ or Redis 7.0+")


def valkey_durability(config: Mapping[str, str]) -> list[Finding]:
    """Check that an acknowledged event survives a crash, and is never evicted."""
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
    """Check the bytes used by Valkey against its limit, above which it refuses writes; 0 means no limit."""
    name, fix = "Valkey memory", "raise maxmemory, or find out why the worker does not drain the streams"
    if limit == 0:
        found = f"{used / _GIB:.2f} GiB without a limit"
        return Finding(
            name,
            Verdict.WARN,
            found,
            "set maxmemory: without it, the system may kill Valkey when memory runs out",
        )
    share = used / limit
    severity = Verdict.OK if share < 0.8 else Verdict.WARN if share < 0.95 else Verdict.FAIL
    found = f"{used / _GIB:.2f} of {limit / _GIB:.2f} GiB"
    return Finding(name, severity, found, "" if severity is Verdict.OK else fix)


def postgres_version(facts: Mapping[str, Any]) -> Finding:
    """Check the version of PostgreSQL, and the encoding of the database."""
    found = f"PostgreSQL {facts['version']}, {facts['encoding']}"
    if facts["major"] < _POSTGRES_VERSION_MIN:
        return Finding("PostgreSQL", Verdict.FAIL, found, f"upgrade to PostgreSQL {_POSTGRES_VERSION_MIN}+")
    if facts["encoding"] != "UTF8":
        return Finding("PostgreSQL", Verdict.FAIL, found, "create the database with ENCODING 'UTF8'")
    return Finding("PostgreSQL", Verdict.OK, found)


def postgres_durability(facts: Mapping[str, Any]) -> Finding:
    """Check that a committed transaction survives a crash."""
    names = ("fsync", "full_page_writes", "synchronous_commit")
    found = ", ".join(f"{name} {facts[name]}" for name in names)
    off = [name for name in names if facts[name] == "off"]
    if off:
        fix = "; ".join(f"ALTER SYSTEM SET {name} = on" for name in off)
        return Finding("PostgreSQL durability", Verdict.FAIL, found, fix)
    return Finding("PostgreSQL durability", Verdict.OK, found)


def clock_skew(engine: str, before: datetime, there: datetime, after: datetime) -> Finding:
    """Check the clock of an engine against ours, read before and after. Travel time is not skew."""
    skew = max(before - there, there - after, timedelta(0))
    severity = Verdict.OK if skew < _SKEW_WARN else Verdict.WARN if skew < _SKEW_FAIL else Verdict.FAIL
    fix = "" if severity is Verdict.OK else "synchronise the clocks of the machines (NTP)"
    return Finding(f"Clock of {engine}", severity, f"differs by {skew.total_seconds():.3f} s", fix)


def shared_clock(ahead_s: float) -> Finding:
    """Check the shared time of all processes against the clock of PostgreSQL, its source."""
    found = f"{abs(ahead_s):,.3f} s {'ahead of' if ahead_s > 0 else 'behind'} the clock of PostgreSQL"
    if abs(ahead_s) <= CLOCK_SKEW_SHOWN_S:
        return Finding("Shared time", Verdict.OK, found)
    hours = abs(ahead_s) * 1e6 / CLOCK_RETURN_US * CLOCK_SYNC_S / 3_600
    fix = f"correct the clock of PostgreSQL's machine; if it is right, this ends in {hours:,.1f} h"
    return Finding("Shared time", Verdict.WARN, found, fix)


def writes(refused: str) -> Finding:
    """Check that Valkey accepts events. `refused` is the reason why it does not, or empty."""
    if not refused:
        return Finding("Valkey writes", Verdict.OK, "every shard accepts events")
    why, _, fix = refused.partition("; ")
    return Finding("Valkey writes", Verdict.FAIL, why, fix or "see the log of Valkey")


def schema(current: str | None, needed: str) -> Finding:
    """Check the revision of the database against the one that this version needs."""
    if current == needed:
        return Finding("Schema", Verdict.OK, f"revision {current}")
    found = f"{'empty' if current is None else f'revision {current}'}; this version needs {needed}"
    return Finding(
        "Schema",
        Verdict.FAIL,
        found,
        "run `wald migrate`, or install the version of Wald that has this revision",
    )


def admin_key(there: bool, doubts: Sequence[str]) -> Finding:  # noqa: FBT001  (there is or is not)
    """Check that an administrator can sign in. `doubts` are those of `AccessService.doubts`."""
    if not there:
        return Finding("Admin key", Verdict.FAIL, "none", NO_ADMIN_KEY)
    if doubts:
        return Finding("Admin key", Verdict.WARN, "present, but see the note", "; ".join(doubts))
    return Finding("Admin key", Verdict.OK, "present")


def signing_key(*, there: bool) -> Finding:
    """Check that assignment ids can be signed."""
    if there:
        return Finding("Signing key", Verdict.OK, "present")
    fix = "run `wald migrate`, or start `wald serve` or `wald worker`: each creates it"
    return Finding("Signing key", Verdict.FAIL, "none", fix)


def shared_settings(settings: Settings, agreed: Mapping[str, str]) -> Finding:
    """Check the settings here against those of the other processes of this deployment."""
    name = "Shared settings"
    if different := shards_differ(settings, agreed):
        return Finding(name, Verdict.FAIL, "the number of stream shards differs", different)
    if others := differences(settings, agreed):
        return Finding(name, Verdict.WARN, "a setting differs", "; ".join(others))
    if not agreed:
        return Finding(name, Verdict.OK, "none stored: the first server or worker stores its own")
    return Finding(name, Verdict.OK, f"{agreed[STREAM_SHARDS]} stream shards")


def lag(appended: Mapping[int, int], positions: list[dict[str, Any]]) -> Finding:
    """Check how many acknowledged events wait for the ledger, and that a worker reads them."""
    rows = {row["shard"]: row for row in positions}
    waiting = {
        shard: max(0, count - (rows[shard]["applied"] if shard in rows else 0))
        for shard, count in appended.items()
    }
    idle = [shard for shard, events in waiting.items() if events and not rows.get(shard, {}).get("owned")]
    total = sum(waiting.values())
    if idle:
        found = f"{total} events wait, and no worker reads shard {', '.join(map(str, idle))}"
        return Finding("Ledger", Verdict.FAIL, found, "start `wald worker`")
    if total > _LAG_EVENTS_WARN:
        return Finding("Ledger", Verdict.WARN, f"{total} events wait", "start more workers and stream shards")
    return Finding("Ledger", Verdict.OK, f"{total} events wait")


def dead_letters(count: int) -> Finding:
    """Check for stream entries that could not be applied."""
    if count == 0:
        return Finding("Dead letters", Verdict.OK, "none")
    return Finding(
        "Dead letters", Verdict.WARN, f"{count} entries", "read the column `error` of the table dead_letters"
    )


def series(overdue: int) -> Finding:
    """Check how many minutes of series should be hours by now. Late units always leave some."""
    if overdue <= SERIES_THIN_ROWS_MAX:
        return Finding("Series", Verdict.OK, f"{overdue} old minutes wait to be thinned")
    found = f"more than {SERIES_THIN_ROWS_MAX} old minutes wait to be thinned"
    return Finding("Series", Verdict.WARN, found, "look at the loop `cleanup` in `/ready` of a worker")


def disk(folder: Path) -> Finding:
    """Check the free space where the data folder is, or will be."""
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    severity = Verdict.OK
    if usage.free < 5 * _GIB or usage.free < usage.total * 0.05:
        severity = Verdict.WARN
    if usage.free < _GIB:
        severity = Verdict.FAIL
    found = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free at {existing}"
    return Finding(
        "Disk", severity, found, "" if severity is Verdict.OK else "free some space: a full disk stops writes"
    )


def descriptors(limit: int) -> Finding:
    """Check how many files and connections a process may open."""
    if limit == resource.RLIM_INFINITY or limit >= _DESCRIPTORS_WARN:
        return Finding(
            "Open files", Verdict.OK, "no limit" if limit == resource.RLIM_INFINITY else f"{limit}"
        )
    return Finding(
        "Open files", Verdict.WARN, f"at most {limit}", f"raise it: ulimit -Hn {_DESCRIPTORS_WARN}"
    )
