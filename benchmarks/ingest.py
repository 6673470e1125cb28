"""The ledger: events a second from streams to totals, relative to a bare COPY of the same rows.

Half of the events are exposures, half are signals about them, some batches later. The consumers of
a worker take them from Valkey, with one shard and with two.

The reference copies the rows that the ledger stored into empty copies of its tables with all their
indexes. It uses binary COPY on one connection, in batches of the same size. It drops no repeats and
computes no rewards and no totals.

`rss_growth_mib` is the growth of this process over the second half of the runs; the process also
makes the events. An argument sets the number of assignments.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from time import perf_counter
from typing import LiteralString

import numpy as np
import psycopg

from app.assignment import exposure
from app.assignment.assignment_id import BODY, uuid7
from app.assignment.exposure import Exposure
from app.core import migrations
from app.core.clock import SystemClock
from app.core.engines import EmbeddedEngines
from app.core.loops import Loops
from app.core.postgres import create_engine, psycopg_dsn
from app.core.stream import StreamAppender
from app.core.valkey import create_client
from app.experiments.reward import Reward
from app.feedback import entry
from app.feedback.entry import SignalsEntry
from app.ledger.lag import LedgerLag
from app.ledger.limits import LEDGER_BATCH_EVENTS_MAX, LEDGER_READ_ENTRIES_MAX
from app.ledger.log.batch import StreamEntry
from app.ledger.loop import ledger_loops
from benchmarks import harness
from tests.ledger.support import create_experiment

ASSIGNMENTS = 128_000
ENTRY_EVENTS = 1_000
SLICE_ENTRIES = 4 * LEDGER_READ_ENTRIES_MAX
"""Number of entries in Valkey at once, so that every read of one or two shards is full."""
ROUNDS = 3
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"


def entries(n: int, seed: int) -> Iterator[list[StreamEntry]]:
    """Yield batches of ten entries of exposures and, ten batches later, the signals about them."""
    rng = np.random.default_rng(seed)
    now_ms = SystemClock().now_ms()
    waiting: list[list[StreamEntry]] = []
    per_batch = LEDGER_BATCH_EVENTS_MAX
    for start in range(0, n, per_batch):
        bodies = np.zeros(min(per_batch, n - start), BODY)
        bodies["format"] = bodies["key_id"] = bodies["experiment_id"] = bodies["epoch"] = 1
        bodies["variant"] = rng.integers(0, 2, len(bodies))
        bodies["propensity"] = 0.5
        bodies["unit_hash"] = rng.integers(-(2**63), 2**63 - 1, len(bodies))
        ids = [uuid7(now_ms, int(number)) for number in rng.integers(0, 2**62, len(bodies))]
        bodies["id"] = np.frombuffer(b"".join(ids), "V16")
        parts = [bodies[first : first + ENTRY_EVENTS] for first in range(0, len(bodies), ENTRY_EVENTS)]
        yield [_exposures(part) for part in parts]
        waiting.append([_signals(part, now_ms, rng) for part in parts])
        if len(waiting) > 10:
            yield waiting.pop(0)
    yield from waiting


def _exposures(bodies: np.ndarray) -> StreamEntry:
    rows = [Exposure(bodies[i].tobytes(), f"user-{i}", {"plan": "pro"}) for i in range(len(bodies))]
    return StreamEntry("1-0", exposure.KIND, len(rows), exposure.encode(rows))


def _signals(bodies: np.ndarray, now_ms: int, rng: np.random.Generator) -> StreamEntry:
    n = len(bodies)
    values = rng.integers(0, 2, n)
    made = SignalsEntry(
        received_at_ms=now_ms,
        bodies=bodies.tobytes(),
        signals=[("thumbs_down", "thumbs_up")[value] for value in values],
        sources=bytes([1]) * n,
        values=values.astype(entry.VALUES).tobytes(),
        at_us=(now_ms * 1_000 + np.arange(n)).astype(entry.TIMES).tobytes(),
        ids=[None] * n,
    )
    return StreamEntry("1-0", entry.KIND, n, entry.encode(made))


async def ledger_rate(
    engines: EmbeddedEngines,
    n_assignments: int,
    *,
    shards: int,
    seed: int = 1,
    rss: list[float] | None = None,
) -> float:
    """Return events a second from Valkey to committed totals, by the consumers of a worker.

    Appends the resident memory of this process in MiB to `rss` after each slice of the stream.
    """
    spent, n_events, committed_at = 0.0, 0, 0.0

    def on_commit(_: object) -> None:
        nonlocal committed_at
        committed_at = perf_counter()

    stream = (stream_entry for batch in entries(n_assignments, seed) for stream_entry in batch)
    engine = create_engine(engines.database_url)
    valkey = create_client(engines.valkey_url, socket_timeout=None)
    lag = LedgerLag(engine, valkey, shards=shards)
    while part := list(islice(stream, SLICE_ENTRIES)):
        n_events += sum(stream_entry.n for stream_entry in part)
        await _append(engines.valkey_url, part, shards)
        del part
        loops = ledger_loops(
            shards=shards,
            owner="benchmark",
            database_url=engines.database_url,
            valkey=valkey,
            clock=SystemClock(),
            on_commit=on_commit,
        )
        begun = perf_counter()
        async with Loops(loops[:shards], clock=SystemClock(), random=Random(seed)):
            while await lag.events():  # noqa: ASYNC110  (only the database knows)
                await asyncio.sleep(0.2)
        spent += committed_at - begun
        if rss is not None:
            rss.append(harness.rss_mib())
    await valkey.aclose()
    await engine.dispose()
    return n_events / spent


async def _append(valkey_url: str, part: Sequence[StreamEntry], shards: int) -> None:
    appender = StreamAppender(valkey_url, deadline_s=60)
    await appender.start()
    for number, stream_entry in enumerate(part):
        await appender.append(number % shards, stream_entry.kind, stream_entry.n, stream_entry.body)
    await appender.stop()


def copy_rate(database_url: str) -> float:
    """Return rows a second of a bare COPY of the stored rows into copies of the ledger's tables."""
    spent, n_rows = 0.0, 0
    with psycopg.connect(psycopg_dsn(database_url), autocommit=True) as connection:
        for table in ("assignments", "signals"):
            connection.execute(f"DROP TABLE IF EXISTS reference_{table}")
            connection.execute(f"CREATE TABLE reference_{table} (LIKE {table} INCLUDING ALL)")
            for rows in stored(connection, table):
                begun = perf_counter()
                write(connection, f"reference_{table}", rows)
                spent += perf_counter() - begun
                n_rows += len(rows)
    return n_rows / spent


