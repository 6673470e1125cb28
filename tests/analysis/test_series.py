"""`GET /experiments/{key}/series`: steps as they are kept, what is missing, and the season of the control."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from app.analysis import limits
from app.experiments.metrics import Mean, Metric, QuantileOf, Ratio
from app.experiments.model import Definition, Variant
from app.experiments.plan import AnalysisPlan
from app.experiments.policies import FixedPolicy
from app.ledger.rewards.composite import NANO
from app.ledger.tables import metric_series, metric_totals
from app.ledger.units.measures import measures_of
from app.ledger.units.model import totals_by_minute
from app.ledger.units.series import HOUR, add, series, widened
from tests.ledger import support

pytestmark = pytest.mark.anyio

METRICS = (
    Metric(key="latency", measure=Mean("latency")),
    Metric(key="cost", measure=Ratio("cost", "assignments")),
    Metric(key="p50", measure=QuantileOf("latency", 0.5)),
)
VARIANTS = (Variant("control", control=True), Variant("short"))
MEASURES = measures_of(METRICS, AnalysisPlan(), "none")
PATH = "/experiments/summary/series"


@pytest.fixture
async def experiment(experiments):
    policy = FixedPolicy({"control": 0.5, "short": 0.5})
    await experiments.create(Definition(key="summary", variants=VARIANTS, policy=policy, metrics=METRICS))
    return await experiments.start("summary")


def unit(at, variant, latency, *, crossed=False):
    """With that latency, or none known; costing twice as much, for one assignment."""
    known = latency is not None
    nanos = round((latency or 0) * NANO)
    sums = (0, 0, nanos, int(known), 2 * nanos, NANO * known, nanos, int(known))
    return sums, variant, crossed, int(at.timestamp() // 60)


async def keep(engine, experiment, units, *, span=1):
    """As the ledger keeps them, by the minute or as the thinned hour."""
    sums, variants, crossed, minutes = zip(*units, strict=True)
    made = support.units(sums, variants=variants, crossed=crossed, minutes=minutes)
    found, by_minute = {}, totals_by_minute(experiment.id, made, MEASURES)
    for key, totals in series(by_minute, {experiment.id: MEASURES}).items():
        add(found, widened(key, span), totals)
    names = ("experiment_id", "minute", "span", "epoch", "variant", "crossed")
    async with engine.begin() as connection:
        for key, totals in found.items():
            row = dict(zip(names, key, strict=True))
            await connection.execute(metric_series.insert().values(**row, body=totals.to_bytes()))


def recently():
    """The beginning of the last whole hour but one, by UTC."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)


async def get(client, **query):
    answer = await client.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_an_empty_step_is_absent_and_a_missing_value_is_null(client, engine, experiment):
    hour = recently()
    minute = timedelta(minutes=1)
    units = [
        unit(hour, 0, 1.0),
        unit(hour, 0, 2.0),
        unit(hour, 0, None),
        unit(hour + 2 * minute, 0, None),
        unit(hour + minute, 1, 0.5),
        unit(hour + minute, 1, 9.0, crossed=True),
    ]
    await keep(engine, experiment, units)
    found = await get(
        client,
        metric="latency",
        since=hour.isoformat(),
        until=(hour + 5 * minute).isoformat(),
        step_s=60,
    )
    assert (found["metric"], found["kind"], found["step_s"]) == ("latency", "mean", 60)
    control, short = found["variants"]
    assert [(datetime.fromisoformat(point.pop("at")), point) for point in control["points"]] == [
        (hour, {"units": 3, "n": 2, "value": 1.5, "standard_error": 0.5}),
        (hour + 2 * minute, {"units": 1, "n": 0, "value": None, "standard_error": None}),
    ]
    assert [(one["units"], one["value"]) for one in short["points"]] == [(1, 0.5)], "who crossed is left out"


async def test_sums_that_were_damaged_by_hand_are_a_problem_that_says_what_mends_them(
    client, engine, experiment
):
    hour = recently()
    await keep(engine, experiment, [unit(hour, 1, 1.0)])
    cell = {"experiment_id": experiment.id, "epoch": 1, "variant": 1, "segment": "", "crossed": False}
    async with engine.begin() as connection:
        await connection.execute(metric_series.update().values(body=b"\x00"))
        await connection.execute(metric_totals.insert().values(**cell, body=b"\x00"))
    for path, query in ((PATH, {"metric": "latency"}), ("/experiments/summary/status", {})):
        refused = await client.get(path, params=query)
        assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (409, "conflict"), path
        assert "run `wald rebuild`" in refused.json()["detail"]


KINDS = [("latency", 2.0), ("cost", 4.0), ("p50", 2.0), ("reward", None)]


@pytest.mark.parametrize(("metric", "value"), KINDS)
async def test_every_kind_of_metric_has_its_value_per_step(client, engine, experiment, metric, value):
    hour = recently()
    await keep(engine, experiment, [unit(hour, 1, one) for one in (1.0, 2.0, 3.0)])
    (point,) = (await get(client, metric=metric, step_s=300))["variants"][1]["points"]
    assert point["units"] == 3
    assert point["value"] == pytest.approx(value, rel=0.01) if value else point["value"] is None


