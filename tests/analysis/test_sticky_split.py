"""The split of sticky units under a bandit: each counts once, by the weights in force when it first came."""

from fractions import Fraction

import msgspec
import numpy as np
import pytest
from scipy.stats import binom

from app.allocation.model import VariantTotals, allocate
from app.analysis.integrity import SAMPLE_RATIO_ALPHA, findings
from app.analysis.observed import Observed
from app.analysis.readout.model import Stored
from app.analysis.stored import Drawn, UnitCell
from app.assignment import bucketing
from app.experiments.model import Definition, Experiment, Running, Variant
from app.experiments.policies import FixedPolicy, ThompsonPolicy
from app.ledger.units.measures import CellTotals, measures_of
from benchmarks.whole_path import START
from stats.srm import ArmCounts, evalue

NANO = 10**9
WHOLE = bucketing.WHOLE


def experiment_of(policy):
    variants = (Variant("control", control=True), Variant("other"))
    definition = Definition(key="sticky", variants=variants, policy=policy, stickiness="unit")
    return Experiment(
        id=1,
        definition=definition,
        state=Running(START),
        salt=bytes(16),
        epoch=1,
        revision=1,
        created_at=START,
        updated_at=START,
    )


THOMPSON = experiment_of(ThompsonPolicy(exploration_floor=0.2))


def observed(experiment, draws=(), units=()):
    stored = Stored(
        draws=draws,
        totals=[VariantTotals()] * 2,
        by_epoch=[],
        units=units,
        totals_as_of=None,
        read_at=START,
        wanted=0,
        latest=None,
        history=[],
        epoch_shares={1: None} if experiment is THOMPSON else {1: (0.5, 0.5)},
    )
    return stored.observed(experiment)


def split_of(found: Observed):
    return next(one for one in findings(found) if one.kind == "sample_ratio")


def replay(rng, *, batches, size, returning=0.5, lost=0.0):
    """A bandit that serves sticky units, some of them again and again; after each batch what is counted.

    The draws by first exposures, and (the planted bug) by all assignments. `lost` of the exposures of the
    second variant never arrive.
    """
    seeds = rng.integers(2**63, size=2).tolist()
    hashes: list[int] = []
    seen: set[int] = set()
    totals = np.zeros((2, 2), np.int64)
    first, every = np.zeros((2, 2, 2), object)
    for _ in range(batches):
        variants = [VariantTotals(int(n), int(n), 0, int(k) * NANO, int(k) * NANO**2) for n, k in totals]
        weights = allocate(THOMPSON.definition, variants)
        new = rng.integers(-(2**63), 2**63, size=size).tolist()
        again = rng.random(size) < returning
        for place in range(size):
            unit = hashes[rng.integers(len(hashes))] if hashes and again[place] else new[place]
            hashes.append(unit)
            variant = bucketing.rendezvous(unit, seeds, weights)
            if variant == 1 and rng.random() < lost:
                continue
            totals[variant] += 1, rng.random() < 0.3
            counted = (every,) if unit in seen else (every, first)
            seen.add(unit)
            for one in counted:
                one[0, variant] += 1
                one[1] += weights
        yield first, every


def drawn(sums):
    return [Drawn(1, variant, int(sums[0, variant]), int(sums[1, variant])) for variant in range(2)]


def test_a_healthy_split_of_sticky_units_is_seldom_called_broken_however_often_one_looks():
    """200 bandits, looked at after each batch: at most 1 % are ever called broken, but for chance (1e-6).

    Counting all assignments of a unit, as if each had been drawn for, has to fail this gate.
    """
    rng = np.random.default_rng(20260301)
    runs, alarms = 200, np.zeros(2, int)
    for _ in range(runs):
        broken = np.zeros(2, bool)
        for counts in replay(rng, batches=10, size=60, returning=0.9):
            broken |= [split_of(observed(THOMPSON, drawn(one))).severity == "broken" for one in counts]
        alarms += broken
    limit = binom.ppf(1 - 1e-6, runs, SAMPLE_RATIO_ALPHA)
    assert alarms[0] <= limit
    assert alarms[1] > limit, "the planted bug has to be seen"


def test_losing_five_percent_of_one_variants_exposures_is_found():
    rng = np.random.default_rng(20260302)
    counted = replay(rng, batches=25, size=4_000, returning=0.1, lost=0.05)
    looks = [split_of(observed(THOMPSON, drawn(first))) for first, _ in counted]
    assert looks[0].severity == "fine"
    assert looks[-1].severity == "broken"
    assert "fewer" in looks[-1].detail or "more" in looks[-1].detail


def test_the_sums_of_first_exposures_are_what_is_tested():
    """Two units at 1/2 and one at 1/8: sums 9/8 and 15/8, by hand."""
    sums = np.array([[2, 1], [9 * WHOLE // 8, 15 * WHOLE // 8]], object)
    exact = ArmCounts.from_sums([2, 1], [Fraction(9, 8), Fraction(15, 8)])
    assert observed(THOMPSON, drawn(sums)).assignments == [exact]
    assert split_of(observed(THOMPSON, drawn(sums))).p_value == pytest.approx(evalue([exact]).p_value)
    nothing = [Drawn(1, 0, 0, 0), Drawn(1, 1, 0, 0)]
    assert split_of(observed(THOMPSON, nothing)).severity == "unknown"


def crossing(n, crossed, experiment):
    measures = measures_of((), experiment.definition.plan, "unit")
    none = CellTotals.none(measures)
    return [
        UnitCell(1, variant, "", kind, CellTotals(count, none.metrics))
        for variant in range(2)
        for kind, count in ((False, n), (True, crossed))
    ]


def crossovers_of(experiment, crossed=50):
    found = findings(observed(experiment, units=crossing(500, crossed, experiment)))
    return next(one for one in found if one.kind == "crossovers")


def test_units_move_with_the_weights_and_that_is_no_fault():
    assert crossovers_of(THOMPSON).severity == "note"
    fixed = experiment_of(FixedPolicy({"control": 0.5, "other": 0.5}))
    assert crossovers_of(fixed).severity == "broken"


TREATED = [("exclude", "are left out"), ("first", "count for their first")]


@pytest.mark.parametrize(("treated", "words"), TREATED)
def test_crossovers_are_found_however_they_are_treated(treated, words):
    fixed = experiment_of(FixedPolicy({"control": 0.5, "other": 0.5}))
    plan = msgspec.structs.replace(fixed.definition.plan, crossovers=treated)
    changed = msgspec.structs.replace(fixed, definition=msgspec.structs.replace(fixed.definition, plan=plan))
    found = crossovers_of(changed)
    assert (found.severity, found.size) == ("broken", pytest.approx(100 / 1_100))
    assert words in found.detail
