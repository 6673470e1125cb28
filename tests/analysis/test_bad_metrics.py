"""One bad metric takes nothing from the others; and what is known of it is shown beside the reason."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.analysis.observed import Cell, DrawnUnits, Observed
from app.analysis.readout.analyze import analyze
from app.experiments.metrics import Margin, Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.plan import AnalysisPlan, FixedHorizon, GroupSequential
from stats.concurrent import drawn_alike
from stats.quantiles import QuantileSketch
from stats.totals import JointTotals, MeanTotals, ProportionTotals
from tests.support.plans import at_its_horizon

SEED = 20260101
N = 1_500
PLANS = [
    AnalysisPlan(),
    AnalysisPlan(estimator=FixedHorizon()),
    AnalysisPlan(estimator=GroupSequential((0.3, 1.0)), expected_units=2 * N),
]
METRICS = [
    Metric(key="solved", measure=Proportion("solved"), role="primary"),
    Metric(
        key="cost",
        measure=Mean("cost"),
        role="guardrail",
        direction="lower",
        margin=Margin(0.1, relative=True),
    ),
    Metric(key="rate", measure=Ratio("clicks", "seen")),
    Metric(key="p95", measure=QuantileOf("latency"), direction="lower"),
    Metric(
        key="errors", measure=Proportion("errors"), role="guardrail", direction="lower", margin=Margin(0.01)
    ),
]


def healthy(seed):
    rng = np.random.default_rng(SEED + seed)
    seen = 1.0 + rng.poisson(3, N)
    return {
        "solved": ProportionTotals(N, int(rng.binomial(N, 0.3))),
        "cost": MeanTotals.from_observations(rng.normal(-5.0, 1.0, N)),
        "rate": JointTotals.from_observations(np.stack([rng.binomial(seen.astype(int), 0.3), seen], axis=1)),
        "p95": QuantileSketch.from_observations(rng.lognormal(size=N), accuracy=0.001),
        "errors": ProportionTotals(N, int(rng.binomial(N, 0.02))),
    }


CONSTANT = np.full((N, 2), 3.0)
BAD = {
    "solved": [ProportionTotals(N, 0), ProportionTotals(N, N), ProportionTotals(1, 1), None],
    "cost": [
        MeanTotals(N, 0.0, 0.0),
        MeanTotals(N, 1e99, 0.0),
        MeanTotals(N, 0.0, 1e199),
        MeanTotals(2, 1.0, 0.0),
        None,
    ],
    "rate": [
        JointTotals.from_observations(CONSTANT),
        JointTotals.from_observations(CONSTANT * [1, 0]),
        JointTotals.from_observations(np.array([[1.0, -1.0], [1.0, 1.0]])),
        JointTotals.none(2),
        None,
    ],
    "p95": [QuantileSketch.from_observations(np.full(N, x), accuracy=0.001) for x in (0.0, -7.0)]
    + [QuantileSketch(0.001), None],
    "errors": [ProportionTotals(N, 0), ProportionTotals(), None],
}
VARIANTS = ("a", "b", "c")
ARMS = [healthy(seed) for seed in range(3)]


def data(replaced, **more):
    """Healthy arms, in which some metrics of some variants have other totals; None: none at all."""
    cells = []
    for place, variant in enumerate(VARIANTS):
        totals = dict(ARMS[place])
        for (metric, arm), bad in replaced.items():
            if arm == place:
                totals[metric] = bad
        known = {key: one for key, one in totals.items() if one is not None}
        cells.append(Cell(1, variant, N, known))
    return Observed(variants=VARIANTS, control="a", cells=cells, **more)


@settings(max_examples=60)
@given(
    bad=st.dictionaries(
        st.sampled_from([(metric.key, arm) for metric in METRICS for arm in range(3)]),
        st.integers(0, 4),
        min_size=1,
        max_size=8,
    ),
    plan=st.sampled_from(PLANS),
    adaptive=st.booleans(),
)
def test_metrics_beside_bad_ones_are_read_as_if_these_had_no_data(bad, plan, adaptive):
    """They count in the corrections either way: how they are bad makes no difference to the others."""
    replaced = {key: BAD[key[0]][number % len(BAD[key[0]])] for key, number in bad.items()}
    touched = {metric for metric, _ in replaced}
    readout = analyze(plan, METRICS, data(replaced, adaptive=adaptive))
    without = {(metric, arm): None for metric in touched for arm in range(3)}
    reference = analyze(plan, METRICS, data(without, adaptive=adaptive))
    for shown, alone, metric in zip(readout.metrics, reference.metrics, METRICS, strict=True):
        if metric.key in touched:
            for one in shown.variants:
                assert one.control or one.verdict is not None
                assert one.control or one.interval is not None or one.reason
        elif metric.role == "guardrail" or not touched & {m.key for m in METRICS if m.role == metric.role}:
            assert shown == alone
        else:  # a family: levels differ with what the bad ones find, effects do not
            assert [one.effect for one in shown.variants] == [one.effect for one in alone.variants]


def test_a_bandit_metric_without_spread_says_so_and_the_others_are_read():
    rng = np.random.default_rng(SEED)
    drawn = {"a": {}, "b": {}}
    for key, control_rewards in (("zero", np.zeros(400)), ("fine", rng.normal(2.0, 1.0, 400))):
        treatment_rewards = rng.normal(3.0, 1.0, 600)
        drawn["a"][key] = drawn_alike(MeanTotals.from_observations(control_rewards), propensity=0.4)
        drawn["b"][key] = drawn_alike(MeanTotals.from_observations(treatment_rewards), propensity=0.6)
    for totals in drawn.values():
        totals["nothing"] = drawn_alike(MeanTotals(500, 0.0, 0.0), propensity=0.5)
    keys = ("zero", "fine", "nothing")
    metrics = [
        Metric(key=key, measure=Mean(key), role="primary" if key == "fine" else "secondary") for key in keys
    ]
    totals = MeanTotals(500, 1.0, 500.0)
    cells = [Cell(1, variant, 500, dict.fromkeys(keys, totals)) for variant in "ab"]
    units = [DrawnUnits(1, 32, variant, totals) for variant, totals in drawn.items()]
    observed = Observed(variants=("a", "b"), control="a", cells=cells, adaptive=True, drawn=units)
    zero, fine, nothing = (one.variants[1] for one in analyze(AnalysisPlan(), metrics, observed).metrics)
    assert zero.verdict == "better", "the spread of the treatment is known"
    assert "no spread" in nothing.reason
    assert fine.verdict == "better"
    assert fine.interval[0] < 1.0 < fine.interval[1]


# Constants


def shown(metric, *arms, plan=PLANS[0]):
    cells = [Cell(1, v, one.n, {metric.key: one}) for v, one in zip("ab", arms, strict=True)]
    observed = Observed(variants=("a", "b"), control="a", cells=cells)
    return analyze(at_its_horizon(plan, observed), [metric], observed).metrics[0].variants


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("sessions", [np.ones(800), 1 + np.arange(800) % 9, 0.1 * (1 + np.arange(800) % 7)])
def test_a_ratio_that_is_20_for_everybody_is_20(sessions, plan):
    metric = Metric(key="m", measure=Ratio("x", "y"), role="primary")
    totals = JointTotals.from_observations(np.stack([20 * sessions, sessions], axis=1))
    if isinstance(plan.estimator, GroupSequential):
        plan = msgspec.structs.replace(plan, expected_units=2 * totals.n)  # at its last look
    control, treatment = shown(metric, totals, totals, plan=plan)
    assert control.estimate == pytest.approx(20, rel=1e-12)
    assert treatment.estimate == pytest.approx(20, rel=1e-12)
    assert (treatment.effect, treatment.relative_effect, treatment.interval) == (0.0, 0.0, None)
    assert "no spread" in treatment.reason


@pytest.mark.parametrize("plan", PLANS[:2])
def test_constants_that_differ_have_their_difference_and_no_interval(plan):
    metric = Metric(key="m", measure=Mean("m"), role="primary")
    _, treatment = shown(metric, MeanTotals(500, -20.0, 0.0), MeanTotals(500, -22.0, 0.0), plan=plan)
    assert (treatment.effect, treatment.interval, treatment.verdict) == (-2.0, None, "not_enough_data")
    assert treatment.relative_effect == pytest.approx(-0.1)
    assert "no spread" in treatment.reason


@pytest.mark.parametrize("successes", [(0, 0), (900, 900), (0, 900), (900, 0)])
@pytest.mark.parametrize("plan", PLANS[:2])
def test_proportions_of_zero_and_one_have_exact_intervals(successes, plan):
    metric = Metric(key="m", measure=Proportion("m"), role="primary")
    _, treatment = shown(metric, *(ProportionTotals(900, s) for s in successes), plan=plan)
    effect = (successes[1] - successes[0]) / 900
    assert treatment.effect == effect
    assert -1 <= treatment.interval[0] <= effect <= treatment.interval[1] <= 1
    assert treatment.interval[1] - treatment.interval[0] < 0.1
    assert treatment.verdict == {0: "not_enough_data", 1: "better", -1: "harm"}[effect]


def test_a_constant_quantile_is_its_value():
    metric = Metric(key="m", measure=QuantileOf("m", 0.9), role="primary")
    sketches = [QuantileSketch.from_observations(np.full(3_000, x), accuracy=0.001) for x in (200.0, 210.0)]
    control, treatment = shown(metric, *sketches)
    assert control.estimate == pytest.approx(200, rel=1e-3)
    assert treatment.interval[0] < 10 < treatment.interval[1]
    few = [QuantileSketch.from_observations(np.full(5, x), accuracy=0.001) for x in (200.0, 210.0)]
    _, unbounded = shown(metric, *few)
    assert unbounded.effect == pytest.approx(10, rel=0.05)
    assert (unbounded.interval, unbounded.verdict) == (None, "not_enough_data")


# Relative margins


def guarded(metric_kind, margin, direction="higher"):
    return Metric(
        key="m",
        measure=metric_kind,
        role="guardrail",
        direction=direction,
        margin=Margin(margin, relative=True),
    )


def negative_arms(kind, rng, means, n=6_000):
    values = [rng.normal(mean, 0.5, n) for mean in means]
    if isinstance(kind, QuantileOf):
        return [QuantileSketch.from_observations(x, accuracy=0.001) for x in values]
    if isinstance(kind, Ratio):
        return [JointTotals.from_observations(np.stack([3 * x, np.full(n, 3.0)], axis=1)) for x in values]
    return [MeanTotals.from_observations(x) for x in values]


@pytest.mark.parametrize("plan", PLANS[:2])
@pytest.mark.parametrize("kind", [Mean("m"), Mean("m", (-15.0, -5.0)), Ratio("x", "y"), QuantileOf("m", 0.5)])
@pytest.mark.parametrize(
    ("means", "direction", "verdict"),
    [
        ((-10.009, -10.215), "higher", "safe"),  # 2 % worse
        ((-10.009, -12.5), "higher", "harm"),  # 25 % worse
        ((-10.009, -9.803), "lower", "safe"),
        ((-10.009, -7.5), "lower", "harm"),
        ((-10.009, -9.5), "higher", "better"),
    ],
)
def test_relative_margins_of_negative_means_are_shares_of_their_size(means, direction, verdict, kind, plan):
    rng = np.random.default_rng(SEED + 7)
    _, found = shown(guarded(kind, 0.1, direction), *negative_arms(kind, rng, means), plan=plan)
    assert found.verdict == verdict
    share = (means[1] - means[0]) / 10.009
    assert found.relative_interval[0] < share < found.relative_interval[1]
    assert found.relative_effect == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("plan", PLANS[:2])
@pytest.mark.parametrize(("change", "verdict"), [(-0.2, "harm"), (0.2, "better"), (0.0, "not_enough_data")])
def test_relative_to_a_control_near_zero_nothing_is_claimed_but_the_sign(change, verdict, plan):
    """Where the control cannot be told from 0, a worsening that is sure is larger than the control itself."""
    rng = np.random.default_rng(SEED + 8)
    kind = Mean("m")
    arms = negative_arms(kind, rng, (0.0, change))
    _, found = shown(guarded(kind, 0.1), *arms, plan=plan)
    assert found.verdict == verdict
    assert (found.relative_effect, found.relative_interval) == (None, None)
    assert "may be 0" in found.reason


@pytest.mark.parametrize("means", [(10.0, 10.2), (10.0, 9.8), (-10.0, -9.8), (-10.0, -10.2)])
def test_relative_intervals_under_a_bandit_hold_the_truth(means):
    rng, drawn = np.random.default_rng(SEED + 9), []
    for variant, mean, share in zip("ab", means, (0.4, 0.6), strict=True):
        rewards = MeanTotals.from_observations(rng.normal(mean, 0.5, round(4_000 * share)))
        drawn.append(DrawnUnits(1, 34, variant, {"m": drawn_alike(rewards, propensity=share)}))
    cells = [
        Cell(1, v, 2_000, {"m": MeanTotals(2_000, mean, 500.0)}) for v, mean in zip("ab", means, strict=True)
    ]
    observed = Observed(variants=("a", "b"), control="a", cells=cells, adaptive=True, drawn=drawn)
    found = analyze(AnalysisPlan(), [guarded(Mean("m"), 0.2)], observed).metrics[0].variants[1]
    assert found.verdict in ("safe", "better")
    assert found.relative_interval[0] < (means[1] - means[0]) / 10 < found.relative_interval[1]
