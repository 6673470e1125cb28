"""The constant boundary by reflection."""

import pytest

from stats.yeast import Yeast


def test_yeast_reflects():
    assert Yeast(0.05).boundary == pytest.approx(2.2414, abs=5e-5)
    assert Yeast(0.05).power(0) == pytest.approx(0.05)
    # Evan Miller's 2 sqrt(N) rule, one-sided: 2 (1 - Phi(2)) = 0.0455.
    assert Yeast(0.05, "greater").p_value(2.0) == pytest.approx(0.0455, abs=5e-5)
    assert Yeast(0.05).power(2.8016) == pytest.approx(0.780, abs=0.004)
    assert Yeast(0.05, "less").rejects(-3.0, 0.5)
    assert not Yeast(0.05).rejects(3.0, 0.5)
    assert Yeast(0.05).power(Yeast(0.05).drift_for(0.8)) == pytest.approx(0.8)
