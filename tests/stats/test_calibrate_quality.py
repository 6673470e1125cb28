"""The validity table of quality, the gate, drift and pairs, in small, with planted bugs."""

import pytest

from benchmarks import calibrate_quality, judging_quality


@pytest.mark.parametrize("part", calibrate_quality.PARTS.values(), ids=calibrate_quality.PARTS)
def test_every_row_of_the_validity_table_holds(part):
    assert [row for row in part(full=False) if not row.passed] == []


@pytest.mark.skipif(not judging_quality.SCORES.exists(), reason=f"{judging_quality.SCORES} is missing")
def test_on_real_scores_the_estimate_covers_and_the_judge_misses():
    """One model, 60 draws: limits that correct intervals miss with probability below 1e-6."""
    responses = judging_quality.read()
    assert len(responses.person) == 6_133
    result = judging_quality.quality(responses.of("gpt-3.5-turbo-0125"), "one model", draws=60)
    assert result.covered >= 0.78
    assert result.covered_at_every_look >= 0.78
    assert result.narrower >= judging_quality.NARROWER_MIN
    assert result.judge_covered == 0
    assert result.judge_bias > 0.04
