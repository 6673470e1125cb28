"""Prediction-powered means against ppi-python, truescore and cases worked by hand."""

import math

import numpy as np
import pytest
import truescore
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from stats.errors import InsufficientData, InvalidInput
from stats.prediction_powered import (
    JudgedTotals,
    prediction_powered_mean,
    quality_difference_sequence,
    quality_sequence,
)

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
    result = prediction_powered_mean(JudgedTotals.from_observations(judge, noisy, np.full(100, 0.2)))
    assert result.label_gain == pytest.approx(result.labels_alone.variance / result.mean.variance)
    assert result.label_gain > 1.5


def clustered_items(*, units: int = 600, per_unit: int = 5, labelled: int = 60):
    """Scores, graded labels and units; the first units have all their responses labelled."""
    rng = np.random.default_rng(20260101 + 31)
    unit = np.repeat(np.arange(units), per_unit)
    y = np.clip(0.6 + 0.2 * rng.normal(size=units)[unit] + 0.1 * rng.normal(size=len(unit)), 0, 1)
    f = np.clip(0.1 + 0.8 * y + 0.1 * rng.normal(size=len(unit)), 0, 1)
    return f, np.where(unit < labelled, y, NAN), np.full(len(unit), labelled / units), unit


def test_estimates_equal_those_of_truescore_where_both_define_the_same():
    judge, human, inclusion, units = clustered_items()
    labelled = np.flatnonzero(~np.isnan(human))
    ours = prediction_powered_mean(JudgedTotals.from_observations(judge, human, inclusion))
    assert ours.judge_mean == pytest.approx(truescore.judge_only_estimate(judge).point, abs=1e-6)
    alone = truescore.gold_only_estimate(human[labelled])
    bounds = ours.labels_alone.interval(alpha=0.05)
    assert (bounds.lower, bounds.upper) == pytest.approx((alone.low, alone.high), abs=1e-6)
    for trust in (0.0, 0.3, 0.9):  # its lambda is trust times the share without a label
        theirs = truescore.ppi_estimate(judge, human[labelled], labelled, lambda_=0.9 * trust)
        total = JudgedTotals.from_observations(judge, human, inclusion)
        fixed = prediction_powered_mean(total, trust=trust).mean
        assert fixed.value == pytest.approx(theirs.point, abs=1e-6)
        assert fixed.standard_error == pytest.approx(theirs.standard_error, rel=2e-3)
    together = JudgedTotals.from_observations(judge, human, inclusion, units=units)
    bounds = prediction_powered_mean(together).labels_alone.interval(alpha=0.05)
    alone = truescore.gold_only_estimate(human[labelled], clusters=units[labelled])
    assert (bounds.lower, bounds.upper) == pytest.approx((alone.low, alone.high), abs=1e-6)


def test_an_anticorrelated_judge_is_ignored_as_truescore_ignores_it():
    judge, human, inclusion = judged_items()
    total = JudgedTotals.from_observations(1 - judge, human, inclusion)
    ours = prediction_powered_mean(total)
    theirs = truescore.ppi_estimate(1 - judge, human[:40], np.arange(40))
    assert ours.trust == theirs.lambda_ == 0
    assert ours.mean == ours.labels_alone
    assert ours.mean.value == pytest.approx(theirs.point, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 199))
def test_totals_of_units_merge_in_any_order_and_any_cut(seed, cut):
    rng = np.random.default_rng(seed)
    units = np.repeat(np.arange(200), 3)
    y = rng.random(600).round(1)
    judge = np.where(rng.random(600) < 0.8, y**2, NAN)
    human = np.where(rng.random(600) < 0.3, y, NAN)
    inclusion, judging = np.full(600, 0.3), np.full(600, 0.8)

    def total(mask):
        return JudgedTotals.from_observations(
            judge[mask], human[mask], inclusion[mask], judging=judging[mask], units=units[mask]
        )

    first, second = units < cut, units >= cut
    whole, merged = total(first | second), total(second) + total(first)
    assert (merged.n_labelled, merged.n_judged) == (whole.n_labelled, whole.n_judged)
    result, expected = prediction_powered_mean(merged), prediction_powered_mean(whole)
    assert result.mean.value == pytest.approx(expected.mean.value, rel=1e-9)
    assert result.mean.standard_error == pytest.approx(expected.mean.standard_error, rel=1e-6)


