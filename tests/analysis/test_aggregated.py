"""Totals from elsewhere: `POST /analyze` and `wald analyze` without --unit."""

import json

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from app.analysis.aggregated import AggregatedQuestion, answer
from app.cli.analyze import analyze_command
from app.core.errors import InvalidInput

FIXED = {"estimator": {"kind": "fixed_horizon"}}
COUNTS = [
    {"variant": "control", "n": 1_000, "successes": 300},
    {"variant": "short", "n": 1_000, "successes": 360},
]
AMOUNTS = [
    {"variant": "control", "metric": "latency", "n": 1_000, "mean": 2.1, "sd": 0.4},
    {"variant": "short", "metric": "latency", "n": 1_000, "mean": 2.0, "sd": 0.5},
]


def readout(rows, **fields):
    body = {"rows": rows} | fields
    return answer(msgspec.json.decode(json.dumps(body), type=AggregatedQuestion))


def errors_of(rows, **fields):
    with pytest.raises(InvalidInput) as caught:
        readout(rows, **fields)
    return {error.field: error.reason for error in caught.value.errors}


def run(path, *arguments):
    return CliRunner().invoke(analyze_command, [str(path), *arguments], env={"COLUMNS": "200"})


def test_counts_give_the_interval_of_scipy():
    variant = readout(COUNTS, plan=FIXED).metrics[0].variants[1]
    table = scipy_stats.contingency.relative_risk(360, 1_000, 300, 1_000)
    assert variant.effect == pytest.approx(0.06)
    assert variant.relative_effect == pytest.approx(table.relative_risk - 1)


def test_means_give_the_p_value_of_welch():
    variant = readout(AMOUNTS, plan=FIXED).metrics[0].variants[1]
    welch = scipy_stats.ttest_ind_from_stats(2.0, 0.5, 1_000, 2.1, 0.4, 1_000, equal_var=False)
    assert variant.p_value == pytest.approx(welch.pvalue, rel=1e-6)


