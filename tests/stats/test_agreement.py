"""Agreement of raters: published values, statsmodels, and the limits of perfect and opposite agreement."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.inter_rater import fleiss_kappa as statsmodels_fleiss_kappa

from stats.agreement import (
    LimitingAgreement,
    cohen_kappa,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
)
from stats.errors import InsufficientData, InvalidInput


@pytest.mark.parametrize("weights", ["unweighted", "linear", "quadratic"])
@pytest.mark.parametrize(
    ("table", "value"),
    [([[50, 0], [0, 50]], 1.0), ([[0, 50], [50, 0]], -1.0), ([[9, 0, 0], [0, 5, 0], [0, 0, 3]], 1.0)],
)
def test_cohens_kappa_at_perfect_and_opposite_agreement(table, value, weights):
    found = cohen_kappa(np.array(table), weights=weights)
    reference = cohens_kappa(np.array(table), wt=None if weights == "unweighted" else weights)
    assert found.value == pytest.approx(value) == reference.kappa
    interval = found.interval(alpha=0.05)
    assert -1 <= interval.lower < interval.upper <= 1
    assert (interval.upper if value > 0 else interval.lower) == value


def test_the_limit_of_perfect_agreement_worked_by_hand():
    found = cohen_kappa(np.array([[25, 0], [0, 25]]))
    assert found.interval(alpha=0.05).lower == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 50)))
    assert found.test(null=0.0).p_value == pytest.approx(2 * 0.5**50)
    assert found.test(null=0.0, alternative="greater").p_value == pytest.approx(0.5**50)
    assert found.test(null=0.0, alternative="less").p_value == 1
    assert found.test(null=1.0).p_value == 1


@given(st.integers(3, 400), st.integers(1, 99), st.floats(0.001, 0.3), st.floats(-1, 1))
def test_interval_and_test_of_limiting_agreement_are_two_sides_of_one_rule(items, agreed, alpha, null):
    found = LimitingAgreement.of(items, agreed / 100, 0.3)
    interval, p = found.interval(alpha=alpha), found.test(null=null).p_value
    if min(abs(null - interval.lower), abs(null - interval.upper)) > 1e-9:
        assert (interval.lower < null < interval.upper) == (p > alpha)


def test_a_single_category_leaves_agreement_undefined():
    for table in ([[9, 0], [0, 0]], [[30, 20], [0, 0]], [[0, 9], [0, 0]]):
        with pytest.raises(InsufficientData, match="used one category only"):
            cohen_kappa(np.array(table))
    with pytest.raises(InsufficientData, match="one category"):
        fleiss_kappa(np.array([[2, 0]] * 9))
    for scale in ("nominal", "ordinal", "interval"):
        with pytest.raises(InsufficientData, match="one value"):
            krippendorff_alpha(np.ones((9, 3)), scale=scale)


@pytest.mark.parametrize("rare", [1, 5])
def test_other_coefficients_are_one_at_perfect_agreement_however_rare_a_category_is(rare):
    counts = np.array([[3, 0]] * 20 + [[0, 3]] * rare)
    ratings = np.array([[1, 1, 1]] * 20 + [[2, 2, 2]] * rare, dtype=float)
    found = [fleiss_kappa(counts), gwet_ac1(counts)]
    found += [krippendorff_alpha(ratings, scale=scale) for scale in ("nominal", "ordinal", "interval")]
    for one in found:
        assert one.value == 1
        interval = one.interval(alpha=0.05)
        assert interval.lower < 1 == interval.upper
    assert gwet_ac1(np.array([[3, 0]] * 20)).value == 1, "defined, unlike kappa: chance agreement is 0"


def test_other_coefficients_at_opposite_agreement():
    counts, n = np.array([[1, 1]] * 20), 20
    ratings = np.array([[1, 2], [2, 1]] * 10, dtype=float)
    assert fleiss_kappa(counts).value == pytest.approx(-1)
    assert gwet_ac1(counts).value == pytest.approx(-1)
    for scale in ("nominal", "ordinal", "interval"):
        # All pairs of 2 n ratings, n of each value: a share n / (2 n - 1) of them differs.
        assert krippendorff_alpha(ratings, scale=scale).value == pytest.approx(1 - (2 * n - 1) / n)


tables = st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=3, max_size=3)


@given(tables)
def test_cohens_kappa_agrees_with_its_definition_on_small_tables(table):
    counts = np.array(table)
    n = counts.sum()
    try:
        found = cohen_kappa(counts)
    except InsufficientData:
        used = max((counts.sum(axis=0) > 0).sum(), (counts.sum(axis=1) > 0).sum())
        one_sided = min((counts.sum(axis=0) > 0).sum(), (counts.sum(axis=1) > 0).sum()) <= 1
        assert n < 2 or used <= 1 or one_sided or counts.trace() not in (0, n)
        return
    rows, columns = counts.sum(axis=1) / n, counts.sum(axis=0) / n
    chance = rows @ columns
    assert found.value == pytest.approx((counts.trace() / n - chance) / (1 - chance), abs=1e-9)


NAN = math.nan


# Krippendorff (2011), example D: 4 observers, 12 units; by krippendorff 0.9.0 (alpha), irrCAC 0.4.4 (AC1).
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T


TABLE = np.array([[20, 5, 1], [10, 15, 3], [2, 4, 9]])


@pytest.mark.parametrize(
    ("scale", "alpha"),
    [("nominal", 0.743421052631579), ("ordinal", 0.8153875037548814), ("interval", 0.8491071428571428)],
)
def test_krippendorffs_alpha_has_its_published_value(scale, alpha):
    assert krippendorff_alpha(OBSERVERS, scale=scale).value == pytest.approx(alpha, rel=1e-9)


def test_gwets_coefficient_agrees_with_irrcac():
    counts = np.stack([np.equal(value, OBSERVERS).sum(axis=1) for value in range(1, 6)], axis=1)
    assert gwet_ac1(counts).value == pytest.approx(0.77544, abs=5e-6)


@pytest.mark.parametrize(
    ("weights", "theirs"), [("unweighted", None), ("linear", "linear"), ("quadratic", "quadratic")]
)
def test_cohens_kappa_and_its_error_agree_with_statsmodels(weights, theirs):
    reference = cohens_kappa(TABLE, wt=theirs)
    ours = cohen_kappa(TABLE, weights=weights)
    assert (ours.value, ours.standard_error) == pytest.approx((reference.kappa, reference.std_kappa))


def test_fleiss_kappa_agrees_with_statsmodels_and_the_worked_cases_hold():
    counts = np.random.default_rng(20260101 + 24).multinomial(4, (0.5, 0.3, 0.2), size=40)
    assert fleiss_kappa(counts).value == pytest.approx(statsmodels_fleiss_kappa(counts))
    small = np.array([[2, 0], [0, 2], [1, 1]])
    assert fleiss_kappa(small).value == pytest.approx(1 / 3)
    assert gwet_ac1(small).value == pytest.approx(1 / 3)
    assert krippendorff_alpha(np.array([[1, 1], [2, 2], [1, 2.0]]), scale="nominal").value == pytest.approx(
        4 / 9
    )
    assert cohen_kappa(np.array([[20, 5], [10, 15]])).value == pytest.approx(0.4)


def test_agreement_without_variety_or_items_is_refused():
    with pytest.raises(InsufficientData, match="one category"):
        cohen_kappa(np.array([[9, 0], [0, 0]]))
    with pytest.raises(InsufficientData):
        krippendorff_alpha(np.ones((5, 2)), scale="interval")
    with pytest.raises(InsufficientData):
        krippendorff_alpha(np.ones((2, 2)), scale="nominal")
    with pytest.raises(InvalidInput):
        fleiss_kappa(np.array([[2, 0], [1, 0]]))
    with pytest.raises(InvalidInput):
        cohen_kappa(np.array([[1, 2]]))


def clustered_items(rng, agreement):
    """Two raters who agree or not for all 20 items of each of 40 units."""
    unit = np.repeat(np.arange(40), 20)
    first = rng.integers(2, size=800)
    second = np.where((rng.random(40) < agreement)[unit], first, 1 - first)
    return unit, first, second


def tables_of(unit, first, second):
    tables = np.zeros((unit.max() + 1, 2, 2), dtype=np.int64)
    np.add.at(tables, (unit, first, second), 1)
    return tables


def test_the_error_of_clustered_items_is_that_of_clusters():
    """The 95 % interval covers the true kappa of 0.4; items taken as independent must not (planted bug)."""
    rng, runs = np.random.default_rng(20260101 + 25), 200
    covered, covered_as_independent = 0, 0
    for _ in range(runs):
        tables = tables_of(*clustered_items(rng, 0.7))
        by_cluster, by_item = (
            cohen_kappa(each).interval(alpha=0.05) for each in (tables, tables.sum(axis=0))
        )
        covered += by_cluster.lower <= 0.4 <= by_cluster.upper
        covered_as_independent += by_item.lower <= 0.4 <= by_item.upper
    assert covered >= binom.ppf(1e-6, runs, 0.94)
    assert covered_as_independent < binom.ppf(1e-6, runs, 0.94)


def test_all_coefficients_take_clusters_and_clusters_of_one_item_are_the_items():
    rng = np.random.default_rng(20260101 + 26)
    mixed = rng.permutation(800)
    unit, first, second = (column[mixed] for column in clustered_items(rng, 0.7))
    counts = np.stack([(first == 0) * 1 + (second == 0), (first == 1) * 1 + (second == 1)], axis=1)
    ratings = np.stack([first, second], axis=1).astype(float)
    for estimate in (
        lambda clusters: fleiss_kappa(counts, clusters=clusters),
        lambda clusters: gwet_ac1(counts, clusters=clusters),
        lambda clusters: krippendorff_alpha(ratings, scale="nominal", clusters=clusters),
        lambda clusters: krippendorff_alpha(ratings, scale="interval", clusters=clusters),
    ):
        assert estimate(unit).standard_error > 2.5 * estimate(None).standard_error
        assert estimate(unit).value == estimate(None).value
        single = estimate(np.arange(800)).standard_error
        assert single == pytest.approx(estimate(None).standard_error, rel=0.05)
    with pytest.raises(InvalidInput, match="a cluster for each"):
        fleiss_kappa(counts, clusters=unit[:3])
    with pytest.raises(InsufficientData, match="clusters"):
        fleiss_kappa(counts, clusters=unit // 20)
    perfect = cohen_kappa(np.array([[[5, 0], [0, 5]]] * 20))
    assert isinstance(perfect, LimitingAgreement)
    assert perfect.value == 1
    assert perfect.items == 20, "20 clusters, not 200 items"
