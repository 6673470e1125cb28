"""The readout from totals: verdicts, corrections, epochs, bandits, integrity and what is recommended."""

from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from scipy import special
from scipy.stats import binom
from statsmodels.stats.multitest import multipletests

from app.analysis.evidence.comparison import compare
from app.analysis.evidence.effect import BoundedEvidence, SequenceEvidence, Tuning
from app.analysis.evidence.planned import FixedEvidence
from app.analysis.observed import Cell, DrawnUnits, Observed
from app.analysis.readout.analyze import analyze, verdict
from app.analysis.readout.leader import excludes_zero
from app.experiments.metrics import Margin, Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.plan import AnalysisPlan, FixedHorizon, GroupSequential
from stats import bounded
from stats.concurrent import drawn_alike
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.interval import Interval
from stats.means import mean_difference
from stats.multiplicity import family_level
from stats.quantiles import QuantileSketch
from stats.sequences import Contrast
from stats.srm import ArmCounts
from stats.stratification import Stratum, pooled
from stats.totals import JointTotals, MeanTotals, ProportionTotals
from stats.variance_reduction import CovariateAdjustment
from tests.support.plans import at_its_horizon

PRIMARY = Metric(key="m", measure=Mean("m"), role="primary")
SOLVED = Metric(key="m", measure=Proportion("m"), role="primary")
PLAN = AnalysisPlan()
FIXED = AnalysisPlan(estimator=FixedHorizon())


def observed(*arms, variants=("a", "b"), **more):
    """One epoch, the arms' totals of metric m."""
    cells = [Cell(1, v, totals.n, {"m": totals}) for v, totals in zip(variants, arms, strict=True)]
    return Observed(variants=variants, control=variants[0], cells=cells, **more)


def shown(plan, metric, data, variant=1):
    return analyze(at_its_horizon(plan, data), [metric], data).metrics[0].variants[variant]


@pytest.mark.parametrize(
    ("direction", "margin", "interval", "expected"),
    [
        ("higher", None, (0.01, 0.05), "better"),
        ("higher", None, (-0.05, -0.01), "harm"),
        ("higher", None, (-0.01, 0.05), "not_enough_data"),
        ("lower", None, (-0.05, -0.01), "better"),
        ("lower", None, (0.01, 0.05), "harm"),
        ("lower", Margin(0.1), (0.01, 0.05), "safe"),
        ("lower", Margin(0.1), (0.12, 0.3), "harm"),
        ("lower", Margin(0.1), (-0.02, 0.3), "not_enough_data"),
        ("higher", Margin(0.1), (-0.05, 0.2), "safe"),
        ("higher", None, (0.0, 0.05), "not_enough_data"),
    ],
)
def test_the_verdict_is_read_off_the_interval(direction, margin, interval, expected):
    metric = Metric(key="m", measure=Mean("m"), direction=direction, margin=margin)
    assert verdict(metric, Interval(*interval), None) == expected


def test_a_relative_margin_is_judged_on_the_relative_interval_and_never_guessed():
    metric = Metric(key="m", measure=Mean("m"), margin=Margin(0.1, relative=True), role="guardrail")
    assert verdict(metric, Interval(-5, 5), Interval(-0.05, 0.05)) == "safe"
    assert verdict(metric, Interval(-5, 5), None) == "not_enough_data"
    assert verdict(metric, None, None) == "not_enough_data"


def test_definitions_that_mean_nothing_are_not_made():
    with pytest.raises(ValueError, match="needs a margin"):
        Metric(key="m", measure=Mean("m"), role="guardrail")
    with pytest.raises(ValueError, match="lower bound"):
        Mean("m", (1.0, 0.0))
    with pytest.raises(ValueError, match="end with 1"):
        GroupSequential((0.5, 0.9))
    with pytest.raises(ValueError, match="increase"):
        GroupSequential((0.5, 0.5, 1.0))
    with pytest.raises(ValueError, match="not one of"):
        Observed(variants=("a", "b"), control="c", cells=[])
    with pytest.raises(ValueError, match="two or more"):
        Observed(variants=("a",), control="a", cells=[])


def fixed_with(p_value):
    z = -float(special.ndtri(p_value / 2))
    return FixedEvidence(Estimate(z, 1.0), Estimate(z, 1.0), None, (0.0, z))


