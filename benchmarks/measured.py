"""What metrics cost the ledger beside their own rows: units, cells and series.

The same events with M metrics and without, each beside its floor: the very rows, written as often as the
ledger writes them by nothing but COPY and UPDATE. Without metrics those are assignments and signals; with
them, the rows that metrics add. An assignment or a unit is copied into an empty copy of its table when it
comes, and set anew from a staged COPY when something is said of it; so are the cells and series that a batch
moves. Nothing is read, locked or computed. Rows of metrics cost no more than the ledger's own if their ratio,
time over floor, is no larger than that of no metrics. All interleaved; an argument sets how many assignments.
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
from app.experiments.model import Reward, Stickiness
from app.experiments.plan import AnalysisPlan, Segments
from benchmarks import harness
from benchmarks.ingest import ledger_rate, stored, write
from tests.ledger.support import create_experiment, definition

ASSIGNMENTS: Final = 40_000
ROUNDS: Final = 3


class Kind(NamedTuple):
    """An experiment: how many metrics, whether with three segments, and what is a unit of analysis."""

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
    """A table: its key, and the columns that are set when a row is stored anew."""

    key: tuple[LiteralString, ...]
    anew: tuple[LiteralString, ...] = ("body",)


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
    """Let the experiment be of a kind, and empty."""
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


def floor_s(
    database_url: str,
    *,
    coming: LiteralString,
    said: LiteralString | None = None,
    moved: Sequence[LiteralString] = (),
) -> float:
    """Seconds to write rows as often as the ledger does.

    Those of `coming` are copied, and set anew when the rows of `said` come; those of `moved` at every batch.
    """
    spent = 0.0
    with psycopg.connect(psycopg_dsn(database_url), autocommit=True) as connection:
        for way in ("hashjoin", "mergejoin", "bitmapscan", "seqscan"):  # as in the ledger's session
            connection.execute(SQL("SET {} = off").format(Identifier(f"enable_{way}")))
        for table in (coming, *moved, *([said] if said else [])):
            _copies(connection, table)
        came = list(stored(connection, coming))
        heard = list(stored(connection, said)) if said else [[] for _ in came]
        cells = {table: next(iter(stored(connection, table)), []) for table in moved}
        for number, (batch, signals) in enumerate(
            [*((one, []) for one in came), *zip(came, heard, strict=True)]
        ):
            begun = perf_counter()
            with connection.transaction():
                if number < len(came):
                    write(connection, f"floor_{coming}", batch)
                else:
                    _set(connection, coming, batch)
                if said and signals:
                    write(connection, f"floor_{said}", signals)
                for table, rows in cells.items():
                    if number:
                        _set(connection, table, rows)
                    else:
                        write(connection, f"floor_{table}", rows)
            spent += perf_counter() - begun
    return spent


def _copies(connection: psycopg.Connection, table: LiteralString) -> None:
    """An empty copy of a table, and one to stage its rows."""
    own, floor, staged = (Identifier(f"{kind}{table}") for kind in ("", "floor_", "staged_"))
    connection.execute(SQL("DROP TABLE IF EXISTS {}").format(floor))
    connection.execute(SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(floor, own))
    connection.execute(SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DELETE ROWS").format(staged, own))


def _set(connection: psycopg.Connection, table: LiteralString, rows: Sequence[bytes]) -> None:
    write(connection, f"staged_{table}", rows)
    connection.execute(_update(table))


def _update(table: LiteralString) -> Composed:
    floor, staged, written = Identifier(f"floor_{table}"), Identifier(f"staged_{table}"), _WRITTEN[table]
    same = SQL(" AND ").join(
        SQL("{0}.{2} = {1}.{2}").format(floor, staged, Identifier(name)) for name in written.key
    )
    anew = SQL(", ").join(SQL("{1} = {0}.{1}").format(staged, Identifier(name)) for name in written.anew)
    return SQL("UPDATE {0} SET {2} FROM {1} WHERE {3}").format(floor, staged, anew, same)


async def _measure(data: Path, n_assignments: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Of each kind and round the seconds of the ledger, and those of the floor."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in KINDS}
    async with EmbeddedEngines(data) as engines:
        url = engines.database_url
        migrations.upgrade(url)
        create_experiment(url, "benchmark", Reward(horizon_s=86_400))
        for number in range(rounds):
            for name, kind in KINDS.items():
                set_kind(url, kind)
                rate = await ledger_rate(engines, n_assignments, shards=1, seed=number)
                floor = (
                    floor_s(url, coming="unit_totals", moved=("metric_totals", "metric_series"))
                    if kind.metrics
                    else floor_s(url, coming="assignments", said="signals")
                )
                found[name].append((2 * n_assignments / rate, floor))
    return found


def measure(n_assignments: int = ASSIGNMENTS, rounds: int = ROUNDS) -> dict[str, float]:
    """Print the table and give the figures for `baseline.json`: of each kind the ratio to its floor."""
    with tempfile.TemporaryDirectory(prefix="wald-bench-") as folder:
        found = asyncio.run(_measure(Path(folder) / "data", n_assignments, rounds))
    plain = [seconds for seconds, _ in found["none"]]
    figures, rows = {}, []
    for kind, measured in found.items():
        seconds, floor = (harness.middle(list(ones)) for ones in zip(*measured, strict=True))
        own = [
            one - (without if kind != "none" else 0)
            for (one, _), without in zip(measured, plain, strict=True)
        ]
        figures[kind] = harness.middle([one / least for one, (_, least) in zip(own, measured, strict=True)])
        times = (seconds, harness.middle(own), floor, figures[kind], seconds / harness.middle(plain))
        rows.append([kind, *(f"{one:.2f}" for one in times)])
    harness.show(
        f"What metrics add to the ledger, {2 * n_assignments:,} events on one shard",
        ["metrics", "seconds", "for its rows", "its rows alone", "ratio", "of none"],
        rows,
    )
    return figures


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else ASSIGNMENTS)
