"""Covariates must have the same mean in all variants, else effects are not adjusted, which a finding says."""

import numpy as np
import pytest
from scipy.stats import binom

from app.analysis.balance import BALANCE_ALPHA
from app.analysis.observed import Cell, Observed
from app.analysis.readout.analyze import analyze
from app.experiments.metrics import Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.plan import AnalysisPlan, FixedHorizon
from app.ledger.rewards.composite import NANO
from app.ledger.units.measures import CellTotals, Measures
from app.ledger.units.metric_totals import totals_of
from app.ledger.units.model import totals_by_minute
from stats.balance import balance_evalue
from stats.errors import InsufficientData
from stats.means import mean_difference
from stats.quantiles import QuantileSketch
from stats.totals import JointTotals, MeanTotals, ProportionTotals
from tests.ledger.support import units

SEED = 20260101
PRIMARY = Metric(key="m", measure=Mean("m"), role="primary")
PLANS = [AnalysisPlan(), AnalysisPlan(estimator=FixedHorizon())]


def cell(variant, rows, metric="m"):
    """Rows of (outcome, covariates ...)."""
    joint = JointTotals.from_observations(rows)
    before = joint.select(*range(1, joint.dimension))
    return Cell(1, variant, len(rows), {metric: joint}, covariates=before)


def observed(cells, covariates=("pre",), **more):
    variants = tuple(one.variant for one in cells)
    return Observed(variants=variants, control=variants[0], cells=cells, covariates=covariates, **more)


def moved(n, errors, seed=0):
    """A covariate that the treatment moves by so many standard errors; the effect on the outcome is 0.2."""
    rng = np.random.default_rng(SEED + seed)
    cells = []
    for variant, treated in (("a", 0), ("b", 1)):
        pre = rng.normal(size=n)
        pre += treated * errors * np.sqrt(2 / n) - pre.mean()
        cells.append(cell(variant, np.stack([0.2 * treated + pre + 0.1 * rng.normal(size=n), pre], axis=1)))
    return observed(cells)


def finding(readout, kind="covariate_balance"):
    return next(one for one in readout.integrity if one.kind == kind)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("n", [200, 2_000, 50_000])
def test_a_covariate_that_the_treatment_moved_is_found_and_not_used(plan, n):
    data = moved(n, 4.7)
    readout = analyze(plan, [PRIMARY], data)
    shown = readout.metrics[0].variants[1]
    arms = [data.totals("m", variant).value(0) for variant in "ab"]
    assert shown.effect == mean_difference(arms[1], arms[0]).value
    assert shown.variance_reduction is None
    found = finding(readout)
    assert (found.severity, found.variant) == ("broken", "b")
    assert "pre" in found.detail
    assert "not adjusted" in found.detail
    assert readout.recommendation.action == "fix_data"


@pytest.mark.parametrize("plan", PLANS)
def test_a_balanced_covariate_is_used(plan):
    readout = analyze(plan, [PRIMARY], moved(2_000, 0.5))
    assert finding(readout).severity == "fine"
    assert readout.metrics[0].variants[1].variance_reduction > 0.9


def test_one_unbalanced_covariate_of_three_variants_stops_all_adjustment():
    rng = np.random.default_rng(SEED + 1)
    cells = []
    for variant, shift in (("a", 0.0), ("b", 0.0), ("c", 0.4)):
        pre = rng.normal((0.0, shift), size=(1_500, 2))
        cells.append(cell(variant, np.column_stack([pre.sum(axis=1), pre])))
    readout = analyze(AnalysisPlan(), [PRIMARY], observed(cells, ("first", "second")))
    assert (finding(readout).variant, finding(readout).severity) == ("c", "broken")
    assert all(one.variance_reduction is None for one in readout.metrics[0].variants)


def test_a_covariate_that_is_the_variant_itself_is_certainly_unbalanced():
    rows = [
        np.stack([np.random.default_rng(SEED).normal(size=300), np.full(300, x)], axis=1) for x in (0.0, 1.0)
    ]
    readout = analyze(AnalysisPlan(), [PRIMARY], observed([cell("a", rows[0]), cell("b", rows[1])]))
    assert finding(readout).severity == "broken"


def test_what_is_never_adjusted_says_so():
    rng = np.random.default_rng(SEED + 2)
    quantile, ratio = Metric(key="q", measure=QuantileOf("q")), Metric(key="r", measure=Ratio("x", "y"))
    cells = []
    for variant in "ab":
        one = cell(variant, rng.normal(size=(500, 2)))
        pairs = JointTotals.from_observations(1 + rng.random((500, 2)))
        sketch = QuantileSketch.from_observations(rng.random(500), accuracy=0.01)
        cells.append(
            Cell(1, variant, 500, {**one.metrics, "q": sketch, "r": pairs}, covariates=one.covariates)
        )
    notes = [
        one.detail for one in analyze(AnalysisPlan(), [PRIMARY, quantile, ratio], observed(cells)).integrity
    ]
    assert any("not used for q" in note for note in notes)
    assert any("not used for r" in note for note in notes)
    adaptive = analyze(AnalysisPlan(), [PRIMARY], observed(cells, adaptive=True))
    assert "reacts to outcomes" in finding(adaptive, "covariates").detail
    constant = observed(cells, (), constant_covariates=("country",))
    assert "country not used" in finding(analyze(AnalysisPlan(), [PRIMARY], constant), "covariates").detail


