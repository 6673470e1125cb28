"""Paired comparisons: error at every look, conflicts as ties, strata and margins."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from stats.errors import InsufficientData, InvalidInput
from stats.paired import PairedTotals, both_orders, paired_comparison, paired_result, position_bias


def drawn(rng: np.random.Generator, n: int, win: float, loss: float, looks: int = 20) -> list[PairedTotals]:
    """Cumulative totals at each look."""
    counts = rng.multinomial(n // looks, [win, loss, 1 - win - loss], size=looks)
    return list(itertools.accumulate(PairedTotals(*map(int, row)) for row in counts))


def test_a_conflict_between_both_orders_is_a_tie():
    assert both_orders("challenger", "challenger") == "challenger"
    assert both_orders("control", "challenger") == "tie"
    assert both_orders("challenger", "tie") == "tie"
    first = PairedTotals.of("control", "challenger")  # the first text won twice
    assert (first.ties, first.first, first.second) == (1, 1, 0)
    assert PairedTotals.of("challenger", "control").second == 1
    assert PairedTotals.of("control", "control") == PairedTotals(losses=1)


def test_equal_variants_are_rarely_distinguished_at_any_look():
    rng = np.random.default_rng(20260101 + 61)
    runs, decided, plain = 100, 0, 0
    for _ in range(runs):
        looks = drawn(rng, 1_000, 0.4, 0.4, looks=50)
        decided += any(paired_result(look, alpha=0.05).decision != "undecided" for look in looks)
        plain += any(abs(look.wins - look.losses) > 1.96 * look.decided.n**0.5 for look in looks)
    limit = binom.ppf(1 - 1e-6, runs, 0.05)
    assert decided <= limit
    assert plain > limit  # planted bug


def test_the_net_win_rate_is_covered_at_every_look():
    rng = np.random.default_rng(20260101 + 62)
    runs, missed = 100, 0
    for _ in range(runs):
        intervals = [paired_result(look, alpha=0.05).interval for look in drawn(rng, 1_000, 0.25, 0.15)]
        missed += any(not interval.lower <= 0.10 <= interval.upper for interval in intervals)
    assert missed <= binom.ppf(1 - 1e-6, runs, 0.05)


def test_the_interval_excludes_zero_exactly_if_the_decision_is_made():
    for wins in range(0, 101, 5):
        result = paired_result(PairedTotals(wins, 100 - wins, 40), alpha=0.05)
        assert (result.decision == "better") == (result.interval.lower > 0)
        assert (result.decision == "worse") == (result.interval.upper < 0)
        mirrored = paired_result(PairedTotals(100 - wins, wins, 40), alpha=0.05)
        assert mirrored.interval.lower == pytest.approx(-result.interval.upper, abs=1e-9)


def test_a_margin_turns_many_ties_into_safety():
    ties = PairedTotals(10, 10, 980)
    assert paired_result(ties, alpha=0.05).decision == "undecided"
    assert paired_result(ties, alpha=0.05, margin=0.05).decision == "not_worse"


def test_a_loss_in_one_stratum_shows_beside_an_overall_win():
    result = paired_comparison(
        {"short": PairedTotals(300, 100, 50), "code": PairedTotals(5, 60, 10)}, alpha=0.05
    )
    assert result.overall.decision == "better"
    assert result.strata["code"].decision == "worse"
    assert result.overall.totals.pairs == 525


def test_nothing_compared_is_undecided():
    result = paired_comparison({}, alpha=0.05).overall
    assert (result.value, result.decision) == (None, "undecided")
    assert (result.interval.lower, result.interval.upper) == (-1, 1)
    only_ties = paired_result(PairedTotals(ties=50), alpha=0.05)
    assert only_ties.value == 0
    assert only_ties.interval.lower < 0 < only_ties.interval.upper


def test_a_judge_that_prefers_the_first_text_is_found_out():
    assert position_bias(PairedTotals(10, 10, 40, 36, 4), alpha=0.05).lower > 0.5
    fair = position_bias(PairedTotals(10, 10, 40, 21, 19), alpha=0.05)
    assert fair.lower < 0.5 < fair.upper
    with pytest.raises(InsufficientData):
        position_bias(PairedTotals(10, 10, 40), alpha=0.05)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PairedTotals(-1),
        lambda: PairedTotals(1, 1, 1, 1, 1),
        lambda: paired_result(PairedTotals(), alpha=0.0),
        lambda: paired_result(PairedTotals(), alpha=0.05, margin=2.0),
    ],
)
def test_impossible_input_is_refused(make):
    with pytest.raises(InvalidInput):
        make()
