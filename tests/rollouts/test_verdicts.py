"""What totals say: harm, safe, or not enough data."""

import math
from datetime import timedelta

import msgspec
import numpy as np
import pytest

from app.analysis.harm.question import Baseline
from app.analysis.integrity import Finding
from app.analysis.observed import Cell
from app.experiments.metrics import Margin, Mean, Metric, Proportion
from app.rollouts import limits
from app.rollouts.model import Guardrail, Limit, Primary
from app.rollouts.verdicts import read, start_level
from stats.totals import JointTotals, MeanTotals, ProportionTotals
from tests.rollouts.support import (
    DAY,
    ERRORS,
    LATENCY,
    LIMIT,
    START,
    TAIL,
    cell,
    observed_of,
    plan_of,
    running,
)


def reading_of(plan, *cells, epoch=1, at=DAY, findings=(), as_of=START + DAY, **changes):
    observed = observed_of(*cells, **changes)
    return read(plan, running(epoch=epoch), observed, findings=findings, now=START + at, as_of=as_of)


def verdicts(reading):
    return {one.metric: one.verdict for one in reading.guardrails}


def proportion_cells(old, new, key="error_rate", epoch=1):
    return [
        Cell(epoch, variant, n, {key: ProportionTotals(n, successes)})
        for variant, (n, successes) in (("old", old), ("new", new))
    ]


def mean_cells(key, old, new, epoch=1):
    return [Cell(epoch, name, totals.n, {key: totals}) for name, totals in (("old", old), ("new", new))]


def test_a_healthy_canary_is_safe_once_there_is_enough(rng):
    few = reading_of(plan_of(), cell(rng, "old", 6_000), cell(rng, "new", 60))
    assert set(verdicts(few).values()) == {"not_enough_data"}
    assert not any(one.missing for one in few.guardrails)
    enough = reading_of(plan_of(), cell(rng, "old", 300_000), cell(rng, "new", 3_000))
    assert set(verdicts(enough).values()) == {"safe"}
    assert enough.stage_units == {"new": 3_000}
    assert all(one.units_left == 0 for one in enough.guardrails)


@pytest.mark.parametrize(
    ("metric", "regression", "units"),
    [
        ("error_rate", {"error": 0.05}, 800),
        ("latency", {"slower": 1.3}, 200),
        ("latency_p95", {"sigma": 0.9}, 1_500),  # the mean is the same, only the tail is longer
    ],
)
def test_each_regression_is_harm_by_the_guardrail_that_is_for_it(rng, metric, regression, units):
    found = reading_of(plan_of(), cell(rng, "old", 100 * units), cell(rng, "new", units, **regression))
    assert verdicts(found)[metric] == "harm"
    one = next(one for one in found.guardrails if one.metric == metric)
    assert one.harm.proven
    assert one.effect > 0


def test_a_canary_that_is_better_is_never_harm(rng):
    better = {"error": 0.002, "slower": 0.8, "sigma": 0.4}
    found = reading_of(plan_of(), cell(rng, "old", 90_000), cell(rng, "new", 9_000, **better))
    assert set(verdicts(found).values()) == {"safe"}


def test_what_is_surely_worse_but_surely_by_less_than_the_margin_is_safe():
    cells = mean_cells("latency", MeanTotals(10**6, 1.0, 10**6), MeanTotals(10**6, 1.03, 10**6))
    one = reading_of(plan_of(LATENCY), *cells).guardrails[0]
    assert one.verdict == "safe"
    assert one.harm.proven
    assert 0 < one.interval[0] < one.interval[1] < 0.1


def test_levels_of_all_starts_together_are_at_most_the_guardrails_own():
    levels = [start_level(0.01, position) for position in range(1, 10_000)]
    assert levels[:3] == pytest.approx([0.008, 0.001, 0.01 / 30])
    assert levels == sorted(levels, reverse=True)
    assert 0.0099 < math.fsum(levels) <= 0.01


