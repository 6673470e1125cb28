"""Totals merge like the observations behind them."""

from hypothesis import given
from hypothesis import strategies as st

from stats.totals import RewardTotals

# Sixteenths are exact in binary, so pooled and merged sums are equal, not merely close.
rewards = st.lists(st.integers(0, 16).map(lambda sixteenths: sixteenths / 16))


def totals_of(values):
    return RewardTotals(len(values), sum(values), sum(value**2 for value in values))


@given(rewards, rewards)
def test_merging_equals_pooling(first, second):
    assert totals_of(first) + totals_of(second) == totals_of(first + second)


@given(rewards)
def test_the_mean_is_the_average_and_missing_without_rewards(values):
    assert totals_of(values).mean == (sum(values) / len(values) if values else None)
