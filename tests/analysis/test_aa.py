"""A/A on an experiment's own data: what the plan decides where nothing differs."""

import numpy as np
import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY
from scipy.stats import binom

from app.analysis import aa, limits
from app.analysis.aa import AaQuestion, Arrived, replay, together
from app.analysis.readout.analyze import metric_readouts
from app.core.errors import UnprocessableInput
from app.experiments.metrics import Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.model import Definition, Variant
from app.experiments.plan import AlwaysValid, AnalysisPlan, FixedHorizon, GroupSequential
from app.experiments.policies import FixedPolicy
from app.ledger.rewards.composite import NANO
from app.ledger.tables import unit_totals
from app.ledger.units.measures import Measures, cells
from app.ledger.units.metric_totals import moments_of, totals_of
from app.ledger.units.model import totals_by_minute
from tests.ledger import support

METRICS = (
    Metric(key="solved", measure=Proportion("solved"), role="primary"),
    Metric(key="cost", measure=Mean("cost")),
    Metric(key="clicks", measure=Ratio("clicks", "sessions")),
    Metric(key="p90", measure=QuantileOf("cost", 0.9)),
)
PATH = "/experiments/summary/aa"


def units(n, plan, *, seed=20260101):
    """In pairs that arrive together: a tenth have no cost."""
    rng = np.random.default_rng(seed)
    found, covariates = [], []
    for _ in range(n):
        solved, sessions = int(rng.random() < 0.3), 1 + int(rng.poisson(1))
        clicks, known = int(rng.binomial(sessions, 0.4)), int(rng.random() < 0.9)
        cost = known * round(float(rng.lognormal(0, 1)) * NANO)
        found.append((solved * NANO, 1, solved, 1, cost, known, clicks * NANO, sessions * NANO, cost, known))
        covariates.append([round(float(rng.normal()) * NANO) for _ in plan.covariates])
    return support.units(found, covariates=covariates, minutes=np.arange(n) // 2)


def asked(n, estimator, *, replays, covariates=(), first=0, made=None):
    plan = AnalysisPlan(estimator=estimator, covariates=covariates)
    measures = Measures.of(METRICS, plan)
    arrived = Arrived(units(n, plan) if made is None else made, sampled=False)
    question = AaQuestion(replays=replays, first=first)
    return replay("summary", question, measures, arrived, n_variants=2, adaptive=False)


def of(answer, metric):
    return next(one for one in answer.metrics if one.metric == metric)


@pytest.mark.parametrize(
    ("estimator", "looks", "replays"),
    [(AlwaysValid(), 10, 8), (FixedHorizon(), 1, 60), (GroupSequential((0.5, 1.0)), 2, 40)],
)
def test_a_plan_decides_no_more_often_than_it_may(estimator, looks, replays):
    """A right rule fails this gate with probability below 1e-6."""
    answer = asked(600, estimator, replays=replays)
    assert len(answer.looks) == looks
    assert answer.looks[-1] == answer.units == 600
    assert answer.false_positives.decisions <= binom.ppf(1 - 1e-6, replays, 0.05)
    assert answer.false_positives.allowed == 0.05
    assert of(answer, "solved").false_positives.decisions == answer.false_positives.decisions


def test_a_rule_that_is_too_sure_is_found_out(monkeypatch):
    """The planted fault: it decides at ten times its alpha."""

    def too_sure(plan, metrics, observed):
        return metric_readouts(replace(plan, alpha=0.5), metrics, observed)

    monkeypatch.setattr(aa, "metric_readouts", too_sure)
    answer = asked(600, FixedHorizon(), replays=60)
    assert answer.false_positives.decisions > binom.ppf(1 - 1e-6, 60, 0.05)
    assert "too often" in answer.sentence


@pytest.mark.parametrize("covariates", [(), ("before",)])
def test_the_noise_floor_is_that_of_the_totals_which_the_ledger_keeps(covariates):
    plan = AnalysisPlan(estimator=FixedHorizon(), covariates=covariates)
    made, measures = units(300, plan), Measures.of(METRICS, plan)
    answer = asked(300, FixedHorizon(), replays=1, covariates=covariates, made=made)
    (totals,) = cells(totals_by_minute(1, made, measures)).values()
    for metric, sums in zip(measures.metrics, totals.metrics, strict=True):
        shown, known = of(answer, metric.key), totals_of(metric, sums)
        assert shown.units == known.n
        if metric.key == "p90":
            assert shown.noise_floor is None
            continue
        moments = moments_of(metric, known)
        level = shown.false_positives.allowed
        z = {0.05: 1.959963984540054}[level]
        expected = z * (moments.variance * 4 / moments.n) ** 0.5
        assert shown.noise_floor == pytest.approx(expected, rel=1e-9)
        assert shown.relative_noise_floor == pytest.approx(expected / abs(moments.mean), rel=1e-9)


def test_answers_about_different_replays_add_up():
    whole = asked(400, FixedHorizon(), replays=6)
    parts = [asked(400, FixedHorizon(), replays=2, first=first) for first in (0, 2, 4)]
    assert together(parts) == whole


def test_one_answer_takes_no_more_replays_than_it_may(monkeypatch):
    monkeypatch.setattr(limits, "AA_COMPARISONS_MAX", 2 * 10 * 5)  # looks, metrics
    assert asked(200, AlwaysValid(), replays=100).replays == 2


def test_too_few_units_are_refused_with_their_number():
    with pytest.raises(UnprocessableInput, match="needs at least 200 units of the control, has 199"):
        asked(199, FixedHorizon(), replays=1)


# Over HTTP


@pytest.fixture
async def experiment(experiments):
    policy = FixedPolicy({"control": 0.5, "short": 0.5})
    variants = (Variant("control", control=True), Variant("short"))
    plan = AnalysisPlan(estimator=FixedHorizon())
    await experiments.create(
        Definition(key="summary", variants=variants, policy=policy, metrics=METRICS, plan=plan)
    )
    return await experiments.start("summary")


async def keep(engine, experiment, made, *, variant=0):
    rows = [
        {
            "experiment_id": experiment.id,
            "epoch": 1,
            "unit_hash": number,
            "assignment_id": "00000000-0000-0000-0000-000000000000",
            "variant": variant,
            "segment": "",
            "crossed": False,
            "minute": minute,
            "body": body,
        }
        for number, (minute, body) in enumerate(
            zip(made.minutes.tolist(), made.bodies(), strict=True), start=1_000_000 * variant
        )
    ]
    async with engine.begin() as connection:
        await connection.execute(unit_totals.insert(), rows)


@pytest.mark.anyio
async def test_the_control_of_an_experiment_is_replayed(client, engine, experiment):
    plan = experiment.definition.plan
    await keep(engine, experiment, units(300, plan))
    await keep(engine, experiment, units(250, plan, seed=2), variant=1)
    answer = await client.post(PATH, json={"replays": 10})
    assert answer.status_code == 200
    found = answer.json()
    assert (found["units"], found["replays"], found["looks"], found["sampled"]) == (300, 10, [300], False)
    assert [one["metric"] for one in found["metrics"]] == ["reward", "solved", "cost", "clicks", "p90"]
    assert (await client.post(PATH, json={"replays": 10})).json() == found  # equal data, equal answer


@pytest.mark.anyio
async def test_a_unit_that_was_damaged_by_hand_is_named_and_counted(client, engine, experiment):
    await keep(engine, experiment, units(210, experiment.definition.plan))
    async with engine.begin() as connection:
        damaged = unit_totals.update().where(unit_totals.c.unit_hash == 7).values(body=b"\x00")
        await connection.execute(damaged)
    before = damaged_rows() or 0
    refused = await client.post(PATH, json={"replays": 1})
    assert refused.status_code == 409
    assert "the totals of 1 units cannot be read; run `wald rebuild`" in refused.json()["detail"]
    assert damaged_rows() == before + 1


def damaged_rows():
    return REGISTRY.get_sample_value("wald_unusable_totals_total", {"table": "unit_totals"})


@pytest.mark.anyio
async def test_refusals_name_the_field_and_the_number(client, engine, experiment):
    few = await client.post(PATH, json={})
    assert few.status_code == 422
    assert "has 0" in few.json()["detail"]
    for body, field in (({"replays": 0}, "replays"), ({"first": -1}, "first"), ({"x": 1}, "x")):
        refused = await client.post(PATH, json=body)
        assert refused.status_code == 400
        assert field in str(refused.json())
    assert (await client.post("/experiments/none/aa", json={})).status_code == 404
