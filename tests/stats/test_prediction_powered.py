"""Prediction-powered means against ppi-python and cases worked by hand."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from stats.errors import InsufficientData, InvalidInput
from stats.prediction_powered import JudgedTotals, prediction_powered_mean

NAN = math.nan


# 40 labels of 400 items: means and intervals at alpha 0.05 by ppi-python 0.2.3, ppi_mean_pointestimate and
# ppi_mean_ci, with lam = 0, 0.5, 1; its lam is trust (1 - n / N) here, which counts labelled items as judged.
def judged_items():
    rng = np.random.default_rng(5)
    y = (rng.random(400) < 0.7) * 1.0
    f = np.round(np.clip(0.3 + 0.5 * y + 0.2 * rng.normal(size=400), 0, 1), 2)
    return f, np.where(np.arange(400) < 40, y, NAN), np.full(400, 0.1)


@pytest.mark.parametrize(
    ("lam", "mean", "lower", "upper"),
    [
        (0.0, 0.7, 0.55798712, 0.84201288),
        (0.5, 0.68884722, 0.56912218, 0.80857227),
        (1.0, 0.67769444, 0.57055467, 0.78483422),
    ],
)
def test_prediction_powered_means_agree_with_ppi_python(lam, mean, lower, upper):
    total = JudgedTotals.from_observations(*judged_items())
    ours = prediction_powered_mean(total, trust=lam / 0.9).mean
    assert ours.value == pytest.approx(mean, abs=1e-7)
    # Its variance divides by n, ours by n - 1.
    assert ours.standard_error == pytest.approx((upper - lower) / 2 / 1.959964 * math.sqrt(40 / 39), rel=3e-3)


def test_the_estimated_trust_is_a_regression_slope_and_totals_merge():
    judge, human, inclusion = judged_items()
    total = JudgedTotals.from_observations(judge, human, inclusion)
    parts = [
        JudgedTotals.from_observations(judge[s], human[s], inclusion[s]) for s in (slice(25), slice(25, 400))
    ]
    merged = parts[0] + parts[1]
    ours = prediction_powered_mean(total)
    slope = np.polyfit(judge[:40], human[:40], 1)[0]
    assert ours.trust == pytest.approx(slope, rel=0.1)
    theirs = prediction_powered_mean(total, trust=0.855 / 0.9)  # ppi-python's choice
    assert ours.mean.standard_error <= theirs.mean.standard_error * 39 / 38
    assert prediction_powered_mean(merged).mean.value == pytest.approx(ours.mean.value, rel=1e-12)


def test_unequal_inclusion_probabilities_are_weighed():
    """Items the judge rejects are labelled five times as often: weights cover, a plain mean does not."""
    rng = np.random.default_rng(20260101 + 23)
    runs, covered, plain_covered = 300, 0, 0
    for _ in range(runs):
        y = (rng.random(3_000) < 0.7) * 1.0
        judge = np.where(rng.random(3_000) < 0.85, y, 1 - y)
        inclusion = np.where(judge > 0, 0.05, 0.25)
        human = np.where(rng.random(3_000) < inclusion, y, NAN)
        interval = prediction_powered_mean(
            JudgedTotals.from_observations(judge, human, inclusion)
        ).mean.interval(alpha=0.05)
        covered += interval.lower <= 0.7 <= interval.upper
        flat = JudgedTotals.from_observations(judge, human, np.full(3_000, 0.1))
        interval = prediction_powered_mean(flat, trust=0.0).mean.interval(alpha=0.05)
        plain_covered += interval.lower <= 0.7 <= interval.upper
    least = binom.ppf(1e-6, runs, 0.95)
    assert covered >= least
    assert plain_covered < least  # planted bug


def test_too_few_labels_are_refused():
    judge, human, inclusion = judged_items()
    few = np.where(np.arange(400) < 2, human, NAN)
    with pytest.raises(InsufficientData, match="3 labels"):
        prediction_powered_mean(JudgedTotals.from_observations(judge, few, inclusion))
    with pytest.raises(InvalidInput):
        JudgedTotals.from_observations(judge, human, inclusion * 0)


def test_a_perfect_judge_gains_labels_and_its_mean_is_that_of_the_scores():
    judge = np.tile([1.0, 0.0], 50)
    human = np.where(np.arange(100) < 20, judge, np.nan)
    noisy = np.where(np.arange(100) == 3, 1.0, human)
    found = prediction_powered_mean(JudgedTotals.from_observations(judge, noisy, np.full(100, 0.2)))
    assert found.label_gain == pytest.approx(found.labels_alone.variance / found.mean.variance)
    assert found.label_gain > 1.5