@given(st.lists(st.floats(1e-8, 1 - 1e-8), min_size=1, max_size=12))
def test_intervals_at_the_family_level_exclude_zero_exactly_for_the_findings_of_bh(p_values):
    members = [fixed_with(p) for p in p_values]
    level = family_level([partial(excludes_zero, member) for member in members], 0.05, "benjamini-hochberg")
    found = [member.interval(level).lower > 0 for member in members]
    adjusted = multipletests(p_values, method="fdr_bh")[1]
    close = any(abs(p - 0.05) < 1e-6 for p in adjusted)
    assert close or found == [p <= 0.05 for p in adjusted]


def contrast(effect):
    return Contrast.of((MeanTotals(500, 1.0, 500.0), MeanTotals(500, 1.0 + effect, 500.0)))


@given(st.floats(-0.6, 0.6), st.sampled_from([0.05, 0.01, 0.0125, 0.2]))
def test_the_e_value_reaches_one_over_the_level_exactly_where_the_interval_excludes_zero(effect, level):
    exact = BoundedEvidence(
        MeanTotals(400, 0.5, 100.0), MeanTotals(300, 0.5 + effect * 0.8, 70.0), 0.0, 2.0, Tuning(300, 0.025)
    )
    for evidence in (SequenceEvidence(contrast(effect), Tuning(250, 0.05)), exact):
        interval = evidence.interval(level)
        if min(abs(interval.lower), abs(interval.upper)) > 1e-7:
            assert (interval.lower > 0 or interval.upper < 0) == evidence.e_value.rejects(level)


def test_a_fixed_plan_gives_welch_and_the_score_test():
    arms = MeanTotals(40, 1.0, 50.0), MeanTotals(60, 1.4, 90.0)
    found = shown(FIXED, PRIMARY, observed(*arms))
    reference = mean_difference(arms[1], arms[0])
    interval = reference.interval(alpha=0.05)
    assert found.interval == pytest.approx((interval.lower, interval.upper))
    assert found.p_value == pytest.approx(reference.test().p_value)
    # R 4.3: prop.test(c(60, 40), c(200, 200), correct = FALSE)$p.value
    rare = shown(FIXED, SOLVED, observed(ProportionTotals(200, 40), ProportionTotals(200, 60)))
    assert rare.p_value == pytest.approx(0.02092134, rel=1e-5)


def test_covariates_narrow_the_interval_as_cuped_does():
    rng = np.random.default_rng(20260101)
    arms = []
    for n, shift in ((2_000, 0.0), (2_500, 0.2)):
        x = rng.normal(5.0, 1.0, n)
        arms.append(JointTotals.from_observations(np.stack((shift + x + rng.normal(size=n), x), axis=1)))
    found = shown(FIXED, PRIMARY, observed(*arms, covariates=("x",)))
    adjustment = CovariateAdjustment.fit(arms)
    reference = mean_difference(adjustment.apply(arms[1]), adjustment.apply(arms[0]))
    assert found.effect == pytest.approx(reference.value)
    interval = reference.interval(alpha=0.05)
    assert found.interval == pytest.approx((interval.lower, interval.upper), rel=1e-3)
    assert found.variance_reduction == pytest.approx(0.5, abs=0.05)
    assert found.control_estimate == pytest.approx(5.0, abs=0.1)  # on the scale of the outcome


def test_a_ramp_under_a_drifting_baseline_shows_no_effect_where_there_is_none():
    rng = np.random.default_rng(20260102)
    cells, strata = [], []
    for epoch, (share, base) in enumerate([(0.01, 0.05), (0.05, 0.15), (0.25, 0.30)], start=1):
        n_t = int(40_000 * share)
        pair = [ProportionTotals(n, int(rng.binomial(n, base))) for n in (40_000 - n_t, n_t)]
        cells += [Cell(epoch, v, t.n, {"m": t}) for v, t in zip("ab", pair, strict=True)]
        strata.append(Stratum(pair[1].moments, pair[0].moments))
    data = Observed(variants=("a", "b"), control="a", cells=cells)
    both = pooled(strata)
    naive = mean_difference(both.treatment, both.control).interval(alpha=0.05)
    assert naive.lower > 0.05  # Simpson's paradox: surely "better"
    for plan in (PLAN, FIXED):
        found = shown(plan, SOLVED, data)
        assert found.verdict == "not_enough_data"
        assert abs(found.effect) < 0.01


