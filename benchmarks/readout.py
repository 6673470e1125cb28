"""How long the readout takes: a large experiment beside the same one with a hundredth of its units.

Ten metrics of all kinds, four variants, three segments, from totals as the ledger keeps them. What may be
compared is the ratio: the time must not depend on the units.

    python -m benchmarks.readout
"""

import gc
import statistics
import time
from typing import Final

import msgspec
import numpy as np

from app.analysis.analyze import analyze
from app.analysis.evidence import _bounded
from app.analysis.observed import Cell, MetricTotals, Observed
from app.experiments.metrics import Margin, Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.plan import AnalysisPlan
from benchmarks.validity import SEED
from stats.quantiles import QuantileSketch
from stats.srm import ArmCounts
from stats.totals import JointTotals, ProportionTotals

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
PLAN: Final = AnalysisPlan(expected_units=500_000)


def experiment(units: int) -> Observed:
    """Its totals, drawn: the variants differ a little, covariates explain half of the means' variance."""
    rng = np.random.default_rng(SEED)
    cells = []
    for number, variant in enumerate(VARIANTS):
        for segment in SEGMENTS:
            n = units // len(VARIANTS) // len(SEGMENTS)
            totals = {metric.key: _drawn(metric, n, 1 + 0.01 * number, rng) for metric in METRICS}
            cells.append(Cell(1, variant, n, totals, segment))
    counts = tuple(sum(cell.units for cell in cells if cell.variant == variant) for variant in VARIANTS)
    shares = (0.25,) * len(VARIANTS)
    return Observed(
        variants=VARIANTS, control="control", cells=cells, assignments=[ArmCounts(counts, shares)], days=7.0
    )


def _drawn(metric: Metric, n: int, factor: float, rng: np.random.Generator) -> MetricTotals:
    match metric.measure:
        case Proportion():
            rate = 0.01 if metric.role == "guardrail" else 0.4
            return ProportionTotals(n, int(rng.binomial(n, rate * factor)))
        case QuantileOf():
            return QuantileSketch.from_observations(rng.lognormal(0.5, 0.7, n) * factor, accuracy=0.01)
        case Ratio():
            sessions = 1.0 + rng.poisson(2.0, n)
            clicks = rng.binomial(sessions.astype(int), min(0.3 * factor, 1))
            return JointTotals.from_observations(np.column_stack([clicks, sessions]))
        case _:
            before = rng.normal(0.5, 0.1, n)
            value = factor * before + rng.normal(0, 0.1, n)
            return JointTotals.from_observations(np.column_stack([value, before]))


def measured_ms(data: Observed) -> list[float]:
    """Of single readouts."""
    times = []
    for _ in range(REPEATS):
        data = msgspec.structs.replace(data)  # nothing remembered
        _bounded.cache_clear()
        gc.collect()
        begin = time.perf_counter()
        analyze(PLAN, METRICS, data)
        times.append(1e3 * (time.perf_counter() - begin))
    return times


def measure() -> dict[str, dict[str, float]]:
    """The figures of the baseline: for a fixed split, and where a bandit allocated."""
    size = f"{len(METRICS)} metrics, {len(VARIANTS)} variants, {len(SEGMENTS)} segments"
    print(f"readout of {LARGE:,} units, {size}, beside {SMALL:,} units")
    return {kind: _compared(adaptive=kind == "bandit") for kind in ("fixed", "bandit")}


def _compared(*, adaptive: bool) -> dict[str, float]:
    """Medians, the sizes in turn."""
    large, small = (msgspec.structs.replace(experiment(units), adaptive=adaptive) for units in (LARGE, SMALL))
    times: dict[str, list[float]] = {"large": [], "small": []}
    for _ in range(3):
        times["large"] += measured_ms(large)
        times["small"] += measured_ms(small)
    large_ms, small_ms = (statistics.median(times[size]) for size in ("large", "small"))
    kind = "bandit" if adaptive else "fixed split"
    print(f"{kind}: {large_ms:.0f} ms, {large_ms / small_ms:.2f} of {small_ms:.0f} ms")
    return {"large_ms": round(large_ms, 1), "large_of_small": round(large_ms / small_ms, 3)}


if __name__ == "__main__":
    for found in measure().values():
        assert found["large_ms"] <= LIMIT_MS, found
        assert found["large_of_small"] <= GROWTH_MAX, found
