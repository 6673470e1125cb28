"""The level of a family against statsmodels, e-BH and cases worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from stats.errors import InvalidInput
from stats.multiplicity import family_level


def members_with(p_values):
    return [p_value.__lt__ for p_value in p_values]


def test_the_level_of_a_family_worked_by_hand():
    members = members_with([0.01, 0.03])
    assert family_level(members, 0.05, "benjamini-hochberg") == 0.05
    assert family_level(members_with([0.01, 0.2]), 0.05, "benjamini-hochberg") == 0.025
    assert family_level(members, 0.05, "bonferroni") == 0.025
    assert family_level([*members, None, None], 0.05, "benjamini-hochberg") == 0.0125
    assert family_level(members, 0.05, "benjamini-yekutieli") == pytest.approx(0.05 / 1.5)
    assert family_level([], 0.05, "benjamini-hochberg") == 0.05
    with pytest.raises(InvalidInput):
        family_level(members, 1.0, "bonferroni")


@given(
    st.lists(st.floats(1e-8, 1 - 1e-8), min_size=1, max_size=60),
    st.sampled_from(["bonferroni", "benjamini-hochberg", "benjamini-yekutieli"]),
)
def test_findings_at_the_level_are_those_of_statsmodels(p_values, correction):
    names = {"bonferroni": "bonferroni", "benjamini-hochberg": "fdr_bh", "benjamini-yekutieli": "fdr_by"}
    rejected, adjusted, _, _ = multipletests(p_values, alpha=0.05, method=names[correction])
    level = family_level(members_with(p_values), 0.05, correction)
    if np.abs(adjusted - 0.05).min() > 1e-9:
        assert [p_value < level for p_value in p_values] == rejected.tolist()


@given(st.lists(st.floats(0.0, 5_000.0), min_size=1, max_size=20))
def test_findings_of_e_values_are_those_of_e_bh(e_values):
    """Wang & Ramdas (2022), definition 3: the k largest of m, k the greatest with e_(k) >= m / (alpha k)."""
    m, alpha = len(e_values), 0.1
    ranks = [k for k, e in enumerate(sorted(e_values, reverse=True), start=1) if k * e >= m / alpha]
    threshold = m / (alpha * max(ranks)) if ranks else math.inf
    level = family_level([lambda at, e=e: e * at >= 1 for e in e_values], alpha, "benjamini-hochberg")
    if min(abs(e - threshold) for e in e_values) > 1e-6:
        assert [e * level >= 1 for e in e_values] == [e >= threshold for e in e_values]