def peeking_decisions(plan, replays, seed):
    """How many A/A experiments are ever decided when looked at six times."""
    rng = np.random.default_rng(20260101 + seed)
    decided = 0
    for _ in range(replays):
        counts = rng.binomial(600, 0.1, (2, 6)).cumsum(axis=1)
        looks = (
            shown(plan, SOLVED, observed(*(ProportionTotals(600 * (k + 1), int(c[k])) for c in counts)))
            for k in range(6)
        )
        decided += any(look.verdict in ("better", "harm") for look in looks)
    return decided


def test_peeking_at_a_readout_keeps_alpha_and_at_a_fixed_one_does_not():
    replays = 150
    limit = binom.ppf(1 - 1e-6, replays, 0.05)
    plan = AnalysisPlan(expected_units=8_000)
    assert peeking_decisions(plan, replays, 1) <= limit
    assert peeking_decisions(FIXED, replays, 1) > limit  # planted bug


def test_a_bandit_without_effect_is_seldom_decided_while_the_level_drifts():
    """Thompson sampling on two equal arms, looked at after each of ten batches. The rate rises by 0.05."""
    rng, replays, decided = np.random.default_rng(20260103), 200, 0
    metric = Metric(key="m", measure=Mean("m", (0.0, 1.0)), role="primary")
    for _ in range(replays):
        n, s, ever = np.zeros(2, int), np.zeros(2, int), False
        drawn = []
        for batch in range(10):
            draws = rng.beta(1 + s, 1 + n - s, (200, 2))
            share = 0.05 + 0.9 * (draws[:, 1] > draws[:, 0]).mean()
            pulls = np.array((0, rng.binomial(200, share)))
            pulls[0] = 200 - pulls[1]
            hits = rng.binomial(pulls, 0.1 + 0.05 * batch)
            n, s = n + pulls, s + hits
            drawn += [
                DrawnUnits(1, batch, arm, {"m": drawn_alike(MeanTotals.from_sums(*sums), propensity=p)})
                for arm, *sums, p in zip(
                    "ab", pulls.tolist(), hits.tolist(), hits.tolist(), (1 - share, share), strict=True
                )
            ]
            arms = (MeanTotals.from_sums(int(k), int(x), int(x)) for k, x in zip(n, s, strict=True))
            data = structs.replace(observed(*arms, adaptive=True), drawn=list(drawn))
            with suppress(InsufficientData):
                interval = compare(metric, PLAN, data, "b").evidence.interval(0.05)
                ever = ever or interval.lower > 0 or interval.upper < 0
        decided += ever
    assert decided <= binom.ppf(1 - 1e-6, replays, 0.05)


def test_where_a_bandit_allocates_only_valid_methods_answer():
    arms = MeanTotals(400, 1.0, 400.0), MeanTotals(900, 1.1, 900.0)
    capped = Metric(key="m", measure=Mean("m", (0.0, 10.0)), role="primary")
    for metric in (PRIMARY, capped):
        found = shown(PLAN, metric, observed(*arms, adaptive=True))
        assert found.verdict == "not_enough_data"
        assert "reacts to outcomes" in found.reason
        assert found.interval is None
    drawn = [
        DrawnUnits(1, 35, arm, {"m": drawn_alike(totals, propensity=share)})
        for arm, totals, share in zip("ab", arms, (0.3, 0.7), strict=True)
    ]
    data = structs.replace(observed(*arms, adaptive=True), drawn=drawn)
    found = analyze(FIXED, [PRIMARY], data).metrics[0]
    assert found.method == "confidence sequence from logged propensities, stratified by shares"
    assert found.variants[1].effect == pytest.approx(0.1, abs=0.01)


