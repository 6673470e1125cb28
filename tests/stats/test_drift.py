"""Drift of a judge: false alarms by exact binomial limits, power, and a planted bug."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from stats.drift import agreement_drift
from stats.errors import InsufficientData
from stats.proportions import exact_interval
from stats.totals import MeanTotals, ProportionTotals


def agreements(n: int, rate: float) -> MeanTotals:
    return MeanTotals(n, rate, n * rate * (1 - rate))


def daily(agreed: np.ndarray, per_day: int) -> list[MeanTotals]:
    return [MeanTotals.from_observations(day) for day in agreed.reshape(-1, per_day)]


def first_alarm(days: list[MeanTotals], calibrated: MeanTotals) -> int | None:
    looks = range(1, len(days) + 1)
    return next((n for n in looks if agreement_drift(calibrated, days[:n], alpha=0.05).drifted), None)


def test_a_judge_that_did_not_change_rarely_raises_an_alarm():
    """Agreement is .9 before and after, for 20 days of 10 labels; a plain daily test fails."""
    rng = np.random.default_rng(20260101 + 51)
    runs, false_alarms, plain_alarms = 120, 0, 0
    for _ in range(runs):
        calibrated = MeanTotals.from_observations((rng.random(100) < 0.9) * 1.0)
        days = daily((rng.random(200) < 0.9) * 1.0, 10)
        false_alarms += first_alarm(days, calibrated) is not None
        counts = np.cumsum([round(day.n * day.mean) for day in days]).tolist()
        plain_alarms += any(
            exact_interval(ProportionTotals(10 * n, x), alpha=0.1).upper < calibrated.mean
            for n, x in enumerate(counts, 1)
        )
    limit = binom.ppf(1 - 1e-6, runs, 0.05)
    assert false_alarms <= limit
    assert plain_alarms > limit  # planted bug


def test_a_judge_that_broke_after_a_long_good_time_is_caught_soon():
    rng = np.random.default_rng(20260101 + 52)
    delays = []
    for _ in range(20):
        agreed = np.r_[rng.random(500) < 0.95, rng.random(200) < 0.5] * 1.0
        alarm = first_alarm(daily(agreed, 10), agreements(100, 0.95))
        assert alarm is not None
        delays.append(alarm - 50)
    assert 0 < np.median(delays) <= 6  # 60 labels
    assert min(delays) > 0


def test_it_says_when_the_change_began():
    days = [agreements(20, 0.95)] * 10 + [agreements(20, 0.4)] * 3
    result = agreement_drift(agreements(200, 0.95), days, alpha=0.05)
    assert (result.drifted, result.since) == (True, 10)


def test_without_later_labels_nothing_has_drifted():
    result = agreement_drift(agreements(100, 0.95), [], alpha=0.05)
    assert (result.drifted, result.since, result.evidence.value) == (False, None, 1.0)
    assert result.reference == pytest.approx(0.857, abs=5e-4)
    empty = agreement_drift(agreements(100, 0.95), [MeanTotals()] * 5, alpha=0.05)
    assert not empty.drifted


def test_total_failure_is_an_alarm_and_perfection_is_none():
    calibrated = agreements(100, 0.95)
    assert agreement_drift(calibrated, [agreements(30, 0.0)], alpha=0.05).drifted
    good = agreement_drift(calibrated, [agreements(10**6, 1.0)], alpha=0.05)
    assert not good.drifted
    assert math.isfinite(good.evidence.log_value)


def test_nothing_can_drift_that_was_never_calibrated():
    with pytest.raises(InsufficientData, match="calibration"):
        agreement_drift(MeanTotals(), [agreements(10, 0.5)], alpha=0.05)