def test_alpha_is_divided_among_guardrails_and_canaries(rng):
    cells = [cell(rng, variant, 5_000) for variant in ("old", "new", "other")]
    observed = observed_of(*cells, variants=("old", "new", "other"))
    plan = plan_of(canaries=("new", "other"))
    found = read(
        plan,
        running(canaries=("new", "other")),
        observed,
        findings=(),
        now=START + DAY,
        as_of=START + DAY,
    )
    assert len(found.guardrails) == 6
    assert [one.harm.level for one in found.guardrails] == pytest.approx([0.8 * 0.01 / 6] * 6)
    assert {one.safe.level for one in found.guardrails} == {0.05}


def test_a_canary_that_breaks_in_a_later_epoch_is_not_hidden_by_healthy_ones(rng):
    healthy = [cell(rng, "old", 990_000), cell(rng, "new", 10_000)]
    broken = [cell(rng, "old", 19_000, epoch=2), cell(rng, "new", 1_000, epoch=2, error=0.04)]
    alone = reading_of(plan_of(ERRORS), *healthy, *broken, epoch=2).guardrails[0]
    assert alone.verdict == "harm"
    assert alone.harm.since_epoch == 2
    merged = [
        Cell(
            1,
            variant,
            0,
            {"error_rate": sum((c.metrics["error_rate"] for c in pair[1:]), pair[0].metrics["error_rate"])},
        )
        for variant, pair in (("old", (healthy[0], broken[0])), ("new", (healthy[1], broken[1])))
    ]
    assert reading_of(plan_of(ERRORS), *merged).guardrails[0].verdict != "harm"


def test_a_stage_that_was_cut_into_epochs_is_safe_by_all_of_them(rng):
    cells = [cell(rng, *arm, epoch=epoch) for epoch in (1, 2, 3) for arm in (("old", 19_000), ("new", 700))]
    found = reading_of(plan_of(), *cells)
    assert set(verdicts(found).values()) == {"safe"}
    assert {one.canary_units for one in found.guardrails} == {2_100}
    last = reading_of(plan_of(), *cells[4:], epoch=3)
    assert set(verdicts(last).values()) != {"safe"}


def test_tails_that_break_in_a_later_epoch_of_a_stage_are_harm(rng):
    cells = [cell(rng, "old", 99_000), cell(rng, "new", 1_000)]
    cells += [cell(rng, "old", 99_000, epoch=2), cell(rng, "new", 1_500, epoch=2, sigma=1.0)]
    found = reading_of(plan_of(), *cells).guardrails[2]
    assert (found.verdict, found.harm.since_epoch) == ("harm", 2)


def test_a_stage_is_safe_by_its_own_data_only(rng):
    earlier = [cell(rng, "old", 300_000), cell(rng, "new", 3_000)]
    started = [cell(rng, "old", 1_900, epoch=2), cell(rng, "new", 100, epoch=2)]
    found = reading_of(plan_of(), *earlier, *started, epoch=2)
    assert set(verdicts(found).values()) == {"not_enough_data"}
    assert found.stage_units == {"new": 100}


def test_a_shift_of_the_baseline_between_stages_is_not_harm():
    # Errors are ten times as frequent in the second epoch, in which the canary has most of its units.
    cells = proportion_cells((100_000, 100), (1_000, 1)) + proportion_cells(
        (75_000, 750), (25_000, 250), epoch=2
    )
    one = reading_of(plan_of(ERRORS), *cells).guardrails[0]
    assert one.verdict == "safe"
    assert one.effect == pytest.approx(0, abs=1e-6)


def test_no_error_at_all_is_safe_once_there_are_enough_units():
    few = reading_of(plan_of(ERRORS), *proportion_cells((9_900, 0), (100, 0)))
    many = reading_of(plan_of(ERRORS), *proportion_cells((99_000, 0), (1_000, 0)))
    assert verdicts(few) == {"error_rate": "not_enough_data"}
    assert verdicts(many) == {"error_rate": "safe"}
    assert many.guardrails[0].interval[0] is not None


def test_swapping_both_variants_turns_harm_into_safety():
    counts = (50_000, 500), (50_000, 2_500)
    bad = reading_of(plan_of(ERRORS), *proportion_cells(*counts)).guardrails[0]
    good = reading_of(plan_of(ERRORS), *proportion_cells(*counts[::-1])).guardrails[0]
    assert (bad.verdict, good.verdict) == ("harm", "safe")
    assert bad.effect == pytest.approx(-good.effect)