def write(connection: psycopg.Connection, table: LiteralString, rows: Sequence[bytes]) -> None:
    """Append stored rows to a table."""
    with connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(b"".join([_HEADER, *rows, _TRAILER]))


def stored(connection: psycopg.Connection, table: LiteralString) -> Iterator[Sequence[bytes]]:
    """Yield the stored rows in batches, in the order and format of COPY."""
    batch: list[bytes] = []
    with connection.cursor().copy(f"COPY {table} TO STDOUT (FORMAT BINARY)") as copy:
        for data in copy:
            row = bytes(data).removeprefix(_HEADER)
            if row and row != _TRAILER:
                batch.append(row)
    for start in range(0, len(batch), LEDGER_BATCH_EVENTS_MAX):
        yield batch[start : start + LEDGER_BATCH_EVENTS_MAX]


async def _measure(data: Path, n_assignments: int, rounds: int) -> dict[str, float]:
    references: list[float] = []
    ours: dict[int, list[float]] = {1: [], 2: []}
    rss: list[float] = []
    async with EmbeddedEngines(data) as engines:
        migrations.upgrade(engines.database_url)
        create_experiment(engines.database_url, "benchmark", Reward(horizon_s=86_400))
        for number in range(rounds):
            for shards, rates in ours.items():
                _truncate(engines.database_url)
                rates.append(await ledger_rate(engines, n_assignments, shards=shards, seed=number, rss=rss))
            references.append(copy_rate(engines.database_url))
    one_shard, two_shards = ours.values()
    return {
        "reference_rows_s": harness.middle(references),
        "one_shard_events_s": harness.middle(one_shard),
        "one_shard_ratio": harness.middle(
            [rate / reference for rate, reference in zip(one_shard, references, strict=True)]
        ),
        "two_shards_events_s": harness.middle(two_shards),
        "two_shards_ratio": harness.middle(
            [rate / reference for rate, reference in zip(two_shards, references, strict=True)]
        ),
        "rss_mib": harness.middle(rss),
        "rss_growth_mib": rss[-1] - rss[len(rss) // 2],
    }


def _truncate(database_url: str) -> None:
    with psycopg.connect(psycopg_dsn(database_url), autocommit=True) as connection:
        connection.execute("TRUNCATE assignments, signals, unit_signals, totals")
        connection.execute("CHECKPOINT")


def measure(n_assignments: int = ASSIGNMENTS, rounds: int = ROUNDS) -> dict[str, float]:
    """Print the table and return the figures for `baseline.json`."""
    with tempfile.TemporaryDirectory(prefix="wald-bench-") as folder:
        figures = asyncio.run(_measure(Path(folder) / "data", n_assignments, rounds))
    harness.show(
        f"Ledger, {2 * n_assignments:,} events",
        ["", "rows/s", "of the reference"],
        [
            ["bare COPY", f"{figures['reference_rows_s']:,.0f}", "1.000"],
            ["one shard", f"{figures['one_shard_events_s']:,.0f}", f"{figures['one_shard_ratio']:.3f}"],
            ["two shards", f"{figures['two_shards_events_s']:,.0f}", f"{figures['two_shards_ratio']:.3f}"],
        ],
    )
    return figures


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else ASSIGNMENTS)