@given(st.lists(st.integers(0, 1), min_size=4, max_size=300), st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_aggregated_rows_equal_the_rows_of_units(tmp_path_factory, solved, random):
    folder = tmp_path_factory.mktemp("rows")
    units, totals = folder / "units.csv", folder / "totals.csv"
    arms = ["control", "short", *(random.choice(["control", "short"]) for _ in solved[2:])]
    lines = (f"u{n},{arm},{value}" for n, (arm, value) in enumerate(zip(arms, solved, strict=True)))
    units.write_text("\n".join(["user,arm,metric", *lines]))
    counts = [
        (arm, arms.count(arm), sum(v for a, v in zip(arms, solved, strict=True) if a == arm))
        for arm in ("control", "short")
    ]
    rows = (f"{arm},{n},{successes}" for arm, n, successes in counts)
    totals.write_text("\n".join(["variant,n,successes", *rows]))
    by_unit = run(units, "--unit", "user", "--variant", "arm", "--metric", "metric:proportion", "--json")
    renamed = by_unit.output.replace("metric:proportion", "metric")
    assert json.loads(run(totals, "--json").output) == json.loads(renamed)


@pytest.mark.parametrize(
    ("rows", "means"),
    [
        ([(0, 0), (0, 0)], [None, None]),
        ([(1, 1), (1, 0)], [1.0, 0.0]),
        ([(1_000, 1_000), (1_000, 1_000)], [1.0, 1.0]),
        ([(0, 0), (1_000_000_000, 3)], [None, 3e-9]),
        ([(1_000_000_000, 300_000_000), (1_000_000_000, 300_100_000)], [0.3, 0.3001]),
    ],
)
@pytest.mark.parametrize("plan", [{}, FIXED])
def test_extreme_counts_are_answered(rows, means, plan):
    listed = [
        {"variant": name, "n": n, "successes": successes}
        for name, (n, successes) in zip(("control", "short"), rows, strict=True)
    ]
    (metric,) = readout(listed, plan=plan).metrics
    assert [variant.units for variant in metric.variants] == [n for n, _ in rows]
    compared = metric.variants[1]
    if compared.interval is None:
        assert compared.reason
        assert compared.verdict == "not_enough_data"
    else:
        assert compared.effect == pytest.approx(means[1] - means[0])
        assert compared.interval[0] <= compared.effect <= compared.interval[1]


def test_a_billion_units_decide_a_hundredth_of_a_point():
    rows = [
        {"variant": "control", "n": 10**9, "successes": 300_000_000},
        {"variant": "short", "n": 10**9, "successes": 300_100_000},
    ]
    assert readout(rows).recommendation.action == "ship"


def test_several_metrics_have_their_roles():
    metrics = [
        {"key": "metric"},
        {"key": "latency", "direction": "lower", "margin": {"size": 0.05, "relative": True}},
    ]
    shown = readout([*COUNTS, *AMOUNTS], metrics=metrics).metrics
    assert [(metric.key, metric.role) for metric in shown] == [
        ("metric", "primary"),
        ("latency", "guardrail"),
    ]


def test_the_split_is_checked_against_declared_shares():
    rows = [COUNTS[0] | {"n": 2_000}, COUNTS[1]]
    checked = readout(rows, shares={"control": 0.5, "short": 0.5})
    assert checked.recommendation.action == "fix_data"


@pytest.mark.parametrize(
    ("rows", "fields", "field", "reason"),
    [
        ([], {}, "rows", "must have a row for each variant, got none"),
        (COUNTS[:1], {}, "rows", "must have 2 to 50 variants, got 1"),
        ([*COUNTS, COUNTS[0]], {}, "rows[2].variant", "'control' has a second row"),
        ([COUNTS[0] | {"successes": 1_001}, COUNTS[1]], {}, "rows[0].successes", "must be at most n = 1000"),
        ([AMOUNTS[0] | {"sd": None}, AMOUNTS[1]], {}, "rows[0].sd", "is missing; give the standard dev"),
        ([AMOUNTS[0] | {"mean": None}, AMOUNTS[1]], {}, "rows[0].mean", "is missing; give successes"),
        ([AMOUNTS[0] | {"n": 0}, AMOUNTS[1]], {}, "rows[0].n", "is 0, so mean and sd must be empty"),
        ([COUNTS[0], AMOUNTS[1] | {"metric": "metric"}], {}, "rows[1]", "has successes in another row"),
        ([*COUNTS, AMOUNTS[0]], {}, "rows", "the metric 'latency' has no row of 'short'; add it"),
        (COUNTS, {"control": "kontrol"}, "control", "did you mean 'control'?"),
        (COUNTS, {"metrics": [{"key": "metrik"}]}, "metrics[0].key", "did you mean 'metric'?"),
        (COUNTS, {"metrics": [{"key": "metric", "role": "guardrail"}]}, "metrics[0].margin", "needs one"),
        (COUNTS, {"plan": {"covariates": ["age"]}}, "plan.covariates", "needs one row per unit"),
        (COUNTS, {"shares": {"control": 1}}, "shares", "has no share for 'short'"),
    ],
)
def test_an_error_names_the_row_the_field_and_the_fix(rows, fields, field, reason):
    assert reason in errors_of(rows, **fields)[field]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "variant,n,successes\ncontrol,10,11\nb,9,1",
            "line 2, column 'successes': must be at most n = 10, got 11",
        ),
        ("variant,n,successes\ncontrol,1.5,1\nb,9,1", "line 2, column 'n': 1.5 is not a whole number"),
        ("variant,n,successes\ncontrol,-1,1\nb,9,1", "line 2, column 'n': "),
        ("variant,n,mean,sd\ncontrol,9,1,-2\nb,9,1,1", "line 2, column 'sd': "),
        ("variant,n,success\ncontrol,9,1\nb,9,1", "line 1: totals need a column called 'successes'"),
        ("user,arm,solved\nu1,control,1", "no column 'variant'"),
        ("variant,solved\ncontrol,1", "a file with one row per unit needs --unit"),
    ],
)
def test_an_error_of_a_file_names_line_and_column(tmp_path, text, message):
    path = tmp_path / "totals.csv"
    path.write_text(text)
    shown = run(path)
    assert shown.exit_code == 1
    assert message in shown.output


def test_an_option_that_needs_units_is_refused(tmp_path):
    path = tmp_path / "totals.csv"
    path.write_text("variant,n,successes\ncontrol,10,1\nb,9,1")
    shown = run(path, "--covariate", "age")
    assert shown.exit_code == 2
    assert "--covariate needs one row per unit" in shown.output


@pytest.mark.anyio
async def test_totals_are_analyzed_over_http(client):
    answered = await client.post("/analyze", json={"rows": COUNTS})
    assert answered.status_code == 200, answered.text
    assert answered.json()["metrics"][0]["variants"][1]["estimate"] == pytest.approx(0.36)
    refused = await client.post("/analyze", json={"rows": [COUNTS[0] | {"successes": 2_000}, COUNTS[1]]})
    assert refused.status_code in {400, 422}
    assert refused.json()["errors"][0]["field"] == "rows[0].successes"
    assert np.isfinite(answered.json()["metrics"][0]["variants"][1]["effect"])
