"""The seasonal baseline of a series."""

import numpy as np
import pytest

from stats.errors import InsufficientData, InvalidInput
from stats.seasonality import fit_baseline


def test_a_baseline_finds_the_shape_of_day_and_week():
    time = np.arange(24 * 28)
    hours, weekdays = time % 24, (time // 24) % 7
    rng = np.random.default_rng(20260101 + 20)
    shape = 10 + np.sin(2 * np.pi * hours / 24) - 2.0 * (weekdays == 6)
    baseline = fit_baseline(shape + 0.1 * rng.normal(size=len(time)), hours, weekdays)
    assert baseline.expected(6, 0) == pytest.approx(11, abs=0.08)
    assert baseline.expected(6, 6) == pytest.approx(9, abs=0.08)
    assert baseline.sd == pytest.approx(0.1, rel=0.1)
    assert sum(baseline.hours) == pytest.approx(0, abs=1e-9)
    limits = baseline.limits(6, 0, false_alarm=0.00135)
    assert limits.lower == pytest.approx(11 - 0.3, abs=0.12)


def test_times_never_observed_have_no_normal_level():
    time = np.arange(48)
    values = np.random.default_rng(20260101 + 21).normal(size=48)
    baseline = fit_baseline(values, time % 12, (time // 24) % 7)
    assert baseline.hours[13] is None
    with pytest.raises(InsufficientData, match="never observed"):
        baseline.limits(13, 0, false_alarm=0.01)
    with pytest.raises(InvalidInput):
        baseline.expected(24, 0)
    with pytest.raises(InvalidInput):
        fit_baseline(values, time, time % 7)
    with pytest.raises(InsufficientData):
        fit_baseline(np.ones(48), time % 12, time % 7)
