"""A metric over time as the page shows it: what is missing is a gap, and all stands in the table too."""

from datetime import UTC, datetime, timedelta

import pytest

from app.analysis.series import Point, Series, VariantSeries
from app.dashboard.chart import Chart, step_of
from app.experiments.metrics import Mean, Metric
from app.experiments.model import Definition, Variant

AT = datetime(2026, 1, 1, tzinfo=UTC)


def series(**values):
    """Hours from AT on; None: units without a value, absent: no unit."""
    variants = [
        VariantSeries(
            name,
            name == "control",
            [
                Point(
                    at=AT + timedelta(hours=hour),
                    units=2,
                    n=0 if v is None else 2,
                    value=v,
                    standard_error=None,
                )
                for hour, v in points.items()
            ],
        )
        for name, points in values.items()
    ]
    end = AT + timedelta(hours=5)
    return Series(
        key="e", metric="latency", kind="mean", step_s=3_600, since=AT, until=end, variants=variants
    )


def test_steps_next_to_each_other_are_joined_and_others_are_not():
    chart = Chart.of(series(control={0: 1.0, 1: 2.0, 3: 1.5}, short={0: 2.0}))
    control, short = chart.lines
    assert [part[0] for part in control.path.replace("h0", "").split(" ")[:1]] == ["M"]
    assert control.path.count("M") == 2  # a gap at hour 2
    assert control.path.count("L") == 1
    assert short.path.endswith("h0")  # a step alone is a dot
    assert (chart.low, chart.high) == (1.0, 2.0)
    assert (control.newest, short.newest) == (1.5, 2.0)


def test_lines_stay_within_the_picture():
    chart = Chart.of(series(control={hour: float(hour) for hour in range(5)}, short={2: -3.0, 4: None}))
    for line in chart.lines:
        for place in line.path.replace("h0", "").replace("M", " ").replace("L", " ").split():
            assert 0 <= float(place) <= 100


def test_the_table_has_every_step_in_which_units_came_the_newest_first():
    chart = Chart.of(series(control={0: 1.0, 1: None}, short={1: 2.0}))
    assert [row.at for row in chart.rows] == [AT + timedelta(hours=1), AT]
    newest, oldest = (row.cells for row in chart.rows)
    assert [cell and cell.value for cell in newest] == [None, 2.0]
    assert oldest[1] is None


def test_nothing_known_has_no_lines_and_says_so():
    chart = Chart.of(series(control={0: None}, short={}))
    assert chart.lines == []
    assert "no values yet" in chart.described


def test_one_value_alone_stands_in_the_middle():
    (line, _) = Chart.of(series(control={0: 7.0}, short={})).lines
    assert line.path == "M0.00 20.00h0"


@pytest.mark.parametrize(("age", "step"), [(0, 60), (2, 60), (24, 3_600), (24 * 9, 86_400)])
def test_steps_are_longer_for_older_experiments(age, step):
    assert step_of(AT, AT + timedelta(hours=age)) == step


@pytest.mark.anyio
async def test_an_experiment_has_a_page_with_its_metrics(site):
    variants = (Variant("control", control=True), Variant("short"))
    metrics = (Metric(key="latency", measure=Mean("latency")),)
    await site.experiments.create(Definition(key="first", variants=variants, metrics=metrics))
    await site.experiments.create(Definition(key="second", variants=variants))
    await site.sign_in()
    page = (await site.browser.get("/dashboard/experiments/first")).text
    assert "Metrics over time" in page
    assert page.count("<figure>") == 2  # the reward, and the metric
    assert 'href="?step_s=60" aria-current="true"' in page
    assert "This experiment has no series" in (await site.browser.get("/dashboard/experiments/second")).text
    assert (await site.browser.get("/dashboard/experiments/none")).status_code == 404
    for step in ("77", "x", "-60"):
        refused = await site.browser.get("/dashboard/experiments/first", params={"step_s": step})
        assert refused.status_code == 400
    assert 'href="/dashboard/experiments/first"' in (await site.browser.get("/")).text


@pytest.mark.anyio
async def test_the_page_of_an_experiment_is_for_those_who_may_read(site):
    assert (await site.browser.get("/dashboard/experiments/first")).status_code == 401
