"""The credible interval of a proportion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stats.interval import beta_interval

parameters = st.floats(min_value=0.05, max_value=1e6)


def test_the_worked_case_holds():
    interval = beta_interval(1, 1)
    assert (interval.lower, interval.upper) == pytest.approx((0.025, 0.975))


@given(parameters, parameters, st.floats(0.5, 0.999))
def test_each_tail_holds_half_of_what_is_left_out(alpha, beta, level):
    interval = beta_interval(alpha, beta, level=level)
    posterior = stats.beta(alpha, beta)
    assert posterior.cdf(interval.lower) == pytest.approx((1 - level) / 2, rel=1e-6)
    assert posterior.sf(interval.upper) <= (1 - level) / 2 * (1 + 1e-6) or interval.upper > 1 - 1e-9


@given(parameters, parameters)
def test_failures_mirror_successes_and_more_confidence_is_wider(alpha, beta):
    interval, mirrored = beta_interval(alpha, beta), beta_interval(beta, alpha)
    assert mirrored.lower == pytest.approx(1 - interval.upper, abs=1e-12)
    wider = beta_interval(alpha, beta, level=0.99)
    assert wider.lower <= interval.lower <= interval.upper <= wider.upper


@pytest.mark.parametrize(
    ("alpha", "beta", "level"),
    [(0, 1, 0.95), (1, -1, 0.95), (1, float("inf"), 0.95), (float("nan"), 1, 0.95), (1, 1, 1), (1, 1, 0)],
)
def test_what_has_no_interval_is_refused(alpha, beta, level):
    with pytest.raises(ValueError, match="must be"):
        beta_interval(alpha, beta, level=level)
