"""Normal mixtures against confseq, quadrature and cases worked by hand."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stats import bounded, mixture, sequences
from stats.errors import InsufficientData
from stats.mixture import MixtureSprt
from stats.totals import MeanTotals


# confseq, boundaries: normal_mixture_bound, gamma_exponential_*, normal_log_mixture with v_opt = v.
def test_mixtures_are_those_of_confseq():
    def best_rho(v, alpha):  # theirs, an approximation of ours
        return v / (2 * math.log(1 / alpha) + math.log1p(2 * math.log(1 / alpha)))

    rho = best_rho(1_000, 0.05)
    assert mixture.tuned(1_000, alpha=0.05) == pytest.approx(rho, rel=0.1)
    assert float(mixture.boundary(1_000, alpha=0.05, rho=rho)) == pytest.approx(95.98173584, abs=1e-6)
    # Their one-sided boundary is a closed-form upper bound of the exact one.
    one_sided = best_rho(1_000, 0.10)
    exact = float(mixture.boundary(1_000, alpha=0.05, rho=one_sided, alternative="greater"))
    assert exact == pytest.approx(87.47084, rel=2e-3)
    rho = best_rho(100, 0.10)
    assert float(mixture.log_mixture(30, 100, rho=rho, alternative="greater")) == pytest.approx(
        3.5805696, abs=1e-6
    )
    assert bounded.log_gamma_mixture(20, 100, rho) == pytest.approx(1.141519251, abs=1e-7)
    assert bounded.gamma_boundary(100, alpha=0.05, rho=rho) == pytest.approx(30.23812962, abs=1e-6)


def test_a_mixture_worked_by_hand_and_by_quadrature():
    assert float(mixture.log_mixture(3, 1, rho=1)) == pytest.approx(1.9034, abs=5e-5)
    assert float(mixture.boundary(1, alpha=0.05, rho=1)) == pytest.approx(3.6564, abs=5e-5)
    slopes = np.linspace(0, 12, 200_001)
    half_normal = 2 * scipy_stats.norm.pdf(slopes)
    integral = np.trapezoid(half_normal * np.exp(slopes * 2.0 - slopes**2 * 3 / 2), slopes)
    assert float(mixture.log_mixture(2, 3, rho=1, alternative="greater")) == pytest.approx(math.log(integral))
    assert sequences.units_to_tell(1, 1, alpha=0.05) == pytest.approx(9.212, abs=1e-3)
    assert float(sequences.radius(0.01, 100, alpha=0.05, tuned_to=821.19)) == pytest.approx(0.36564, abs=1e-5)


def test_the_mixture_sprt_takes_any_split():
    sprt = MixtureSprt(0.1)
    found = sprt.of_difference(MeanTotals(1_900, 0.0, 1.0), MeanTotals(100, 0.5, 1.0), sd=1.0)
    assert found == sprt.evalue(0.5, 1 / 1_900 + 1 / 100)
    assert sprt.evalue(0.0, 1.0).value < 1
    with pytest.raises(InsufficientData):
        sprt.of_difference(MeanTotals(), MeanTotals(1, 1.0, 0.0), sd=1.0)