def test_missing_is_missing():
    nothing = analyze(PLAN, [SOLVED], observed(ProportionTotals(), ProportionTotals(50, 10)))
    _, treatment = nothing.metrics[0].variants
    assert (treatment.verdict, treatment.effect, treatment.interval, treatment.e_value) == (
        "not_enough_data",
        None,
        None,
        None,
    )
    assert treatment.reason
    cells = [Cell(1, v, 1_000, {"m": ProportionTotals(n, n // 2)}) for v, n in (("a", 1_000), ("b", 700))]
    some = Observed(variants=("a", "b"), control="a", cells=cells)
    assert shown(PLAN, SOLVED, some).missing == 300
    none_spread = shown(PLAN, PRIMARY, observed(MeanTotals(900, 2.0, 0.0), MeanTotals(900, 2.0, 0.0)))
    assert none_spread.verdict == "not_enough_data"
    assert none_spread.p_value is None
    assert (none_spread.estimate, none_spread.effect, none_spread.interval) == (2.0, 0.0, None)
    assert "no spread" in none_spread.reason


def test_a_billion_units_and_identical_arms_have_their_limits():
    big = ProportionTotals(10**9, 10**8)
    found = shown(PLAN, SOLVED, observed(big, big))
    assert found.effect == 0
    assert found.interval[1] == -found.interval[0] < 1e-3
    better = shown(PLAN, SOLVED, observed(big, ProportionTotals(10**9, 2 * 10**8)))
    assert better.verdict == "better"
    assert np.isfinite(better.e_value)
    assert 0 < better.p_value < 1e-300


def test_group_sequential_looks_are_counted_by_the_units_that_came():
    plan = AnalysisPlan(estimator=GroupSequential((0.5, 1.0)), expected_units=2_000)
    early = shown(plan, SOLVED, observed(ProportionTotals(300, 30), ProportionTotals(300, 90)))
    assert "first look" in early.reason
    half = analyze(plan, [SOLVED], observed(ProportionTotals(500, 50), ProportionTotals(500, 75)))
    assert "look 1 of 2" in half.metrics[0].method
    # The O'Brien-Fleming boundary at half the information is 2.9626 (gsDesign 3.6, spending, 2 looks); it is
    # wider here, because the look may be read from 48 % of the units on.
    treatment = half.metrics[0].variants[1]
    error = np.sqrt(0.1 * 0.9 / 499 + 0.15 * 0.85 / 499)
    assert 2.9626 < (treatment.interval[1] - treatment.effect) / error < 3.1
    sketch = QuantileSketch.from_observations(np.arange(1.0, 500.0), accuracy=0.01)
    with pytest.raises(InsufficientData, match="group sequential"):
        compare(Metric(key="m", measure=QuantileOf("m")), plan, observed(sketch, sketch), "b")


def test_looks_that_come_at_once_are_one():
    """Planned at 30 % and 31 %; at 30 % of the units both have come, within the tolerance."""
    plan = AnalysisPlan(estimator=GroupSequential((0.30, 0.31, 1.0)), expected_units=10_000)
    found = shown(plan, SOLVED, observed(ProportionTotals(1_500, 300), ProportionTotals(1_500, 450)))
    assert found.verdict == "better"
    with pytest.raises(ValueError, match=r"by at least 0\.01"):
        GroupSequential((0.5, 0.500001, 1.0))


def test_a_guardrail_that_nobody_breaks_is_safe_although_there_is_nothing_to_test():
    """0 of 3,000 against 0 of 3,000: the score interval is within 0.0013 of 0, which is an answer."""
    errors = Metric(
        key="m", measure=Proportion("m"), role="guardrail", direction="lower", margin=Margin(0.01)
    )
    found = shown(FIXED, errors, observed(ProportionTotals(3_000, 0), ProportionTotals(3_000, 0)))
    assert (found.verdict, found.p_value) == ("safe", None)
    assert found.interval == (pytest.approx(-0.0009, abs=4e-4), pytest.approx(0.0009, abs=4e-4))


@given(
    n=st.tuples(st.integers(20, 3_000), st.integers(20, 3_000)),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_the_e_value_of_bounded_arms_is_that_of_their_likeliest_common_mean(n, share):
    """No common mean on a fine grid has less evidence against it."""
    control, treatment = (ProportionTotals(m, round(m * s)).moments for m, s in zip(n, share, strict=True))
    found = BoundedEvidence(control, treatment, 0.0, 1.0, Tuning(1_000.0, 0.025))
    weight = max(found.tuning.rho("two-sided") - 1, 0.5)
    p = np.linspace(0.0005, 0.9995, 2_000)
    least = np.min(
        np.maximum(
            *(
                bounded.log_beta_mixture(arm.n * arm.mean, arm.n, p, weight=weight)
                for arm in (control, treatment)
            )
        )
    ) - np.log(2)
    assert found.e_value.log_value <= max(least, 0.0) + 0.01


def test_quantiles_and_ratios_have_intervals_that_hold_the_truth():
    rng = np.random.default_rng(20260104)
    sketches = [
        QuantileSketch.from_observations(scale * rng.lognormal(size=20_000), accuracy=0.001)
        for scale in (1.0, 1.2)
    ]
    metric = Metric(key="m", measure=QuantileOf("m", 0.9), direction="lower", role="primary")
    truth = 0.2 * np.exp(1.2815515594)
    widths = []
    for plan in (FIXED, PLAN):
        found = shown(plan, metric, observed(*sketches))
        assert found.interval[0] < truth < found.interval[1]
        assert found.verdict == "harm"
        widths.append(found.interval[1] - found.interval[0])
    assert widths[1] > widths[0]
    ratio_arms = []
    for rate in (0.2, 0.25):
        sessions = 1 + rng.poisson(3, 5_000)
        pairs = np.stack((rng.binomial(sessions, rate), sessions), axis=1).astype(float)
        ratio_arms.append(JointTotals.from_observations(pairs))
    found = shown(PLAN, Metric(key="m", measure=Ratio("x", "y"), role="primary"), observed(*ratio_arms))
    assert found.interval[0] < 0.05 < found.interval[1]
    assert found.verdict == "better"


def test_segments_are_pooled_as_far_as_they_agree():
    rng = np.random.default_rng(20260105)
    cells = []
    for segment, effect in (("x", 0.0), ("y", 0.1), ("z", 0.2)):
        for variant, shift in (("a", 0.0), ("b", effect)):
            values = MeanTotals.from_observations(rng.normal(1 + shift, 1.0, 3_000))
            cells.append(Cell(1, variant, 3_000, {"m": values}, segment))
    found = shown(PLAN, PRIMARY, Observed(variants=("a", "b"), control="a", cells=cells))
    own = [segment.effect for segment in found.segments]
    pooled_effects = [segment.pooled_effect for segment in found.segments]
    assert np.ptp(pooled_effects) < np.ptp(own)
    assert found.interaction_p_value < 0.01
    assert all(segment.interval[0] < segment.effect < segment.interval[1] for segment in found.segments)


def test_the_best_of_several_is_declared_only_if_it_beats_them_all():
    variants = ("a", "b", "c", "d")
    arms = [ProportionTotals(5_000, s) for s in (500, 900, 880, 300)]
    found = analyze(PLAN, [SOLVED], observed(*arms, variants=variants))
    assert (found.leader.variant, found.leader.declared, found.leader.undecided) == ("b", False, ("c",))
    assert found.recommendation.action == "ship"
    assert any("c" in reason for reason in found.recommendation.reasons)
    assert any("d is worse" in reason for reason in found.recommendation.reasons)
    arms[1] = ProportionTotals(5_000, 1_500)
    assert analyze(PLAN, [SOLVED], observed(*arms, variants=variants)).leader.declared


def test_a_mismatch_decides_nothing_but_never_keeps_harm_alive():
    counts = [ArmCounts((5_000, 4_000), (0.5, 0.5))]
    good = observed(ProportionTotals(5_000, 500), ProportionTotals(4_000, 800), assignments=counts)
    found = analyze(PLAN, [SOLVED], good)
    assert found.recommendation.action == "fix_data"
    assert "Stop" not in found.recommendation.sentence
    bad = observed(ProportionTotals(5_000, 500), ProportionTotals(4_000, 100), assignments=counts)
    assert "Stop b nevertheless" in analyze(PLAN, [SOLVED], bad).recommendation.sentence
    leak = observed(*[ProportionTotals(900, 90)] * 2, assignments=[ArmCounts((900, 900), (1.0, 0.0))])
    assert [f.kind for f in analyze(PLAN, [SOLVED], leak).integrity if f.severity == "broken"] == [
        "zero_weight"
    ]
    crossed = observed(*[ProportionTotals(900, 90)] * 2, crossovers=100)
    assert analyze(PLAN, [SOLVED], crossed).recommendation.action == "fix_data"


def test_a_guardrail_stands_alone_and_bars_the_way():
    latency = Metric(
        key="g", measure=Mean("g"), role="guardrail", direction="lower", margin=Margin(0.1, relative=True)
    )

    def data(slow):
        cells = [
            Cell(1, v, 5_000, {"m": ProportionTotals(5_000, s), "g": MeanTotals(5_000, mean, 5_000.0)})
            for v, s, mean in (("a", 500, 2.0), ("b", 900, slow))
        ]
        return Observed(variants=("a", "b"), control="a", cells=cells)

    metrics = [SOLVED, latency, *(Metric(key=f"s{k}", measure=Mean("m")) for k in range(30))]
    healthy = analyze(PLAN, metrics, data(2.05))
    assert healthy.metrics[1].variants[1].verdict == "safe"
    assert healthy.metrics[1].variants[1].level == 0.05  # thirty more metrics take nothing from it
    assert healthy.recommendation.action == "ship"
    slow = analyze(PLAN, metrics, data(2.5))
    assert slow.metrics[1].variants[1].verdict == "harm"
    assert slow.recommendation.action == "keep_control"
    open_one = analyze(PLAN, metrics, data(2.18))
    assert open_one.recommendation.action in ("wait", "stop_variant", "keep_control")


def test_progress_says_how_long_it_will_take():
    arms = MeanTotals(2_000, 1.0, 2_000.0), MeanTotals(2_000, 1.01, 2_000.0)
    plan = AnalysisPlan(minimum_effect=0.1, expected_units=8_000)
    progress = analyze(plan, [PRIMARY], observed(*arms, days=4.0)).progress
    assert progress.share == 0.5
    # A sequence tuned to just them would need 9.21 / 0.1^2 * 4 = 3,700 units.
    assert 3_600 < progress.units_to_decide < 6_000
    assert progress.days_left == pytest.approx(max(progress.units_to_decide - 4_000, 0) / 1_000, abs=1e-2)
    unknown = analyze(PLAN, [PRIMARY], observed(MeanTotals(3, 1.0, 1.0), MeanTotals(3, 1.0, 1.0))).progress
    assert (unknown.units_to_decide, unknown.days_left) == (None, None)


def test_the_frontier_leaves_out_what_another_variant_beats_in_everything():
    """Solved 0.5, 0.6, 0.4 at costs of 1, 2 and 2: the third is worse than the second at the same cost."""
    cost = Metric(key="cost", measure=Mean("cost"), role="guardrail", direction="lower", margin=Margin(1.0))
    totals = [(500, 1.0), (600, 2.0), (400, 2.0)]
    cells = [
        Cell(1, v, 1000, {"m": ProportionTotals(1000, s), "cost": MeanTotals(1000, c, 10.0)})
        for v, (s, c) in zip("abc", totals, strict=True)
    ]
    data = Observed(variants=("a", "b", "c"), control="a", cells=cells)
    found = analyze(PLAN, [SOLVED, cost], data).frontier
    assert found is not None
    assert found.metrics == ("m", "cost")
    assert [(one.variant, one.on) for one in found.variants] == [("a", True), ("b", True), ("c", False)]
    assert found.variants[0].probability > 0.99
    assert found.variants[2].probability < 0.6, "its cost may yet be the lower one"
    assert analyze(PLAN, [SOLVED], data).frontier is None


def test_an_aa_test_whose_variants_differ_is_broken_and_one_that_agrees_is_fine():
    aa = AnalysisPlan(aa=True)
    same = analyze(aa, [SOLVED], observed(ProportionTotals(5_000, 2_500), ProportionTotals(5_000, 2_550)))
    assert [(one.kind, one.severity) for one in same.integrity] == [
        ("sample_ratio", "unknown"),
        ("aa", "fine"),
    ]
    arms = ProportionTotals(5_000, 2_500), ProportionTotals(5_000, 2_900)
    differs = analyze(aa, [SOLVED], observed(*arms)).integrity[-1]
    assert (differs.kind, differs.severity, differs.variant) == ("aa", "broken", "b")
    assert differs.p_value < 0.01
    assert differs.size == pytest.approx(0.08)
    assert [one.kind for one in analyze(PLAN, [SOLVED], observed(*arms)).integrity] == ["sample_ratio"]


def test_a_quantile_that_is_not_bounded_at_a_corrected_level_says_so_and_holds_nothing_up():
    """119 observations bound their 95th percentile at 5 %, but not at the level of a family of many."""
    metrics = [Metric(key=f"p{number}", measure=QuantileOf("m", 0.95)) for number in range(4)]
    sketches = [
        QuantileSketch.from_observations(np.random.default_rng(seed).exponential(1, 119), accuracy=0.01)
        for seed in (1, 2)
    ]
    cells = [
        Cell(1, variant, 119, {metric.key: sketch for metric in metrics})
        for variant, sketch in zip("ab", sketches, strict=True)
    ]
    data = Observed(variants=("a", "b"), control="a", cells=cells)
    for row in analyze(AnalysisPlan(alpha=0.075, expected_units=400), metrics, data).metrics:
        assert row.variants[1].verdict == "not_enough_data"
        assert "do not yet bound their 0.95-quantile" in row.variants[1].reason