RATES = [
    # (baseline, margin, direction): bad outcomes are counted where they are rare, else means are compared
    (Baseline(0.98, 0.14), Margin(0.02, relative=True), "higher", "counts"),
    (Baseline(0.5, 0.5), Margin(0.05), "higher", "means"),
    (Baseline(0.05, 0.22), Margin(0.15, relative=True), "lower", "counts"),
    (None, Margin(0.02), "lower", "counts"),
    (None, Margin(0.1), "higher", "means"),
]


@pytest.mark.parametrize(("baseline", "margin", "direction", "method"), RATES)
def test_proportions_are_compared_whichever_outcome_is_bad(baseline, margin, direction, method):
    metric = Metric(key="ok", measure=Proportion("ok"), role="guardrail", direction=direction, margin=margin)
    plan = plan_of(Guardrail(metric=metric, baseline=baseline))
    rate = 0.3 if baseline is None else baseline.mean
    n, sign = 400_000, 1 if direction == "lower" else -1
    reach = margin.size * (rate if margin.relative else 1)
    for worsening, verdict in ((0.0, "safe"), (0.3, "safe"), (1.7, "harm"), (-1.0, "safe")):
        successes = round(n * (rate + sign * worsening * reach))
        one = reading_of(plan, *proportion_cells((n, round(n * rate)), (n, successes), key="ok")).guardrails[
            0
        ]
        assert one.verdict == verdict, (worsening, one)
        assert method in one.method
        effect = sign * worsening * (margin.size if margin.relative else reach)
        assert one.effect == pytest.approx(effect, abs=2e-5)
        assert one.interval[0] < one.effect < one.interval[1]


@pytest.mark.parametrize("direction", ["higher", "lower"])
@pytest.mark.parametrize("margin", [Margin(0.1, relative=True), Margin(0.7)])
@pytest.mark.parametrize("test", ["sequence", "sprt"])
def test_means_are_compared_in_both_directions_and_on_both_scales(direction, margin, test):
    metric = Metric(key="score", measure=Mean("score"), role="guardrail", direction=direction, margin=margin)
    plan = plan_of(Guardrail(metric=metric, baseline=Baseline(7.0, 2.0), test=test))
    sign = 1 if direction == "lower" else -1
    for worsening, verdict in ((0.0, "safe"), (1.4, "harm"), (-1.0, "safe")):
        new = MeanTotals(5_000, 7.0 + sign * worsening * 0.7, 4.0 * 4_999)
        one = reading_of(plan, *mean_cells("score", MeanTotals(50_000, 7.0, 4.0 * 49_999), new)).guardrails[0]
        assert one.verdict == verdict, (worsening, one)
        assert one.relative == margin.relative


def test_the_sprt_of_two_proportions_decides_at_walds_limits():
    # Log ratio of 0.03 to 0.01 in the canary, beside an endless control: 22 log 3 + 378 log(0.97 / 0.99).
    sprt = msgspec.structs.replace(ERRORS, test="sprt")
    one = reading_of(plan_of(sprt), *proportion_cells((10**9, 10**7), (400, 22))).guardrails[0]
    assert one.verdict == "harm"
    assert one.harm.statistic == pytest.approx(22 * math.log(3) + 378 * math.log(0.97 / 0.99), rel=1e-3)
    # A tenth of both levels belongs to the tests beside it.
    assert one.harm.threshold == pytest.approx(math.log(0.955 / 0.0072))
    assert one.safe.threshold == pytest.approx(math.log((1 - 0.0072) / 0.045))


def test_outcomes_that_are_known_of_no_unit_are_missing_once_they_should_be_known(rng):
    silent = Cell(1, "new", 500, {})
    early = reading_of(plan_of(ERRORS), cell(rng, "old", 99), silent, at=timedelta(hours=1))
    assert not early.guardrails[0].missing
    late = reading_of(plan_of(ERRORS), cell(rng, "old", 99), silent, at=DAY)
    assert late.guardrails[0].missing
    at_once = reading_of(plan_of(ERRORS), cell(rng, "old", 5_000), silent, at=timedelta(hours=1))
    assert at_once.guardrails[0].missing