async def test_minutes_and_thinned_hours_add_up_in_longer_steps(client, engine, experiment):
    start = recently().replace(hour=0) - timedelta(days=5)
    thinned = [unit(start, 0, 1.0), unit(start + timedelta(minutes=59), 0, 2.0)]
    await keep(engine, experiment, thinned, span=HOUR)
    await keep(engine, experiment, [unit(start + timedelta(minutes=5), 0, 6.0)])  # came late
    for step_s in (3_600, 7_200, 86_400):
        found = await get(client, metric="latency", since=start.isoformat(), step_s=step_s)
        (point,) = found["variants"][0]["points"]
        assert (datetime.fromisoformat(point["at"]), point["n"], point["value"]) == (start, 3, 3.0)


async def test_the_season_of_the_control_is_taken_from_all_variants_alike(client, engine, experiment):
    """A week of hours with a daily wave, the same for both; `short` is higher by 1 throughout."""
    rng = np.random.default_rng(20260201)
    until = recently()
    units = []
    for hours in range(1, 169):
        at = until - timedelta(hours=hours)
        wave = 10 + 3 * np.sin(2 * np.pi * at.hour / 24)
        for variant in (0, 1):
            units += [unit(at, variant, wave + variant + rng.normal(0, 0.1)) for _ in range(3)]
    await keep(engine, experiment, units)
    found = await get(client, metric="latency", until=until.isoformat(), seasonal=True)
    assert found["season"]["level"] == pytest.approx(10, abs=0.1)
    assert max(found["season"]["hours"]) == pytest.approx(3, abs=0.3)
    for place, series_ in enumerate(found["variants"]):
        values = np.array([point["value"] for point in series_["points"]])
        adjusted = np.array([point["adjusted"] for point in series_["points"]])
        assert values.std() > 1
        assert adjusted.std() < 0.2
        assert adjusted.mean() == pytest.approx(10 + place, abs=0.1)
    gaps = [
        (a["value"] - b["value"], a["adjusted"] - b["adjusted"])
        for a, b in zip(found["variants"][1]["points"], found["variants"][0]["points"], strict=True)
    ]
    assert all(plain == pytest.approx(adjusted) for plain, adjusted in gaps), "differences stay what they are"


async def test_without_enough_history_there_is_no_season_and_that_is_said(client, engine, experiment):
    await keep(engine, experiment, [unit(recently(), 0, 1.0)])
    found = await get(client, metric="latency", seasonal=True)
    assert found["season"]["level"] is None
    assert "points" in found["season"]["reason"]
    assert "adjusted" not in found["variants"][0]["points"][0]


DAYS_AGO = (datetime.now(UTC) - timedelta(days=10)).isoformat()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"metric": "nothing"}, "metric"),
        ({"step_s": 0}, "step_s"),
        ({"step_s": -60}, "step_s"),
        ({"step_s": 61}, "step_s"),
        ({"step_s": 420}, "step_s"),
        ({"step_s": 172_800}, "step_s"),
        ({"since": "2026-01-01T00:00:00"}, "since"),
        ({"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "since"),
        ({"since": "1970-01-01T00:00:00Z", "step_s": 86_400}, "since"),
        ({"since": DAYS_AGO, "step_s": 1_800}, "step_s"),
        ({"since": "0001-01-01T00:00:00Z"}, "since"),
        ({"since": "9999-12-01T00:00:00Z", "until": "9999-12-31T23:59:59Z"}, "since"),
        ({"until": "0001-01-01T00:00:00Z"}, "until"),
    ],
)
async def test_a_bad_range_is_a_clear_problem(client, experiment, query, field):
    answer = await client.get(PATH, params=query)
    assert answer.status_code == 400, answer.text
    assert [one["field"] for one in answer.json()["errors"]] == [field]


async def test_what_has_not_come_yet_is_no_step(client, experiment):
    found = await get(client, until="9999-12-31T23:59:59Z")
    assert datetime.fromisoformat(found["until"]) < datetime.now(UTC) + timedelta(hours=1)


async def test_an_answer_is_bounded(client, experiment):
    since = datetime.now(UTC) - timedelta(minutes=limits.SERIES_STEPS_MAX + 5)
    answer = await client.get(PATH, params={"since": since.isoformat(), "step_s": 60})
    assert answer.status_code == 400
    assert f"{limits.SERIES_STEPS_MAX:,} steps" in answer.json()["detail"]


async def test_experiments_without_metrics_keep_no_series(client, experiments):
    await experiments.create(Definition(key="summary", variants=VARIANTS))
    answer = await client.get(PATH)
    assert answer.status_code == 422
    assert "has no series" in answer.json()["detail"]
    assert (await client.get("/experiments/none/series")).status_code == 404
