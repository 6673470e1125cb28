"""How long the readout takes: a large experiment beside the same one with a hundredth of its units.

The reward and ten metrics of all kinds, four variants, three segments and a covariate, from the bytes of
totals as PostgreSQL has them. A readout is one thread that waits for nothing: its time is that of the
processor, beside which stands that of the clock, which on a busy machine also counts what others do.

    python -m benchmarks.readout
"""

import gc
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

import numpy as np

from app.allocation.model import VariantTotals
from app.analysis.evidence.effect import _bounded
from app.analysis.readout.analyze import analyze
from app.analysis.readout.model import Stored, measured_of
from app.analysis.readout.record import Readout
from app.analysis.stored import StratumCell, UnitCell
from app.experiments.metrics import Margin, Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.model import Definition, Experiment, Running, Variant
from app.experiments.plan import AnalysisPlan, Segments
from app.experiments.policies import FixedPolicy
from app.ledger.rewards.composite import NANO
from app.ledger.units.measures import ACCURACY, CellTotals, Sums
from benchmarks import harness
from benchmarks.validity import SEED
from stats.concurrent import AGE_STRATA
from stats.quantiles import bucket_numbers

LARGE: Final = 1_000_000
SMALL: Final = 10_000
REPEATS: Final = 15
LIMIT_MS: Final = 250.0
GROWTH_MAX: Final = 1.2

VARIANTS: Final = ("control", "short", "long", "formal")
SEGMENTS: Final = ("de", "en", "other")
HARMLESS: Final = Margin(0.02)
METRICS: Final = (
    Metric(key="solved", measure=Proportion("solved"), role="primary"),
    Metric(key="thumbs_up", measure=Proportion("thumbs_up")),
    Metric(key="copied", measure=Proportion("copied")),
    Metric(key="error", measure=Proportion("error"), role="guardrail", direction="lower", margin=HARMLESS),
    Metric(
        key="refused", measure=Proportion("refused"), role="guardrail", direction="lower", margin=HARMLESS
    ),
    Metric(key="score", measure=Mean("score")),
    Metric(key="seconds_saved", measure=Mean("seconds_saved")),
    Metric(key="cost", measure=Mean("cost", (0.0, 1.0)), direction="lower"),
    Metric(key="clicks_per_session", measure=Ratio("clicks", "sessions")),
    Metric(
        key="latency_p95",
        measure=QuantileOf("latency", 0.95),
        role="guardrail",
        direction="lower",
        margin=Margin(0.5),
    ),
)
PLAN: Final = AnalysisPlan(
    expected_units=500_000, segments=Segments("language", ("de", "en")), covariates=("before",)
)
START: Final = datetime(2026, 1, 1, tzinfo=UTC)


DEFINITION: Final = Definition(
    key="large",
    variants=tuple(Variant(key, control=key == "control") for key in VARIANTS),
    stickiness="unit",
    policy=FixedPolicy(dict.fromkeys(VARIANTS, 1 / len(VARIANTS))),
    metrics=METRICS,
    plan=PLAN,
)
EXPERIMENT: Final = Experiment(
    id=1,
    definition=DEFINITION,
    state=Running(START),
    salt=bytes(16),
    epoch=1,
    revision=1,
    created_at=START,
    updated_at=START,
)
Body = tuple[str, str, bytes]
"""Variant, segment and the totals of a cell, as PostgreSQL has them."""


def cells(units: int) -> list[Body]:
    """Totals, drawn: the variants differ a little, a covariate explains half of the means' variance."""
    rng = np.random.default_rng(SEED)
    n = units // len(VARIANTS) // len(SEGMENTS)
    found = []
    for number, variant in enumerate(VARIANTS):
        for segment in SEGMENTS:
            before = rng.normal(0.5, 0.1, n)
            measured = measured_of(EXPERIMENT).metrics
            sums = tuple(_sums(metric, before, 1 + 0.01 * number, rng) for metric in measured)
            found.append((variant, segment, CellTotals(n, sums).to_bytes()))
    return found