def test_a_canary_whose_outcomes_are_known_half_as_often_as_the_controls_is_missing_them():
    cells = [
        Cell(1, "old", 10_000, {"error_rate": ProportionTotals(9_000, 90)}),
        Cell(1, "new", 1_000, {"error_rate": ProportionTotals(400, 4)}),
    ]
    assert reading_of(plan_of(ERRORS), *cells).guardrails[0].missing
    cells[1] = Cell(1, "new", 1_000, {"error_rate": ProportionTotals(500, 5)})
    assert not reading_of(plan_of(ERRORS), *cells).guardrails[0].missing


def test_harm_is_seen_although_other_outcomes_are_missing(rng):
    new = cell(rng, "new", 1_000, slower=2.0)
    holed = Cell(1, "new", 1_000, {"latency": new.metrics["latency"]})
    found = reading_of(plan_of(ERRORS, LATENCY), cell(rng, "old", 9_000), holed)
    assert verdicts(found)["latency"] == "harm"
    assert found.guardrails[0].missing


@pytest.mark.parametrize(
    ("old", "new", "tripped"),
    [
        ((5_000, 50), (60, 30), True),
        ((5_000, 50), (60, 12), False),  # below the limit
        ((5_000, 50), (40, 30), False),  # too few units
        ((5_000, 2_500), (60, 30), False),  # an outage of everything
    ],
)
def test_a_limit_trips_on_catastrophes_of_the_canary_alone(old, new, tripped):
    plan = plan_of(ERRORS, limits=(LIMIT,))
    assert reading_of(plan, *proportion_cells(old, new)).limits[0].tripped is tripped


def test_a_limit_looks_at_the_newest_epoch(rng):
    plan = plan_of(ERRORS, LATENCY, limits=(Limit("latency", 3.0, 50),))
    cells = [cell(rng, "old", 10_000), cell(rng, "new", 9_000)]
    cells += [cell(rng, "old", 900, epoch=2), cell(rng, "new", 60, epoch=2, slower=4.0)]
    assert reading_of(plan, *cells, epoch=2).limits[0].tripped


def test_the_primary_metric_is_shown_by_all_data_of_the_rollout():
    metric = Metric(key="score", measure=Mean("score"), role="primary", margin=Margin(0.2))
    cells = [
        *mean_cells("score", MeanTotals(9_000, 5.0, 9_000.0), MeanTotals(1_000, 5.1, 1_000.0)),
        *mean_cells("score", MeanTotals(9_000, 5.0, 9_000.0), MeanTotals(1_000, 5.1, 1_000.0), epoch=2),
    ]
    for size, test, shown in (
        (0.2, "non_inferior", True),
        (0.001, "superior", True),
        (0.2, "superior", True),
    ):
        primary = Primary(metric=msgspec.structs.replace(metric, margin=Margin(size)), test=test)
        one = reading_of(plan_of(ERRORS, primary=primary), *cells, epoch=2).primary[0]
        assert one.shown is shown
        assert one.effect == pytest.approx(0.1)
    same = mean_cells("score", MeanTotals(9_000, 5.0, 9_000.0), MeanTotals(1_000, 5.0, 1_000.0))
    for test, shown in (("superior", False), ("non_inferior", True)):
        primary = Primary(metric=metric, test=test)
        assert reading_of(plan_of(ERRORS, primary=primary), *same).primary[0].shown is shown


def test_secondary_metrics_are_shown_and_decide_nothing(rng):
    secondary = msgspec.structs.replace(LATENCY.metric, role="secondary")
    found = reading_of(
        plan_of(ERRORS, secondary=(secondary,)), cell(rng, "old", 9_000), cell(rng, "new", 9_000, slower=1.5)
    )
    assert found.secondary[0].variants[1].verdict == "harm"
    assert verdicts(found) == {"error_rate": "safe"}


