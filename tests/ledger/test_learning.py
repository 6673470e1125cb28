"""What policies learn, apart from any database."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.allocation.forgetting import first_part
from app.experiments.limits import FORGETTING_S_MAX
from app.experiments.policies import (
    Exp3IxPolicy,
    FixedPolicy,
    LinTsPolicy,
    LinUcbPolicy,
    ThompsonPolicy,
    UcbPolicy,
)
from app.experiments.policies.forgetting import Discount, Window
from app.ledger.learning.model import (
    LossLearning,
    LossSums,
    RewardSums,
    Rows,
    Seen,
    is_forgotten,
    learning_of,
)
from bandits.exp3 import LossTotals
from bandits.features import Numeric

sums = st.builds(LossSums, st.integers(0, 2**40), st.integers(0, 2**100))


@given(sums, sums)
def test_sums_of_losses_come_back_from_bytes_and_take_back_what_was_added(first, second):
    assert LossSums.from_bytes(first.to_bytes()) == first
    assert first + second - second == first
    assert first + second == second + first


def test_losses_are_those_of_the_policy_to_a_nano():
    """Rewards of 0.2 and 1 drawn with 0.3 and 0.5, gamma 0.1: 0.8 / 0.4 and nothing."""
    found = LossLearning(0.1).of_rows(Rows([0.3, 0.5], [200_000_000, 1_000_000_000]))
    assert found == LossSums(2, 2_000_000_000)
    one = LossTotals.observed(2, 0, 0.123456789, propensity=1 / 3, gamma=0.1).losses[0]
    nano = LossLearning(0.1).of_rows(Rows([1 / 3], [123_456_789])).losses
    assert nano == pytest.approx(one * 1e9, abs=1)


def test_sums_of_losses_reject_bytes_of_another_length():
    with pytest.raises(ValueError, match="bytes; got 3"):
        LossSums.from_bytes(b"abc")


def test_policies_that_read_the_same_learn_the_same():
    features = (Numeric("length"),)
    assert learning_of(LinTsPolicy(features=features)) == learning_of(
        LinUcbPolicy(features=features, exploration_floor=0.5)
    )
    assert learning_of(LinTsPolicy(features=features)) != learning_of(
        LinTsPolicy(features=(Numeric("length", scale=2.0),))
    )
    assert learning_of(Exp3IxPolicy(eta=0.1)) != learning_of(Exp3IxPolicy(eta=0.2))
    hour = learning_of(ThompsonPolicy(forgetting=Window(3_600.0)))
    assert hour == learning_of(UcbPolicy(forgetting=Discount(3_600.0)))
    assert hour != learning_of(ThompsonPolicy(forgetting=Window(7_200.0)))
    assert learning_of(ThompsonPolicy()) is learning_of(FixedPolicy({"a": 1.0})) is None


def test_rewards_of_a_policy_that_forgets_are_kept_by_the_bucket_of_their_assignment():
    """A window of an hour has buckets of 450 s; a short one has them of a minute."""
    hour = learning_of(ThompsonPolicy(forgetting=Window(3_600.0)))
    seen = [Seen(None, 0.5, at_s * 1_000_000 - 1) for at_s in (450, 451, 900)]
    assert [hour.part(one) for one in seen] == ["000000000000", "000000000450", "000000000450"]
    assert hour.of_rows(Rows([1, 2], [3, 10**9])) == RewardSums(2, 10**9 + 3, 10**18 + 9)
    assert learning_of(ThompsonPolicy(forgetting=Window(61.0))).bucket_s == 60


def test_buckets_are_kept_for_twice_as_long_as_any_policy_reads_them():
    """Of 320 buckets of a minute that of the present is the last; only buckets are ever forgotten."""
    minutes = learning_of(ThompsonPolicy(forgetting=Window(60.0)))
    assert minutes.first_part(320 * 60.0 - 1) == "000000000000"
    assert minutes.first_part(320 * 60.0) == "000000000060"
    assert is_forgotten(minutes, "000000000000", 320 * 60.0)
    assert not is_forgotten(minutes, "000000000060", 320 * 60.0)
    assert not is_forgotten(learning_of(Exp3IxPolicy()), "", 1e12)


@given(
    st.floats(60.0, FORGETTING_S_MAX),
    st.sampled_from([Window, Discount]),
    st.floats(1.7e9, 1.9e9),
)
def test_no_policy_reads_what_is_forgotten_even_if_its_clock_is_behind(span_s, kind, now_s):
    forgetting = kind(span_s)
    behind_s = now_s - forgetting.buckets_max * forgetting.bucket_s
    part = first_part(forgetting, behind_s)
    assert not is_forgotten(learning_of(ThompsonPolicy(forgetting=forgetting)), part, now_s)


@given(st.builds(RewardSums, st.integers(0, 2**40), st.integers(0, 2**70), st.integers(0, 2**100)))
def test_sums_of_rewards_come_back_from_bytes(sums):
    assert RewardSums.from_bytes(sums.to_bytes()) == sums
    assert sums + sums - sums == sums
    with pytest.raises(ValueError, match="bytes; got 3"):
        RewardSums.from_bytes(b"abc")
