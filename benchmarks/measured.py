"""What metrics cost the ledger beside their own rows: units, cells and series.

The same events with M metrics and without, and the floor of the difference: the rows that metrics add,
written as often as the ledger writes them by nothing but COPY and UPDATE. A unit is copied into an empty copy
of its table when it comes, and set anew from a staged COPY when something is said of it; so are the cells and
series that a batch moves. Nothing is read, locked or computed. All interleaved; an argument sets how many
assignments.
"""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, LiteralString

import msgspec
import psycopg
from psycopg.sql import SQL, Composed, Identifier

from app.core import migrations
from app.core.engines import EmbeddedEngines
from app.core.postgres import psycopg_dsn
from app.experiments.metrics import Mean, Metric, Proportion, QuantileOf
from app.experiments.model import Reward
from app.experiments.plan import AnalysisPlan, Segments
from benchmarks import harness
from benchmarks.ingest import ledger_rate, stored, write
from tests.feedback.support import create_experiment, definition

ASSIGNMENTS: Final = 40_000
ROUNDS: Final = 3
KINDS: Final = {
    "none": (0, False),
    "1": (1, False),
    "5": (5, False),
    "10": (10, False),
    "10, segments": (10, True),
}
"""How many metrics, and whether there are three segments."""
_KEYS: Final[dict[LiteralString, tuple[LiteralString, ...]]] = {
    "unit_totals": ("experiment_id", "epoch", "unit_hash", "assignment_id"),
    "metric_totals": ("experiment_id", "epoch", "variant", "segment", "crossed"),
    "metric_series": ("experiment_id", "minute", "span", "epoch", "variant", "crossed"),
}
_MEASURES: Final = (
    Proportion("thumbs_up"),
    Proportion("thumbs_down"),
    Mean("thumbs_up", (0.0, 1.0)),
    Mean("thumbs_down", (0.0, 1.0)),
    QuantileOf("thumbs_up", 0.9),
)


def set_metrics(database_url: str, metrics: int, *, segments: bool) -> None:
    """Let the experiment have so many metrics."""
    chosen = tuple(Metric(key=f"m{i}", measure=_MEASURES[i % len(_MEASURES)]) for i in range(metrics))
    plan = AnalysisPlan(segments=Segments("plan", ("pro", "free")) if segments else None)
    plain = definition("benchmark", Reward(horizon_s=86_400))
    changed = msgspec.structs.replace(plain, metrics=chosen, plan=plan)
    with psycopg.connect(psycopg_dsn(database_url), autocommit=True) as connection:
        body = msgspec.json.encode(changed).decode()
        connection.execute("UPDATE experiments SET definition = %s", (body,))
        connection.execute(
            "TRUNCATE assignments, signals, unit_signals, totals, unit_totals, metric_totals, metric_series"
        )
        connection.execute("CHECKPOINT")


def floor_s(database_url: str) -> float:
    """Seconds to write what metrics have added, as often as the ledger does."""
    spent = 0.0
    with psycopg.connect(psycopg_dsn(database_url), autocommit=True) as connection:
        for way in ("hashjoin", "mergejoin", "bitmapscan", "seqscan"):  # as in the ledger's session
            connection.execute(SQL("SET {} = off").format(Identifier(f"enable_{way}")))
        for table in _KEYS:
            connection.execute(SQL("DROP TABLE IF EXISTS {}").format(Identifier(f"floor_{table}")))
            connection.execute(
                SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(
                    Identifier(f"floor_{table}"), Identifier(table)
                )
            )
            connection.execute(
                SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DELETE ROWS").format(
                    Identifier(f"staged_{table}"), Identifier(table)
                )
            )
        units = list(stored(connection, "unit_totals"))
        moved = {
            table: next(iter(stored(connection, table)), []) for table in ("metric_totals", "metric_series")
        }
        for number, batch in enumerate([*units, *units]):
            begun = perf_counter()
            with connection.transaction():
                if number < len(units):
                    write(connection, "floor_unit_totals", batch)
                else:
                    _set(connection, "unit_totals", batch)
                for table, rows in moved.items():
                    if number:
                        _set(connection, table, rows)
                    else:
                        write(connection, f"floor_{table}", rows)
            spent += perf_counter() - begun
    return spent


def _set(connection: psycopg.Connection, table: LiteralString, rows: Sequence[bytes]) -> None:
    write(connection, f"staged_{table}", rows)
    connection.execute(_update(table))


def _update(table: LiteralString) -> Composed:
    same = SQL(" AND ").join(
        SQL("{0}.{2} = {1}.{2}").format(
            Identifier(f"floor_{table}"), Identifier(f"staged_{table}"), Identifier(name)
        )
        for name in _KEYS[table]
    )
    return SQL("UPDATE {0} SET body = {1}.body FROM {1} WHERE {2}").format(
        Identifier(f"floor_{table}"), Identifier(f"staged_{table}"), same
    )


async def _measure(data: Path, n_assignments: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Of each kind and round the seconds of the ledger, and those of the floor."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    async with EmbeddedEngines(data) as engines:
        migrations.upgrade(engines.database_url)
        create_experiment(engines.database_url, "benchmark", Reward(horizon_s=86_400))
        for number in range(rounds):
            for kind, (metrics, segments) in KINDS.items():
                set_metrics(engines.database_url, metrics, segments=segments)
                rate = await ledger_rate(engines, n_assignments, shards=1, seed=number)
                found[kind].append((2 * n_assignments / rate, floor_s(engines.database_url)))
    return found


def measure(n_assignments: int = ASSIGNMENTS, rounds: int = ROUNDS) -> dict[str, float]:
    """Print the table and give the figures for `baseline.json`: of each kind the ratio to its floor."""
    with tempfile.TemporaryDirectory(prefix="wald-bench-") as folder:
        found = asyncio.run(_measure(Path(folder) / "data", n_assignments, rounds))
    plain = [seconds for seconds, _ in found["none"]]
    figures, rows = {}, []
    for kind, measured in found.items():
        seconds = harness.middle([one for one, _ in measured])
        floor = harness.middle([one for _, one in measured])
        more = [one - without for (one, _), without in zip(measured, plain, strict=True)]
        row = [kind, f"{seconds:.2f}", f"{harness.middle(more):.2f}", f"{floor:.2f}"]
        if kind != "none":
            ratio = harness.middle([one / least for one, (_, least) in zip(more, measured, strict=True)])
            figures[kind] = ratio
            row += [f"{ratio:.2f}", f"{seconds / harness.middle(plain):.2f}"]
        rows.append(row)
    harness.show(
        f"What metrics add to the ledger, {2 * n_assignments:,} events on one shard",
        ["metrics", "seconds", "more", "their rows alone", "more / rows", "of none"],
        rows,
    )
    return figures


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else ASSIGNMENTS)