def test_age_of_data_and_findings_are_passed_on(rng):
    finding = Finding(kind="a_a", severity="broken", detail="the A/A test failed")
    found = reading_of(
        plan_of(ERRORS),
        cell(rng, "old", 900),
        cell(rng, "new", 900),
        findings=(finding,),
        as_of=START + DAY - timedelta(seconds=40),
    )
    assert found.data_age_s == 40
    assert found.integrity == (finding,)
    assert reading_of(plan_of(ERRORS), cell(rng, "old", 9), as_of=None).data_age_s is None


def test_the_time_to_an_answer_is_about_right(rng):
    """What is left at 150 units is, in the middle, about what it takes."""
    left = []
    for _ in range(20):
        one = reading_of(plan_of(LATENCY), cell(rng, "old", 15_000), cell(rng, "new", 150)).guardrails[0]
        if one.verdict == "not_enough_data":
            left.append(one.units_left)
            assert one.seconds_left == pytest.approx(one.units_left / 150 * 86_400)
    assert 50 <= np.median(left) <= 1_500


@pytest.mark.parametrize("test", ["sequence", "sprt"])
def test_totals_beside_covariates_say_the_same(test):
    guardrail = msgspec.structs.replace(ERRORS, test=test)
    counts = {"old": (50_000, 500), "new": (5_000, 170)}
    plain = proportion_cells(counts["old"], counts["new"])
    joint = [
        Cell(1, arm, n, {"error_rate": JointTotals(n, (k / n, 0.0), (k * (1 - k / n), 0.0, 0.0))})
        for arm, (n, k) in counts.items()
    ]
    one, other = (reading_of(plan_of(guardrail), *cells).guardrails[0] for cells in (plain, joint))
    assert one.verdict == other.verdict == "harm"
    assert one.harm.statistic == pytest.approx(other.harm.statistic)


def test_segments_are_parts_of_one_whole(rng):
    whole = [cell(rng, "old", 3_000), cell(rng, "new", 3_000)]
    parts = [
        msgspec.structs.replace(one, segment=segment) for one in whole for segment in ("mobile", "desktop")
    ]
    doubled = reading_of(plan_of(ERRORS), *parts)
    assert doubled.stage_units == {"new": 6_000}
    assert doubled.guardrails[0].canary_units == 6_000


def test_many_epochs_start_evidence_at_the_first_and_the_newest(rng):
    cells = []
    for epoch in range(1, 101):
        cells += proportion_cells((900, 9), (100, 1), epoch=epoch)
    cells += proportion_cells((900, 9), (300, 60), epoch=101)
    one = reading_of(plan_of(ERRORS), *cells, epoch=50).guardrails[0]
    assert one.verdict == "harm"
    assert one.harm.since_epoch in (1, *range(101 - limits.ROLLOUT_EPOCHS_MAX, 102))


def test_a_canary_is_not_blamed_for_the_rollback_of_another(rng):
    """Of two canaries one was taken back, and its traffic went to the control, as everything became faster.

    Pooled over both periods the canary would have had more of the slow one: 50 % against 25 % of its units.
    """
    plan = plan_of(TAIL, canaries=("new", "newer"))
    slow = [
        cell(rng, "old", 4_000, slower=2.0),
        cell(rng, "new", 8_000, slower=2.0),
        cell(rng, "newer", 8_000, slower=4.0),
    ]
    healthy = [cell(rng, "old", 12_000, epoch=2), cell(rng, "new", 8_000, epoch=2)]
    broken = [healthy[0], cell(rng, "new", 8_000, epoch=2, slower=1.5)]
    for cells, verdict in ((slow + healthy, "safe"), (slow + broken, "harm")):
        found = read(
            plan,
            running(canaries=("new",)),
            observed_of(*cells, variants=("old", "new", "newer")),
            findings=(),
            now=START + DAY,
            as_of=START + DAY,
        )
        assert verdicts(found) == {"latency_p95": verdict}
    planted = read(  # as if both periods had had the same shares
        plan_of(TAIL),
        running(),
        observed_of(*slow[:2], *healthy),
        findings=(),
        now=START + DAY,
        as_of=START + DAY,
    )
    assert verdicts(planted) == {"latency_p95": "harm"}