def test_a_judge_that_fails_on_bad_responses_does_not_bias_the_estimate():
    """Scores are missing where the truth is low. The judge's mean misses; the estimate covers."""
    rng = np.random.default_rng(20260101 + 32)
    runs, covered, judge_off = 300, 0, 0
    for _ in range(runs):
        y = (rng.random(4_000) < 0.6) * 1.0
        judge = np.where(rng.random(4_000) < 0.9, y, 1 - y)
        judge = np.where((y == 0) & (rng.random(4_000) < 0.5), NAN, judge)
        human = np.where(rng.random(4_000) < 0.05, y, NAN)
        total = JudgedTotals.from_observations(judge, human, np.full(4_000, 0.05))
        result = prediction_powered_mean(total)
        interval = result.mean.interval(alpha=0.05)
        covered += interval.lower <= 0.6 <= interval.upper
        judge_off += abs(result.judge_mean - 0.6) > 0.05
    assert covered >= binom.ppf(1e-6, runs, 0.95)
    assert judge_off == runs


def test_responses_that_are_judged_with_unequal_probabilities_are_weighed():
    """Flagged responses are always judged, others one in ten: weights remove the bias."""
    rng = np.random.default_rng(20260101 + 33)
    y = (rng.random(40_000) < 0.7) * 1.0
    flagged = (y == 0) & (rng.random(40_000) < 0.5)
    judging = np.where(flagged, 1.0, 0.1)
    judge = np.where(rng.random(40_000) < judging, y, NAN)
    human = np.where(rng.random(40_000) < 0.01, y, NAN)
    inclusion = np.full(40_000, 0.01)
    weighed = JudgedTotals.from_observations(judge, human, inclusion, judging=judging)
    flat = JudgedTotals.from_observations(judge, human, inclusion)
    assert abs(weighed.judge_mean - y.mean()) < 4 * 0.46 / math.sqrt(4_000)
    assert abs(flat.judge_mean - y.mean()) > 0.2  # planted bug
    interval = prediction_powered_mean(weighed).mean.interval(alpha=1e-4)
    assert interval.lower <= y.mean() <= interval.upper


REFUSED = {
    "no labels": (np.full(9, NAN), np.ones(9), None, "no response has a human label"),
    "one label": (np.r_[1.0, np.full(8, NAN)], np.ones(9), None, "at least 3 labels, has 1"),
    "all labels equal": (np.ones(9), np.ones(9), None, "all 9 labels are 1"),
    "one cluster": (np.r_[np.ones(8), 0.0], np.ones(9), np.zeros(9, int), "at least 3 units"),
    "a tiny probability": (np.r_[np.ones(8), 0.0], np.r_[1e-6, np.ones(8)], None, "very small"),
}


@pytest.mark.parametrize(("human", "inclusion", "units", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_estimated_is_refused_in_words(human, inclusion, units, message):
    total = JudgedTotals.from_observations(np.linspace(0, 1, 9), human, inclusion, units=units)
    with pytest.raises(InsufficientData, match=message):
        prediction_powered_mean(total)


@pytest.mark.parametrize("judge", [np.full(400, NAN), np.full(400, 0.7)], ids=["no scores", "constant"])
def test_without_a_useful_judge_the_estimate_is_that_of_the_labels(judge):
    _, human, inclusion = judged_items()
    result = prediction_powered_mean(JudgedTotals.from_observations(judge, human, inclusion))
    assert result.trust == 0
    assert result.mean == result.labels_alone


@pytest.mark.parametrize("position", [0, 1], ids=["judge", "human"])
def test_scores_and_labels_must_be_finite(position):
    values = [np.ones(3), np.ones(3)]
    values[position] = np.array([math.inf, 1.0, 0.0])
    with pytest.raises(InvalidInput, match="finite"):
        JudgedTotals.from_observations(*values, np.ones(3))


def test_labels_of_everything_leave_the_judge_nothing_to_add():
    judge, _, _ = judged_items()
    human = (judge > 0.5) * 1.0
    result = prediction_powered_mean(JudgedTotals.from_observations(judge, human, np.ones(400)))
    assert (result.trust, result.mean.value) == (0, pytest.approx(human.mean()))


def test_a_sequence_needs_ten_labels_and_is_wider_than_one_look():
    judge, human, inclusion = judged_items()
    result = prediction_powered_mean(JudgedTotals.from_observations(judge, human, inclusion))
    fixed, always = result.mean.interval(alpha=0.05), quality_sequence(result, alpha=0.05)
    assert always.lower < fixed.lower < fixed.upper < always.upper
    difference = quality_difference_sequence(result, result, alpha=0.05)
    assert difference.upper == pytest.approx(-difference.lower)
    few = np.where(np.arange(400) < 9, human, NAN)
    result = prediction_powered_mean(JudgedTotals.from_observations(judge, few, inclusion))
    with pytest.raises(InsufficientData, match="at least 10 equally weighted labels"):
        quality_sequence(result, alpha=0.05)


def test_a_billion_judgements_take_no_longer_than_their_totals():
    judge, human, inclusion = judged_items()
    total = JudgedTotals.from_observations(judge, human, inclusion)
    for _ in range(22):  # 400 * 2^22 responses
        total = total + total
    result = prediction_powered_mean(total)
    assert total.n_judged > 10**9
    assert 0 < result.mean.standard_error < 1e-4
