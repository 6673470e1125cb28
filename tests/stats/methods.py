"""Two-sample methods of `stats`, asked the same way: what the contract tests are parametrized with."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from stats import (
    adaptive,
    concurrent,
    means,
    proportions,
    quantiles,
    ratios,
    relative,
    sequences,
    sequential_counts,
    stratification,
    variance_reduction,
)
from stats.estimate import Estimate
from stats.interval import Interval
from stats.sequential_counts import EventCounts
from stats.stratification import Stratum
from stats.totals import JointTotals, MeanTotals, ProportionTotals

ROWS = np.random.default_rng(20260101).gamma(4.0, 1.0, (2, 6_000))
"""Positive values of two arms that do not differ in distribution."""

SHIFT = 0.13


# --- Two-sample methods: from totals of (treatment, control) to an interval of the difference ---


class TwoSample(NamedTuple):
    """How values become totals, and totals an interval. What holds besides mirroring, merging and nesting."""

    total: Callable[[np.ndarray], Any]
    interval: Callable[[Any, Any, float], Interval]
    test: Callable[[Any, Any], float] | None = None
    scales: bool = True
    shifts: bool = True


def successes(values: np.ndarray) -> ProportionTotals:
    return ProportionTotals(len(values), int((values > 4).sum()))


def within_unit(values: np.ndarray) -> MeanTotals:
    return MeanTotals.from_observations(values / 100)


def with_covariate(values: np.ndarray) -> JointTotals:
    return JointTotals.from_observations(np.stack((values, np.sqrt(np.abs(values))), axis=1))


def sessions(values: np.ndarray) -> JointTotals:
    return JointTotals.from_observations(np.stack((values, 1 + np.round(10 * values) % 5), axis=1))


def sketch(values: np.ndarray) -> quantiles.QuantileSketch:
    return quantiles.QuantileSketch.from_observations(values, accuracy=0.01)


def contrast(treatment: MeanTotals, control: MeanTotals) -> sequences.Contrast:
    return sequences.Contrast.of((control, treatment))


def period(arm: MeanTotals, other: MeanTotals) -> list[adaptive.ArmPeriod]:
    return [adaptive.ArmPeriod.constant(arm.n + other.n, 0.5, arm)]


def drawn(values: np.ndarray) -> JointTotals:
    """Values, and the inverses of the probabilities with which they were drawn."""
    return JointTotals.from_observations(np.stack((values, np.full(len(values), 2.0)), axis=1))


def drawn_within_unit(values: np.ndarray) -> JointTotals:
    return drawn(values / 100)


def cuped(treatment: JointTotals, control: JointTotals) -> Estimate:
    adjustment = variance_reduction.CovariateAdjustment.fit([treatment, control])
    assert adjustment is not None
    return means.mean_difference(adjustment.apply(treatment), adjustment.apply(control))


def ratio_difference(treatment: JointTotals, control: JointTotals) -> Estimate:
    return means.mean_difference(ratios.ratio_parts(treatment), ratios.ratio_parts(control))


def strata(treatment: MeanTotals, control: MeanTotals) -> list[Stratum]:
    return [Stratum(treatment, control), Stratum(control, treatment)]


MOMENTS = MeanTotals.from_observations
TWO_SAMPLE = {
    "Welch": TwoSample(
        MOMENTS,
        lambda t, c, a: means.mean_difference(t, c).interval(alpha=a),
        lambda t, c: means.mean_difference(t, c).test().p_value,
    ),
    "stratified": TwoSample(
        MOMENTS,
        lambda t, c, a: stratification.stratified_difference(
            strata(t, c), weighting="mantel-haenszel"
        ).effect.interval(alpha=a),
    ),
    "CUPED": TwoSample(
        with_covariate,
        lambda t, c, a: cuped(t, c).interval(alpha=a),
        lambda t, c: cuped(t, c).test().p_value,
        scales=False,
        shifts=False,
    ),
    "regression adjustment": TwoSample(
        with_covariate,
        lambda t, c, a: variance_reduction.regression_adjustment(t, c).effect.interval(alpha=a),
        scales=False,
        shifts=False,
    ),
    "ratio, delta method": TwoSample(
        sessions,
        lambda t, c, a: ratio_difference(t, c).interval(alpha=a),
        lambda t, c: ratio_difference(t, c).test().p_value,
        scales=False,
        shifts=False,
    ),
    "score": TwoSample(
        successes,
        lambda t, c, a: proportions.score_interval(t, c, alpha=a),
        lambda t, c: proportions.score_test(t, c, variance="miettinen-nurminen").p_value,
        scales=False,
        shifts=False,
    ),
    "log risk ratio": TwoSample(
        successes,
        lambda t, c, a: logarithms(relative.risk_ratio_interval(t, c, alpha=a), 1.0),
        scales=False,
        shifts=False,
    ),
    "log ratio of rare events, sequence": TwoSample(
        successes,
        lambda t, c, a: logarithms(
            sequential_counts.ratio_sequence(
                [EventCounts(c.successes, t.successes, t.n / (t.n + c.n))],
                alpha=a,
                expected_ratio=1.5,
            ),
            0.0,
        ),
        lambda t, c: (
            sequential_counts.ratio_evalue(
                [EventCounts(c.successes, t.successes, t.n / (t.n + c.n))],
                expected_ratio=1.5,
                alternative="two-sided",
            ).p_value
        ),
        scales=False,
        shifts=False,
    ),
    "quantiles": TwoSample(
        sketch,
        lambda t, c, a: quantiles.quantile_difference_interval(t, c, 0.5, alpha=a),
        scales=False,
        shifts=False,
    ),
    "quantile sequence": TwoSample(
        sketch,
        lambda t, c, a: quantiles.quantile_difference_sequence(t, c, 0.5, alpha=a, tuned_to=1_000),
        scales=False,
        shifts=False,
    ),
    "sequence": TwoSample(
        MOMENTS,
        lambda t, c, a: sequences.difference_sequence(contrast(t, c), alpha=a, tuned_to=500),
    ),
    "AIPW": TwoSample(
        MOMENTS,
        lambda t, c, a: adaptive.adaptive_difference(period(c, t), period(t, c)).interval(alpha=a),
        scales=False,
        shifts=False,
    ),
    "concurrent sequence": TwoSample(
        drawn,
        lambda t, c, a: sequences.difference_sequence(
            concurrent.contrast([concurrent.ConcurrentArms(c, t)]), alpha=a, tuned_to=500
        ),
    ),
    "concurrent, one look": TwoSample(
        drawn,
        lambda t, c, a: concurrent.one_look([concurrent.ConcurrentArms(c, t)]).interval(alpha=a),
    ),
    "concurrent events": TwoSample(
        drawn_within_unit,
        lambda t, c, a: concurrent.event_sequence([concurrent.ConcurrentArms(c, t)], alpha=a, tuned_to=500),
        scales=False,
        shifts=False,
    ),
}


def logarithms(interval: Interval, origin: float) -> Interval:
    """Of a relative difference (origin 1) or a ratio (origin 0), on the scale on which swapping mirrors."""
    return Interval(math.log(interval.lower + origin), math.log(interval.upper + origin))


@functools.cache
def arms(method: TwoSample, n: int, m: int, shift: float = SHIFT) -> tuple[Any, Any]:
    return method.total(ROWS[0, :n] + shift), method.total(ROWS[1, :m])


ONE = MOMENTS(ROWS[0])
OTHER = MOMENTS(ROWS[1])
SOME = ProportionTotals(1_000, 120)
SKETCH = sketch(ROWS[0])
EFFECTS = [Estimate(0.5, 0.1), Estimate(0.0, 0.2)]
