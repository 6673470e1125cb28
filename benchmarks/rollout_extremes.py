"""Rollouts at the extremes: total failure, baselines of 0, no spread; through verdicts and decider.

Each row is one guardrail. A canary that fails totally must not be rolled back later than one that is half as
bad on the same stream, and a canary like its control must not be rolled back by the tests that stand in.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Final

import numpy as np

from app.analysis.harm.question import Baseline
from app.analysis.observed import Cell, Observed
from app.experiments.metrics import Margin, Mean, Measure, Metric, Proportion, QuantileOf, Ratio
from app.ledger.units.metric_totals import MetricTotals
from app.rollouts.decide import decide
from app.rollouts.model import (
    PRESETS,
    Decision,
    Guardrail,
    GuardrailReading,
    RollBack,
    RolloutPlan,
    Running,
)
from app.rollouts.verdicts import read
from benchmarks.rollout_simulation import START
from benchmarks.validity import Row, at_most, generator
from stats.quantiles import QuantileSketch
from stats.totals import JointTotals, MeanTotals, ProportionTotals

Values = np.ndarray
Draw = Callable[[np.random.Generator, int], Values]

LOOKS: Final = (*range(5, 100, 5), *range(100, 401, 20))
HEALTHY_LOOKS: Final = (20, 50, 100, 150, 200, 300, 400, 600, 800)
_TINY: Final = 1e-6
"""A margin that nothing can be shown to keep, so that harm is never outvoted."""


def guardrail_of(
    measure: Measure,
    worse: str,
    margin: Margin,
    baseline: Baseline | None = None,
    test: str = "sequence",
) -> Guardrail:
    """A guardrail on the metric `x`, of which `worse` values are "higher" or "lower"."""
    better = "lower" if worse == "higher" else "higher"
    metric = Metric(key="x", measure=measure, role="guardrail", direction=better, margin=margin)
    return Guardrail(metric=metric, baseline=baseline, test=test)


def totals_of(metric: Metric, values: Values) -> MetricTotals:
    """Totals of units: values have the shape (n,), of a ratio (n, 2)."""
    match metric.measure:
        case Proportion():
            return ProportionTotals(len(values), int(np.sum(values > 0)))
        case QuantileOf():
            return QuantileSketch.from_observations(values, accuracy=0.01)
        case Ratio():
            return JointTotals.from_observations(values)
        case _:
            return MeanTotals.from_observations(values)


def reading(
    guardrail: Guardrail, *epochs: tuple[Values, Values], alpha: float = 0.01
) -> tuple[GuardrailReading, Decision]:
    """What is read and decided of (control, canary) values in each epoch."""
    key = guardrail.metric.key
    cells = [
        Cell(number, name, len(values), {key: totals_of(guardrail.metric, values)} if len(values) else {})
        for number, pair in enumerate(epochs, start=1)
        for name, values in zip(("old", "new"), pair, strict=True)
    ]
    plan = RolloutPlan(canaries=("new",), guardrails=(guardrail,), alpha=alpha)
    state = Running(stage=0, entered_at=START, epoch=1, canaries=("new",))
    observed = Observed(variants=("old", "new"), control="old", cells=cells)
    at = START + timedelta(hours=1)
    found = read(plan, state, observed, findings=(), now=at, as_of=at)
    return found.guardrails[0], decide(plan, state, found, at)


def first_rollback(
    guardrail: Guardrail, control: Values, canary: Values, looks: Sequence[int] = LOOKS, alpha: float = 0.01
) -> float:
    """The first look, in units of the canary, at which it is rolled back; infinite if at none.

    The control has the same part of its units at each look.
    """
    for n in looks:
        theirs = control[: round(n * len(control) / len(canary))]
        _, decision = reading(guardrail, (theirs, canary[:n]), alpha=alpha)
        if isinstance(decision, RollBack):
            return n
    return math.inf


def extreme_rows(*, full: bool, tick: Callable[[int], None]) -> Iterator[Row]:
    """Total failure beside half of it, and canaries like controls that are extreme."""
    yield from _total_failure(runs=20 if full else 3, tick=tick)
    yield from _healthy(runs=1_000 if full else 100, tick=tick, wrong=0.01 if full else 0.04)


Failure = tuple[Guardrail, Draw, Callable[[Values, Values], Values], Callable[[Values], Values]]


def failures() -> dict[str, Failure]:
    """(guardrail, healthy values, half of the harm of values and chance, total failure)."""

    def scores(rng: np.random.Generator, n: int) -> Values:
        return 0.8 + 0.1 * rng.standard_normal(n)

    found: dict[str, Failure] = {}
    for key, metric in PRESETS.items():
        one, rises = Guardrail(metric=metric), metric.direction == "lower"
        if isinstance(metric.measure, Proportion):
            rate, bad = (0.05, 1.0) if rises else (0.95, 0.0)
            found[key] = (
                one,
                lambda rng, n, rate=rate: (rng.random(n) < rate).astype(float),
                lambda values, chance, bad=bad: np.where(chance < 0.5, bad, values),
                lambda values, bad=bad: np.full_like(values, bad),
            )
        else:
            found[key] = (
                one,
                scores,
                (lambda values, _: 10 * values) if rises else (lambda values, _: values / 2),
                (lambda values: np.full_like(values, 1e6)) if rises else np.zeros_like,
            )
    relative, absolute = Margin(0.1, relative=True), Margin(0.05)

    def one_each(rate: float) -> Draw:
        return lambda rng, n: np.column_stack([rng.random(n) < rate, np.ones(n)]).astype(float)

    def numerators(values: Values, part: float) -> Values:
        return np.column_stack([values[:, 0] * part, values[:, 1]])

    found["ratio, from 0.5 to 0"] = (
        guardrail_of(Ratio("x", "y"), "lower", absolute),
        one_each(0.5),
        lambda values, _: numerators(values, 0.5),
        lambda values: numerators(values, 0.0),
    )
    found["mean, control always 0"] = (
        guardrail_of(Mean("x"), "higher", relative),
        lambda _, n: np.zeros(n),
        lambda _, chance: chance,
        lambda values: np.full_like(values, 100.0),
    )
    found["p95, control always 0"] = (
        guardrail_of(QuantileOf("x", 0.95), "higher", relative),
        lambda _, n: np.zeros(n),
        lambda _, chance: chance,
        lambda values: np.full_like(values, 200.0),
    )
    found["mean below 0"] = (
        guardrail_of(Mean("x"), "lower", relative),
        lambda rng, n: -10 + rng.standard_normal(n),
        lambda values, _: values - 5,
        lambda values: values - 1e4,
    )
    found["mean, no spread"] = (
        guardrail_of(Mean("x"), "lower", relative),
        lambda _, n: np.full(n, 5.0),
        lambda values, _: values - 2,
        lambda values: 0 * values,
    )
    return found


def _total_failure(*, runs: int, tick: Callable[[int], None]) -> Iterator[Row]:
    """The last unit count of total failure over all runs, at most that of half the harm in the same run."""
    for seed, (name, (one, draw, half, total)) in enumerate(failures().items(), start=580):
        rng = generator(seed)
        later, units = 0, []
        for _ in range(runs):
            control, healthy = draw(rng, 7_600), draw(rng, 400)
            chance = rng.random(400)
            mild, worst = (
                first_rollback(one, control, canary) for canary in (half(healthy, chance), total(healthy))
            )
            later += worst > mild
            units.append(worst)
            tick(1)
        yield at_most(f"{name}: total failure rolled back later than half of it", later / runs, 0.0)
        yield at_most(f"{name}: total failure, most units until the rollback", max(units), 100)


def healthy_streams() -> dict[str, tuple[Guardrail, Draw]]:
    """Canaries like their controls, in metrics for which a test stands in."""
    tiny, share = Margin(_TINY), Margin(_TINY, relative=True)
    return {
        "rates of a half": (
            guardrail_of(Proportion("x"), "lower", tiny),
            lambda rng, n: (rng.random(n) < 0.5).astype(float),
        ),
        "rates near 1": (
            guardrail_of(Proportion("x"), "lower", share),
            lambda rng, n: (rng.random(n) < 0.97).astype(float),
        ),
        "means around 0": (
            guardrail_of(Mean("x"), "higher", share),
            lambda rng, n: rng.standard_normal(n),
        ),
        "means that could fall": (
            guardrail_of(Mean("x"), "lower", share),
            lambda rng, n: np.exp(0.5 * rng.standard_normal(n)),
        ),
        "values that are mostly 0": (
            guardrail_of(Mean("x"), "higher", share),
            lambda rng, n: (rng.random(n) < 0.02) * rng.exponential(1.0, n),
        ),
        "values that never differ": (
            guardrail_of(Mean("x"), "higher", share),
            lambda _, n: np.full(n, 5.0),
        ),
        "ratios whose denominator is often 0": (
            guardrail_of(Ratio("x", "y"), "higher", tiny),
            lambda rng, n: np.column_stack([rng.exponential(1.0, n), rng.random(n) < 0.01]).astype(float),
        ),
        "tails with a base of 0": (
            guardrail_of(QuantileOf("x", 0.9), "higher", share),
            lambda rng, n: np.maximum(rng.standard_normal(n) - 1.0, 0.0),
        ),
    }


def false_rollbacks(
    one: Guardrail, draw: Draw, *, runs: int, looks: Sequence[int], rng: np.random.Generator, alpha: float
) -> float:
    """The share of runs in which a canary like its control, a fourth of its size, is ever rolled back."""
    hits = 0
    for _ in range(runs):
        control, canary = draw(rng, 4 * looks[-1]), draw(rng, looks[-1])
        hits += math.isfinite(first_rollback(one, control, canary, looks, alpha))
    return hits / runs


def _healthy(*, runs: int, tick: Callable[[int], None], wrong: float) -> Iterator[Row]:
    for seed, (name, (one, draw)) in enumerate(healthy_streams().items(), start=620):
        found = false_rollbacks(one, draw, runs=runs, looks=HEALTHY_LOOKS, rng=generator(seed), alpha=0.01)
        tick(runs)
        yield at_most(f"healthy, {name}: rolled back", found, wrong)
