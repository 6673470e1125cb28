"""Effects per segment: a published meta-analysis, and coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.stats import binom

from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.heterogeneity import interaction_test, partial_pooling
from stats.sequential_counts import rare
from stats.totals import MeanTotals, ProportionTotals

# The 13 trials of BCG vaccine, Colditz et al. (1994), as log risk ratios.
BCG = (
    (4, 123, 11, 139), (6, 306, 29, 303), (3, 231, 11, 220), (62, 13598, 248, 12867), (33, 5069, 47, 5808),
    (180, 1541, 372, 1451), (8, 2545, 10, 629), (505, 88391, 499, 88391), (29, 7499, 45, 7277),
    (17, 1716, 65, 1665), (186, 50634, 141, 27338), (5, 2498, 3, 2341), (27, 16913, 29, 17854),
)  # fmt: skip


TRIALS = [Estimate(math.log(a / n * m / b), math.sqrt(1 / a - 1 / n + 1 / b - 1 / m)) for a, n, b, m in BCG]


def test_pooling_reproduces_the_published_analysis_of_bcg_trials():
    """R metafor 4: rma(method="REML") gives tau^2 0.3132, -0.7145 (0.1798), Q 152.23, I^2 of Q 92.12 %."""
    result = partial_pooling(TRIALS)
    assert result.between_variance == pytest.approx(0.3132, abs=5e-5)
    assert result.common.value == pytest.approx(-0.7145, abs=5e-5)
    assert result.common.standard_error == pytest.approx(0.1798, abs=5e-5)
    assert result.interaction.statistic == pytest.approx(152.2330, abs=5e-4)
    assert result.inconsistency == pytest.approx(1 - 12 / 152.233, rel=1e-5)
    for trial, segment in zip(TRIALS, result.segments, strict=True):
        assert min(trial.value, -0.7146) <= segment.value <= max(trial.value, -0.7144)


def test_the_worked_segments_hold():
    effects = [Estimate(0, 1), Estimate(4, 1)]
    result = partial_pooling(effects)
    assert [segment.value for segment in result.segments] == pytest.approx([0.25, 3.75])
    assert interaction_test([Estimate(0, 1), Estimate(2, 1)]).p_value == pytest.approx(0.1573, abs=1e-4)
    same = partial_pooling([Estimate(1, 1), Estimate(1, 2)])
    assert same.between_variance == 0
    assert same.segments[0] == pytest.approx(same.segments[1]) or same.segments[0].value == 1
    with pytest.raises(InsufficientData):
        partial_pooling(effects[:1])


def test_partially_pooled_intervals_cover_on_average_and_the_largest_raw_effect_does_not():
    """20 segments with true effects of sd 1 and error 1: of all the segments at most alpha are missed.

    The segment that looks best is missed by its own interval far more often: the reason to pool.
    """
    rng = np.random.default_rng(20260101 + 10)
    runs, missed, best_missed = 300, 0, 0
    for _ in range(runs):
        truth = rng.normal(size=20)
        effects = [Estimate(float(value), 1.0) for value in truth + rng.normal(size=20)]
        best = max(range(20), key=lambda at: effects[at].value)
        segment = partial_pooling(effects).segments[best].interval(alpha=0.05)
        missed += not segment.lower <= truth[best] <= segment.upper
        own = effects[best].interval(alpha=0.05)
        best_missed += not own.lower <= truth[best] <= own.upper
    # Empirical Bayes ignores the error of the variance between: .07 is allowed for.
    limit = binom.ppf(1 - 1e-6, runs, 0.07)
    assert missed <= limit
    assert best_missed > limit  # planted bug


def cells(rng, sizes, draw):
    """Yield the arms of ten segments whose sizes are drawn from `sizes`."""
    for _ in range(10):
        yield [draw(rng, int(rng.choice(sizes))) for _ in range(2)]


def pooled_effect(treatment, control):
    """The difference with the variance that it has if the arms do not differ, and its degrees of freedom."""
    freedom = treatment.n + control.n - 2
    variance = (treatment.m2 + control.m2) / freedom * (1 / treatment.n + 1 / control.n)
    return Estimate(treatment.mean - control.mean, math.sqrt(variance), freedom)


def interactions(effect_of, draw, sizes, *, runs, seed):
    """Share of A/A runs in which the segments seem to differ at 5 %."""
    rng, found = np.random.default_rng(20260101 + seed), 0
    for _ in range(runs):
        effects = [effect for arms in cells(rng, sizes, draw) if (effect := effect_of(*arms)) is not None]
        found += len(effects) > 1 and interaction_test(effects).p_value < 0.05
    return found / runs


def normal_arm(rng, n):
    return MeanTotals.from_observations(rng.normal(size=n))


def rare_arm(rng, n):
    return ProportionTotals(n, int(rng.binomial(n, 0.02)))


def score_effect(treatment, control):
    rate = (treatment.successes + control.successes) / (treatment.n + control.n)
    if rare(control.n, treatment.n, rate):
        return None
    variance = rate * (1 - rate) * (1 / treatment.n + 1 / control.n)
    return Estimate(treatment.mean - control.mean, math.sqrt(variance))


def with_own_variances(treatment, control):
    """The planted bug: variances of cells that may have no event, taken as known."""
    arms = [arm.moments if isinstance(arm, ProportionTotals) else arm for arm in (treatment, control)]
    variance = sum(arm.variance / arm.n for arm in arms)
    return Estimate(arms[0].mean - arms[1].mean, math.sqrt(variance)) if variance else None


def test_equal_segments_of_any_size_seldom_seem_to_differ():
    limit = binom.ppf(1 - 1e-6, 300, 0.05) / 300
    assert interactions(pooled_effect, normal_arm, (30, 300), runs=300, seed=30) <= limit
    assert interactions(score_effect, rare_arm, (50, 1_000), runs=300, seed=31) <= limit
    assert interactions(with_own_variances, rare_arm, (50, 1_000), runs=300, seed=31) > limit
    assert interactions(with_own_variances, normal_arm, (2, 300), runs=300, seed=32) > limit


def test_the_interaction_with_estimated_variances_worked_by_hand():
    effects = [Estimate(0, 1, 10), Estimate(2, 1, 10)]
    assert interaction_test(effects).statistic == pytest.approx(2)
    assert interaction_test(effects).p_value == pytest.approx(scipy_stats.f.sf(2, 1, 20))
    many = [Estimate(effect.value, 1, 1e9) for effect in effects]
    assert interaction_test(many).p_value == pytest.approx(scipy_stats.chi2.sf(2, 1), rel=1e-6)
