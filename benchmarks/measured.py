"""The cost of metrics in the ledger, relative to the ledger's own rows: units, cells and series.

The same events run with M metrics and without, each beside a reference. The reference writes the
same rows as often as the ledger does, with COPY and UPDATE only. Without metrics these are
assignments and signals; with metrics, the rows that metrics add.

The reference copies an assignment or a unit into an empty copy of its table when it arrives. When a
signal arrives, it updates the row from a staged COPY. It does the same for the cells and series
that a batch moves. It reads, locks and computes nothing.

Metrics cost no more than the ledger's own rows if their ratio of time to reference is at most that
without metrics. All runs are interleaved; an argument sets the number of assignments.
"""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, LiteralString, NamedTuple

import msgspec
import psycopg
from psycopg.sql import SQL, Composed, Identifier

from app.core import migrations
from app.core.engines import EmbeddedEngines
from app.core.postgres import psycopg_dsn
from app.experiments.metrics import Mean, Metric, Proportion, QuantileOf
from app.experiments.model import Stickiness
from app.experiments.plan import AnalysisPlan, Segments
from app.experiments.reward import Reward
from benchmarks import harness
from benchmarks.ingest import ledger_rate, stored, write
from tests.ledger.support import create_experiment, definition

ASSIGNMENTS: Final = 40_000
ROUNDS: Final = 3


class Kind(NamedTuple):
    """An experiment: number of metrics, whether it has three segments, and its unit of analysis."""

    metrics: int = 0
    segments: bool = False
    stickiness: Stickiness = "none"


KINDS: Final = {
    "none": Kind(),
    "1": Kind(1),
    "5": Kind(5),
    "10": Kind(10),
    "10, segments": Kind(10, segments=True),
    "10, sticky units": Kind(10, stickiness="unit"),
}


class Written(NamedTuple):
    """A table: its key, and the columns that change when a row is stored again."""

    key: tuple[LiteralString, ...]
    changed: tuple[LiteralString, ...] = ("body",)


_WRITTEN: Final[dict[LiteralString, Written]] = {
    "assignments": Written(("experiment_id", "unit_hash", "id"), ("outcome", "reward")),
    "unit_totals": Written(("experiment_id", "epoch", "unit_hash", "assignment_id")),
    "metric_totals": Written(("experiment_id", "epoch", "variant", "segment", "crossed")),
    "metric_series": Written(("experiment_id", "minute", "span", "epoch", "variant", "crossed")),
}
_MEASURES: Final = (
    Proportion("thumbs_up"),
    Proportion("thumbs_down"),
    Mean("thumbs_up", (0.0, 1.0)),
    Mean("thumbs_down", (0.0, 1.0)),
    QuantileOf("thumbs_up", 0.9),
)


def set_kind(database_url: str, kind: Kind) -> None:
    """Change the experiment to this kind and empty its tables."""
    chosen = tuple(Metric(key=f"m{i}", measure=_MEASURES[i % len(_MEASURES)]) for i in range(kind.metrics))
    plan = AnalysisPlan(segments=Segments("plan", ("pro", "free")) if kind.segments else None)
    plain = definition("benchmark", Reward(horizon_s=86_400))
    changed = msgspec.structs.replace(plain, metrics=chosen, plan=plan, stickiness=kind.stickiness)
    with psycopg.connect(psycopg_dsn(database_url), autocommit=True) as connection:
        body = msgspec.json.encode(changed).decode()
        connection.execute("UPDATE experiments SET definition = %s", (body,))
        connection.execute(
            "TRUNCATE assignments, signals, unit_signals, totals, unit_totals, metric_totals, metric_series"
        )
        connection.execute("CHECKPOINT")


