"""From draw to readout in one process, by the code of worker and server: what peeking and ramps come to."""

import numpy as np
import pytest

from app.experiments.policies import FixedPolicy, ThompsonPolicy
from benchmarks import whole_path
from benchmarks.whole_path import BATCH_US, Signal, WholePath

pytestmark = pytest.mark.timeout(400)  # hundreds of thousands of units: minutes, on a machine that is busy


def test_an_aa_test_under_thompson_is_seldom_decided_however_often_one_looks():
    """400 replays of each setting are in `make calibrate`; the second row is a planted bug."""
    assert [row for row in whole_path.aa_rows(full=False) if not row.passed] == []


def test_a_ramp_under_a_drifting_baseline_fools_the_pooled_estimate_and_not_ours():
    assert [row for row in whole_path.ramp_rows(full=False) if not row.passed] == []


def test_a_canary_that_is_worse_is_found_on_the_ramp():
    path = whole_path.ramp(np.random.default_rng(20260101 + 970), effect=-0.15, size=20_000)
    canary = path.readout().metrics[-1].variants[1]
    assert canary.verdict == "harm"
    assert canary.interval[0] < -0.15 < canary.interval[1]
    pooled = path.readout(whole_path.pooled(path.observed())).metrics[-1].variants[1]
    assert pooled.effect > canary.effect + 0.05  # the drift hides it


def test_the_path_worked_by_hand():
    """Two assignments of each variant; of v1's one thumb turned down, and one of v0's has no feedback yet."""
    path = WholePath(FixedPolicy({"v0": 0.5, "v1": 0.5}))
    path.expose([0, 0, 1, 1], 0)
    path.commit([Signal(0, 1.0, 0), Signal(2, 1.0, 0), Signal(3, 1.0, 0)], 0)
    path.commit([Signal(3, 0.0, 1)], 1)
    control, other = (path.totals[1, variant] for variant in (0, 1))
    assert (control.assignments, control.rewards, control.reward_sum) == (2, 1, 10**9)
    assert (other.assignments, other.rewards, other.reward_sum) == (2, 2, 10**9)


@pytest.mark.parametrize(("silence", "rewards"), [(None, 0), (0.0, 1)])
def test_silence_counts_after_its_horizon_as_declared(silence, rewards):
    path = WholePath(ThompsonPolicy(), silence=silence)
    path.expose([0], 0)
    path.commit([], 0)
    assert path.totals[1, 0].rewards == 0
    path.commit([], 6 * BATCH_US)
    assert path.totals[1, 0].rewards == rewards
