"""Decisions in a context: shares in whole parts, posteriors small enough, readers that know of none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.allocation.contextual import materialised
from app.assignment import bucketing, limits, snapshot
from app.assignment.bucketing import WHOLE
from app.core.limits import VARIANTS_MAX
from app.experiments.policies import LinTsPolicy
from bandits.features import UNIT, Numeric
from bandits.linear import LinearTotals
from tests.support.registry import experiment


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50).filter(any))
def test_fast_parts_are_whole_and_those_of_largest_remainders_but_for_a_few(shares):
    shares = [share / sum(shares) for share in shares]
    near = bucketing.parts_near(shares)
    assert sum(near) == WHOLE
    assert min(near) >= 0
    for fast, slow in zip(near, bucketing.parts(shares), strict=True):
        assert abs(fast - slow) <= len(shares)
        assert (fast > 0) == (slow > 0)


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_largest_posterior_keeps_its_bound(hybrid):
    features = tuple(Numeric(f"f{number}") for number in range(64))
    rows = np.random.default_rng(20260102).integers(-UNIT, UNIT, size=(100, 65))
    rows[:, 0] = UNIT
    totals = [LinearTotals.of_rows(rows, np.full(100, 0.5))] * VARIANTS_MAX
    made = materialised(LinTsPolicy(features=features, hybrid=hybrid), totals)
    assert len(made.means) + len(made.factors) <= limits.POSTERIOR_BYTES_MAX
    assert made == materialised(LinTsPolicy(features=features, hybrid=hybrid), totals)


def test_a_server_that_knows_nothing_of_contexts_serves_the_weights_beside_them():
    """The new field is ignored by older readers and absent from what others publish."""
    plain = snapshot.encode(experiment())
    assert b"contextual" not in plain
    assert snapshot.decode(plain).contextual is None
