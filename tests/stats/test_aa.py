"""The noise floor worked by hand."""

import pytest

from stats import aa
from stats.errors import InsufficientData
from stats.totals import MeanTotals


def test_the_noise_floor_worked_by_hand():
    floor = aa.noise_floor(MeanTotals(10_000, 2.0, 9_999.0))
    assert floor.absolute == pytest.approx(0.0392, abs=5e-5)
    assert floor.relative == pytest.approx(0.0196, abs=5e-5)
    with pytest.raises(InsufficientData):
        aa.noise_floor(MeanTotals(10, 1.0, 0.0))