def reference_s(
    database_url: str,
    *,
    arriving: LiteralString,
    signals: LiteralString | None = None,
    moved: Sequence[LiteralString] = (),
) -> float:
    """Return the seconds to write rows as often as the ledger does.

    Copies the rows of `arriving`, and updates them when the rows of `signals` arrive. Updates the
    rows of `moved` with every batch.
    """
    spent = 0.0
    with psycopg.connect(psycopg_dsn(database_url), autocommit=True) as connection:
        # The session of the ledger has the same settings.
        for plan in ("hashjoin", "mergejoin", "bitmapscan", "seqscan"):
            connection.execute(SQL("SET {} = off").format(Identifier(f"enable_{plan}")))
        for table in (arriving, *moved, *([signals] if signals else [])):
            _copies(connection, table)
        arrived = list(stored(connection, arriving))
        signalled = list(stored(connection, signals)) if signals else [[] for _ in arrived]
        cells = {table: next(iter(stored(connection, table)), []) for table in moved}
        for number, (batch, signal_rows) in enumerate(
            [*((batch, []) for batch in arrived), *zip(arrived, signalled, strict=True)]
        ):
            begun = perf_counter()
            with connection.transaction():
                if number < len(arrived):
                    write(connection, f"reference_{arriving}", batch)
                else:
                    _set(connection, arriving, batch)
                if signals and signal_rows:
                    write(connection, f"reference_{signals}", signal_rows)
                for table, rows in cells.items():
                    if number:
                        _set(connection, table, rows)
                    else:
                        write(connection, f"reference_{table}", rows)
            spent += perf_counter() - begun
    return spent


def _copies(connection: psycopg.Connection, table: LiteralString) -> None:
    """Create an empty copy of a table, and one to stage its rows."""
    source, reference, staged = (Identifier(f"{kind}{table}") for kind in ("", "reference_", "staged_"))
    connection.execute(SQL("DROP TABLE IF EXISTS {}").format(reference))
    connection.execute(SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(reference, source))
    connection.execute(
        SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DELETE ROWS").format(staged, source)
    )


def _set(connection: psycopg.Connection, table: LiteralString, rows: Sequence[bytes]) -> None:
    write(connection, f"staged_{table}", rows)
    connection.execute(_update(table))


def _update(table: LiteralString) -> Composed:
    reference, staged, written = (
        Identifier(f"reference_{table}"),
        Identifier(f"staged_{table}"),
        _WRITTEN[table],
    )
    same = SQL(" AND ").join(
        SQL("{0}.{2} = {1}.{2}").format(reference, staged, Identifier(name)) for name in written.key
    )
    changes = SQL(", ").join(
        SQL("{1} = {0}.{1}").format(staged, Identifier(name)) for name in written.changed
    )
    return SQL("UPDATE {0} SET {2} FROM {1} WHERE {3}").format(reference, staged, changes, same)


async def _measure(data: Path, n_assignments: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return for each kind and round the seconds of the ledger and of the reference."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in KINDS}
    async with EmbeddedEngines(data) as engines:
        url = engines.database_url
        migrations.upgrade(url)
        create_experiment(url, "benchmark", Reward(horizon_s=86_400))
        for number in range(rounds):
            for name, kind in KINDS.items():
                set_kind(url, kind)
                rate = await ledger_rate(engines, n_assignments, shards=1, seed=number)
                reference = (
                    reference_s(url, arriving="unit_totals", moved=("metric_totals", "metric_series"))
                    if kind.metrics
                    else reference_s(url, arriving="assignments", signals="signals")
                )
                times[name].append((2 * n_assignments / rate, reference))
    return times


def measure(n_assignments: int = ASSIGNMENTS, rounds: int = ROUNDS) -> dict[str, float]:
    """Print the table and return the ratio of each kind to its reference."""
    with tempfile.TemporaryDirectory(prefix="wald-bench-") as folder:
        times = asyncio.run(_measure(Path(folder) / "data", n_assignments, rounds))
    plain = [seconds for seconds, _ in times["none"]]
    figures, rows = {}, []
    for kind, measured in times.items():
        seconds, reference = (harness.middle(list(column)) for column in zip(*measured, strict=True))
        added = [
            ledger - (without if kind != "none" else 0)
            for (ledger, _), without in zip(measured, plain, strict=True)
        ]
        ratios = [ledger / bare for ledger, (_, bare) in zip(added, measured, strict=True)]
        figures[kind] = harness.middle(ratios)
        row = (seconds, harness.middle(added), reference, figures[kind], seconds / harness.middle(plain))
        rows.append([kind, *(f"{value:.2f}" for value in row)])
    harness.show(
        f"What metrics add to the ledger, {2 * n_assignments:,} events on one shard",
        ["metrics", "seconds", "for its rows", "bare rows", "ratio", "of none"],
        rows,
    )
    return figures


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else ASSIGNMENTS)
