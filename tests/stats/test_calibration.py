"""The gate of a judge: exact binomial limits, weights, clusters, ceilings and refusals in words."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from stats.calibration import AgreementTotals, calibrate, held_out
from stats.errors import InvalidInput


def labels(right: tuple[int, int], wrong: tuple[int, int]):
    """Human and judge labels, 0 and 1, of so many right and wrong responses per human label."""
    human = np.repeat([0, 1], [right[0] + wrong[0], right[1] + wrong[1]])
    judge = np.concatenate(
        [np.full(right[0], 0), np.full(wrong[0], 1), np.full(right[1], 1), np.full(wrong[1], 0)]
    )
    return human, judge


def result(right, wrong, **options):
    return calibrate(AgreementTotals.from_observations(*labels(right, wrong), n_classes=2), **options)


def test_a_judge_passes_when_both_lower_bounds_exceed_what_is_required():
    gate = result((45, 44), (0, 1))
    assert gate.verdict == "passed"
    assert [round(recall.lower, 3) for recall in gate.recalls] == [0.921, 0.862]
    assert gate.agreement == pytest.approx(89 / 90)


def test_high_agreement_on_frequent_labels_does_not_pass():
    """A judge that always says 1 agrees in 95 of 100, as the constant predictor does."""
    gate = result((0, 95), (5, 0))
    assert gate.agreement == gate.constant == pytest.approx(0.95)
    assert gate.verdict == "failed"
    assert "repeats only 0.00" in gate.reasons[0]


def test_an_undecided_gate_says_how_many_labels_would_decide():
    gate = result((41, 44), (4, 1))
    assert gate.verdict == "undecided"
    assert gate.more_labels > 0
    more = gate.recalls[0].more_labels
    scale = (45 + more) / 45
    assert result((math.ceil(41 * scale), 44), (math.floor(4 * scale), 1)).verdict == "passed"
    assert f"{more} more of them would decide" in gate.reasons[0]


def test_a_label_that_people_never_gave_is_named():
    gate = result((0, 90), (0, 0), names=("bad", "good"))
    assert gate.verdict == "undecided"
    assert "no response has the human label 'bad'" in gate.reasons[0]
    assert gate.recalls[0].value is None


def test_without_labels_nothing_is_decided():
    gate = calibrate(AgreementTotals.from_observations(np.zeros(0, int), np.zeros(0, int), n_classes=3))
    assert (gate.verdict, gate.agreement, gate.n_labelled) == ("undecided", None, 0)


def test_what_is_required_is_at_most_how_far_people_agree():
    people = AgreementTotals.from_observations(*labels((70, 70), (30, 30)), n_classes=2)
    judge = ((85, 85), (15, 15))
    assert result(*judge).verdict == "undecided"
    gate = result(*judge, ceiling=people)
    assert gate.verdict == "passed"
    assert [recall.required for recall in gate.recalls] == [0.7, 0.7]


def test_a_coin_does_not_pass_even_where_people_agree_like_coins():
    people = AgreementTotals.from_observations(*labels((500, 500), (500, 500)), n_classes=2)
    assert result((5_050, 4_950), (4_950, 5_050), ceiling=people).verdict != "passed"


@pytest.mark.parametrize("constant", [0, 1])
def test_a_constant_judge_never_passes(constant):
    human = np.repeat([0, 1], 500)
    total = AgreementTotals.from_observations(human, np.full(1_000, constant), n_classes=2)
    assert calibrate(total, required=0.01).verdict != "passed"


def test_responses_of_one_unit_count_as_little_as_they_tell():
    human, judge = labels((45, 44), (0, 1))
    alone = AgreementTotals.from_observations(human, judge, n_classes=2)
    repeated = AgreementTotals.from_observations(
        np.repeat(human, 10), np.repeat(judge, 10), n_classes=2, units=np.repeat(np.arange(90), 10)
    )
    for label in (0, 1):
        assert repeated.recall(label).n == alone.recall(label).n
    counted_as_independent = AgreementTotals.from_observations(
        np.repeat(human, 10), np.repeat(judge, 10), n_classes=2
    )
    assert counted_as_independent.recall(1).n == 10 * alone.recall(1).n  # planted bug


def test_labels_drawn_with_unequal_probabilities_are_weighed():
    """The judge is right where responses are rarely drawn; unweighted it looks worse than it is."""
    rng = np.random.default_rng(20260101 + 41)
    human = rng.integers(0, 2, 100_000)
    hard = rng.random(100_000) < 0.2
    judge = np.where(hard & (rng.random(100_000) < 0.5), 1 - human, human)
    inclusion = np.where(hard, 0.05, 0.01)
    drawn = rng.random(100_000) < inclusion
    total = AgreementTotals.from_observations(
        human[drawn], judge[drawn], n_classes=2, inclusion=inclusion[drawn]
    )
    assert total.agreement.mean == pytest.approx(0.9, abs=0.03)
    assert (human[drawn] == judge[drawn]).mean() < 0.8  # planted bug
    assert total.recall(1).n < (human[drawn] == 1).sum()


def test_three_labels_are_judged_by_the_agreement_matrix():
    human = np.repeat([0, 1, 2], 60)
    judge = human.copy()
    judge[60:85] = 2  # the middle label is often taken for the best one
    gate = calibrate(AgreementTotals.from_observations(human, judge, n_classes=3))
    assert gate.verdict == "failed"
    assert gate.matrix[1] == pytest.approx((0, 35 / 60, 25 / 60))


def test_a_judge_below_the_bar_rarely_passes_however_often_one_looks():
    """Recalls of 0.8 and 1: at most 5 % of judges ever pass; judged by plain means, most do."""
    rng = np.random.default_rng(20260101 + 42)
    runs, looks = 120, range(40, 401, 60)
    passed = passed_by_mean = 0
    for _ in range(runs):
        human = rng.integers(0, 2, looks[-1])
        judge = np.where((human == 1) & (rng.random(len(human)) < 0.2), 0, human)
        totals = [AgreementTotals.from_observations(human[:n], judge[:n], n_classes=2) for n in looks]
        passed += any(calibrate(total).verdict == "passed" for total in totals)
        passed_by_mean += any(min(total.recall(k).mean for k in (0, 1)) > 0.8 for total in totals)
    limit = binom.ppf(1 - 1e-6, runs, 0.05)
    assert passed <= limit
    assert passed_by_mean > limit  # planted bug


def test_totals_merge():
    human, judge = labels((45, 40), (3, 5))
    whole = AgreementTotals.from_observations(human, judge, n_classes=2)
    parts = [
        AgreementTotals.from_observations(human[s], judge[s], n_classes=2) for s in (slice(30), slice(30, 99))
    ]
    merged, direct = calibrate(parts[0] + parts[1]), calibrate(whole)
    assert merged.reasons == direct.reasons


def test_the_held_out_part_depends_on_the_unit_alone():
    rng = np.random.default_rng(20260101 + 43)
    units = rng.integers(-(2**63), 2**63 - 1, 20_000)
    part = held_out(units)
    assert 9_700 < part.sum() < 10_300
    assert (held_out(units[::-1])[::-1] == part).all()
    assert (held_out(units, share=0.7) >= part).all()
    assert part[:50].tolist() == [splitmix64(int(unit)) < 2**63 for unit in units[:50]]


def splitmix64(state: int) -> int:
    """Return one step of the published generator, in whole numbers."""
    mask = 2**64 - 1
    mixed = (state + 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return mixed ^ (mixed >> 31)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AgreementTotals.from_observations(np.array([2]), np.array([0]), n_classes=2),
        lambda: AgreementTotals.from_observations(np.array([0]), np.array([0]), n_classes=1),
        lambda: AgreementTotals.from_observations(
            np.array([0]), np.array([0]), n_classes=2, inclusion=np.array([0.0])
        ),
        lambda: result((1, 1), (1, 1), required=1.0),
        lambda: result((1, 1), (1, 1), names=("only one",)),
        lambda: held_out(np.array([1]), share=0.0),
    ],
)
def test_impossible_input_is_refused(make):
    with pytest.raises(InvalidInput):
        make()