def _sums(
    metric: Metric, before: np.ndarray, factor: float, rng: np.random.Generator, *, drawn: bool = False
) -> Sums:
    n = len(before)
    if drawn and isinstance(metric.measure, QuantileOf):
        return {}
    match metric.measure:
        case Proportion():
            rate = 0.01 if metric.role == "guardrail" else 0.4
            columns = [(rng.random(n) < rate * factor).astype(float), before]
        case QuantileOf():
            numbers = bucket_numbers(rng.lognormal(0.5, 0.7, n) * factor, accuracy=ACCURACY)
            return dict(zip(*(one.tolist() for one in np.unique(numbers, return_counts=True)), strict=True))
        case Ratio():
            sessions = 1.0 + rng.poisson(2.0, n)
            columns = [rng.binomial(sessions.astype(int), min(0.3 * factor, 1)).astype(float), sessions]
        case _:
            columns = [np.clip(factor * before + rng.normal(0, 0.1, n), 0, 1), before]
    if drawn:
        outcomes = columns if isinstance(metric.measure, Ratio) else columns[:1]
        columns = [*outcomes, np.full(n, float(len(VARIANTS)))]
    elif not isinstance(metric.measure, Ratio):
        columns.append(np.zeros(n))  # of no unit is the covariate missing
    products = [columns[row] @ columns[column] for row in range(len(columns)) for column in range(row + 1)]
    sums = [int(column.sum() * NANO) for column in columns]
    return (n, *sums, *(int(product * NANO) * NANO for product in products))


def read(bodies: Sequence[Body], *, adaptive: bool) -> Readout:
    """The readout, from what PostgreSQL has."""
    counted = [
        UnitCell(1, VARIANTS.index(variant), segment, crossed=False, totals=CellTotals.from_bytes(body))
        for variant, segment, body in bodies
    ]
    stored = Stored(
        draws=(),
        totals=[VariantTotals()] * len(VARIANTS),
        by_epoch=[],
        units=counted,
        totals_as_of=START + timedelta(days=7),
        read_at=START + timedelta(days=7),
        wanted=0,
        latest=None,
        history=[],
        epoch_shares={1: None if adaptive else (0.25,) * len(VARIANTS)},
        strata=strata() if adaptive else (),
    )
    return analyze(PLAN, measured_of(EXPERIMENT).metrics, stored.observed(EXPERIMENT))


@cache
def strata() -> list[StratumCell]:
    """Return the largest number of strata, each with a few units and 1 / propensity beside their outcomes."""
    rng, measured = np.random.default_rng(SEED + 1), measured_of(EXPERIMENT).metrics
    found = []
    for stratum in range(AGE_STRATA):
        for variant in range(len(VARIANTS)):
            before = rng.normal(0.5, 0.1, 200)
            sums = tuple(_sums(metric, before, 1 + 0.01 * variant, rng, drawn=True) for metric in measured)
            found.append(StratumCell(1, stratum, variant, CellTotals(200, sums)))
    return found


def measured_ms(bodies: Sequence[Body], *, adaptive: bool) -> list[tuple[float, float]]:
    """Of single readouts: time of the processor, and by the clock."""
    times = []
    for _ in range(REPEATS):
        _bounded.cache_clear()  # nothing remembered
        gc.collect()
        begun = time.process_time(), time.perf_counter()
        read(bodies, adaptive=adaptive)
        ended = time.process_time(), time.perf_counter()
        times.append((1e3 * (ended[0] - begun[0]), 1e3 * (ended[1] - begun[1])))
    return times


def measure() -> dict[str, dict[str, float]]:
    """The figures of the baseline: for a fixed split, and where a bandit allocated."""
    size = f"{len(METRICS)} metrics, {len(VARIANTS)} variants, {len(SEGMENTS)} segments"
    found = {kind: _compared(adaptive=kind == "bandit") for kind in ("fixed", "bandit")}
    harness.show(
        f"A readout of {LARGE:,} units, {size}",
        ["", "CPU ms", "clock ms", f"CPU of that of {SMALL:,} units"],
        [
            [
                kind,
                *(f"{one[name]:.0f}" for name in ("large_ms", "large_wall_ms")),
                f"{one['large_of_small']:.2f}",
            ]
            for kind, one in found.items()
        ],
    )
    return found


def _compared(*, adaptive: bool) -> dict[str, float]:
    """Medians, the sizes in turn."""
    large, small = cells(LARGE), cells(SMALL)
    times: dict[str, list[tuple[float, float]]] = {"large": [], "small": []}
    for _ in range(3):
        times["large"] += measured_ms(large, adaptive=adaptive)
        times["small"] += measured_ms(small, adaptive=adaptive)
    (large_ms, wall_ms), (small_ms, _) = (
        map(statistics.median, zip(*times[size], strict=True)) for size in ("large", "small")
    )
    return {
        "large_ms": round(large_ms, 1),
        "large_wall_ms": round(wall_ms, 1),
        "large_of_small": round(large_ms / small_ms, 3),
    }


if __name__ == "__main__":
    for found in measure().values():
        assert found["large_ms"] <= LIMIT_MS, found
        assert found["large_of_small"] <= GROWTH_MAX, found
