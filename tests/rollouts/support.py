"""Plans, totals and moments that the tests of rollouts share."""

from datetime import UTC, datetime, timedelta

import numpy as np

from app.analysis.harm.question import Baseline
from app.analysis.observed import Cell, Observed
from app.rollouts.model import PRESETS, Guardrail, Limit, RolloutPlan, Running
from app.rollouts.steps import Approved, PausedByPerson, Resumed, after
from stats.quantiles import QuantileSketch
from stats.totals import MeanTotals, ProportionTotals

START = datetime(2026, 1, 5, 12, tzinfo=UTC)  # a Monday
DAY = timedelta(days=1)
LATENCY_SIGMA = 0.5
LATENCY_MEAN = float(np.exp(LATENCY_SIGMA**2 / 2))
LATENCY_SD = LATENCY_MEAN * float(np.sqrt(np.expm1(LATENCY_SIGMA**2)))

ERRORS = Guardrail(metric=PRESETS["error_rate"], baseline=Baseline(0.01, 0.0995))
LATENCY = Guardrail(metric=PRESETS["latency"], baseline=Baseline(LATENCY_MEAN, LATENCY_SD))
TAIL = Guardrail(metric=PRESETS["latency_p95"], baseline=Baseline(LATENCY_MEAN, LATENCY_SD))


def plan_of(*guardrails, **changes) -> RolloutPlan:
    return RolloutPlan(
        **{"canaries": ("new",), "guardrails": guardrails or (ERRORS, LATENCY, TAIL), **changes}
    )


def running(stage=0, *, epoch=1, entered_at=START, canaries=("new",), approved=False) -> Running:
    return Running(stage=stage, entered_at=entered_at, epoch=epoch, canaries=canaries, approved=approved)


def cell(rng, variant, units, *, epoch=1, error=0.01, slower=1.0, sigma=LATENCY_SIGMA) -> Cell:
    """One variant in one epoch. `sigma` spreads latencies, their mean stays."""
    latency = slower * LATENCY_MEAN * np.exp(sigma * rng.standard_normal(units) - sigma**2 / 2)
    return Cell(
        epoch,
        variant,
        units,
        {
            "error_rate": ProportionTotals(units, int(rng.binomial(units, error))),
            "latency": MeanTotals.from_observations(latency),
            "latency_p95": QuantileSketch.from_observations(latency, accuracy=0.01),
        },
    )


def observed_of(*cells, variants=("old", "new"), **changes) -> Observed:
    return Observed(variants=variants, control="old", cells=list(cells), **changes)


LIMIT = Limit("error_rate", 0.3, 50)


def paused(state, *, at):
    return after(state, PausedByPerson(), at=at, epoch=0)


def resumed(state, *, at):
    return after(state, Resumed(), at=at, epoch=0)


def approved(state):
    return after(state, Approved(), at=START, epoch=0)