@pytest.mark.parametrize("measure", [Mean("m"), Proportion("m")])
@pytest.mark.parametrize("plan", PLANS)
def test_constant_covariates_leave_a_readout_as_it_is_bit_for_bit(measure, plan):
    rng, metric = np.random.default_rng(SEED + 3), Metric(key="m", measure=measure, role="primary")
    outcomes = [(rng.random(700) < rate).astype(float) for rate in (0.3, 0.4)]
    with_constant = observed(
        [cell(v, np.stack([y, np.full(700, 7.1)], axis=1)) for v, y in zip("ab", outcomes, strict=True)]
    )
    cells = []
    for variant in "ab":
        alone = with_constant.totals("m", variant).value(0)
        counts = ProportionTotals(700, round(700 * alone.mean))
        cells.append(Cell(1, variant, 700, {"m": alone if isinstance(measure, Mean) else counts}))
    plain = Observed(variants=("a", "b"), control="a", cells=cells)
    assert analyze(plan, [metric], with_constant).metrics == analyze(plan, [metric], plain).metrics


def test_ratios_that_the_ledger_measures_are_adjusted_too():
    """From units through their exact sums to the readout, beside the same without covariates."""
    rng, n = np.random.default_rng(SEED + 4), 1_200
    ratio = Metric(key="rate", measure=Ratio("clicks", "seen"), role="primary")
    measured = Measures.of((ratio,), AnalysisPlan(covariates=("pre",)))
    cells = []
    for variant in "ab":
        pre, seen = rng.normal(size=n), 1 + rng.poisson(3, n)
        clicks = rng.binomial(seen, np.clip(0.4 + 0.15 * pre, 0, 1))
        rows = np.stack([np.zeros(n), np.zeros(n), clicks * NANO, seen * NANO], axis=1).astype(np.int64)
        made = units(rows, covariates=np.rint(pre[:, None] * NANO).astype(np.int64))
        sums = sum(totals_by_minute(1, made, measured).values(), CellTotals.none(measured)).metrics[1]
        totals = totals_of(ratio, sums)
        assert totals.mean[:2] == pytest.approx((clicks.mean(), seen.mean()))
        cells.append(Cell(1, variant, n, {"rate": totals}, covariates=totals.select(2, 3)))
    for plan in PLANS:
        adjusted = analyze(plan, [ratio], observed(cells, ("pre", "pre (missing)"))).metrics[0].variants[1]
        plain_cells = [Cell(1, one.variant, n, {"rate": one.metrics["rate"].select(0, 1)}) for one in cells]
        plain = analyze(plan, [ratio], observed(plain_cells, ())).metrics[0].variants[1]
        assert adjusted.variance_reduction > 0.15
        assert np.ptp(adjusted.interval) < 0.95 * np.ptp(plain.interval)


# The error of the check itself


def alarms(draw, *, runs, sizes, looks, seed, shift=0.0):
    """How many A/A experiments are ever called unbalanced, when looked at again and again."""
    rng, alarmed = np.random.default_rng(SEED + seed), 0
    for _ in range(runs):
        control, treatment = (draw(rng, n) for n in sizes)
        treatment = treatment + shift * control.std()
        for part in range(1, looks + 1):
            arms = [x[: len(x) * part // looks] for x in (control, treatment)]
            try:
                evidence = balance_evalue([tuple(MeanTotals.from_observations(x) for x in arms)])
            except InsufficientData:
                continue
            if evidence.rejects(BALANCE_ALPHA):
                alarmed += 1
                break
    return alarmed


DRAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "lognormal": lambda rng, n: rng.lognormal(sigma=1.5, size=n),
    "rare": lambda rng, n: (rng.random(n) < 0.02).astype(float),
}


@pytest.mark.parametrize(
    ("name", "sizes"), [("normal", (900, 900)), ("lognormal", (900, 900)), ("rare", (1_900, 300))]
)
def test_the_check_seldom_alarms_where_nothing_differs_however_often_one_looks(name, sizes):
    """At most 1 % of A/A experiments; a correct check fails this with probability below 1e-6."""
    limit = binom.ppf(1 - 1e-6, 120, BALANCE_ALPHA)
    assert alarms(DRAWS[name], runs=120, sizes=sizes, looks=6, seed=10) <= limit
    assert (
        alarms(DRAWS[name], runs=30, sizes=sizes, looks=6, seed=11, shift=0.5) > limit
    )  # planted difference


def test_the_evidence_worked_by_hand():
    totals = MeanTotals(1_000, 0.0, 999.0), MeanTotals(1_000, 0.2, 999.0)
    found = balance_evalue([totals]).log_value
    assert 7.9 - np.log(5) < found < 7.9 + np.log(5)
    with pytest.raises(InsufficientData):
        balance_evalue([(MeanTotals(99, 0.0, 9.0), MeanTotals(1_000, 0.2, 999.0))])
