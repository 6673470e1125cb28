"""`wald agreement` and `wald analyze --judge`: files read, numbers, tables, JSON and errors."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

from app.cli.agreement import agreement_command
from app.cli.analyze import analyze_command
from stats.agreement import cohen_kappa, krippendorff_alpha
from stats.prediction_powered import JudgedTotals, prediction_powered_mean

RNG = np.random.default_rng(20260101)
TRUTH = RNG.integers(2, size=400)


def rated(share_right):
    return np.where(RNG.random(400) < share_right, TRUTH, 1 - TRUTH)


ALICE, BOB, JUDGE = rated(0.95), rated(0.9), rated(0.8)
NAMES = np.array(["bad", "good"])


def run(command, *arguments):
    return CliRunner().invoke(command, list(map(str, arguments)), env={"COLUMNS": "200"})


def answer(command, *arguments):
    result = run(command, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def write(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def labels(tmp_path):
    rows = [
        (f"c{item // 4}", NAMES[a], NAMES[b] if item % 5 else "", NAMES[j])
        for item, (a, b, j) in enumerate(zip(ALICE, BOB, JUDGE, strict=True))
    ]
    return write(tmp_path / "labels.csv", ("conversation", "alice", "bob", "judge"), rows)


@pytest.fixture
def grades(tmp_path):
    rows = [(a + j + 1, a + b + 1) for a, b, j in zip(ALICE, BOB, JUDGE, strict=True)]
    return write(tmp_path / "grades.csv", ("judge", "human"), rows)


def test_agreement_of_all_raters_and_each_pair(labels):
    found = answer(agreement_command, labels, "--raters", "alice,bob,judge")
    names = [(row["name"], row["raters"]) for row in found["coefficients"]]
    everybody = ["alice", "bob", "judge"]
    assert names[:3] == [
        ("Krippendorff's alpha", everybody),
        ("Gwet's AC1", everybody),
        ("Fleiss' kappa", everybody),
    ]
    assert [raters for _, raters in names[3:]] == [["alice", "bob"], ["alice", "judge"], ["bob", "judge"]]
    assert [row["items"] for row in found["coefficients"]] == [400, 400, 320, 320, 400, 320]
    table = np.zeros((2, 2), dtype=np.int64)
    np.add.at(table, (ALICE, JUDGE), 1)
    expected = cohen_kappa(table)
    row = found["coefficients"][4]
    assert row["value"] == pytest.approx(expected.value)
    bounds = expected.interval(alpha=0.05)
    assert row["interval"] == pytest.approx([bounds.lower, bounds.upper])


def test_units_widen_the_intervals_of_items_that_resemble_each_other(tmp_path):
    units = np.repeat(np.arange(40), 10)
    second = np.where((RNG.random(40) < 0.7)[units], TRUTH, 1 - TRUTH)
    path = write(tmp_path / "l.csv", ("u", "a", "b"), zip(units, TRUTH, second, strict=True))
    widths = []
    for more in ((), ("--unit", "u")):
        found = answer(agreement_command, path, "--raters", "a,b", *more)
        assert found["clusters"] == (40 if more else None)
        widths.append([row["interval"][1] - row["interval"][0] for row in found["coefficients"]])
    assert (np.array(widths[1]) > 1.8 * np.array(widths[0])).all()


def test_grades_are_weighted_by_their_distance(grades):
    found = answer(agreement_command, grades, "--raters", "judge,human", "--scale", "ordinal")
    ratings = np.stack([ALICE + JUDGE + 1, ALICE + BOB + 1], axis=1).astype(float)
    expected = krippendorff_alpha(ratings, scale="ordinal").value
    assert found["coefficients"][0]["value"] == pytest.approx(expected)
    assert found["coefficients"][1]["name"] == "Cohen's kappa, quadratic weights"
    interval = answer(agreement_command, grades, "--raters", "judge,human", "--scale", "interval")
    assert [row["name"] for row in interval["coefficients"]] == ["Krippendorff's alpha"]


def test_agreement_without_variety_says_why(tmp_path):
    path = write(tmp_path / "same.csv", ("a", "b"), [("yes", "yes")] * 9)
    found = answer(agreement_command, path, "--raters", "a,b")
    reasons = {row["name"]: row["reason"] for row in found["coefficients"]}
    assert "one value" in reasons["Krippendorff's alpha"]
    shown = run(agreement_command, path, "--raters", "a,b").output
    assert "Krippendorff's alpha of a, b: one value only was given" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--raters", "alice"), "two or more different columns; got 'alice'"),
        (("--raters", "alice,alice"), "two or more different columns"),
        (("--raters", "alice,jugde"), "did you mean 'judge'?"),
        (("--raters", "alice,bob", "--scale", "interval"), "is not a number"),
    ],
)
def test_agreement_refuses_what_it_cannot_read(labels, arguments, message):
    result = run(agreement_command, labels, *arguments)
    assert result.exit_code != 0
    assert message in result.output


@pytest.fixture
def judged(tmp_path):
    rng = np.random.default_rng(20260102)
    rows = []
    for unit in range(4_000):
        arm = ("control", "short")[unit % 2]
        truth = int(rng.random() < (0.6 if arm == "control" else 0.75))
        score = int(rng.random() < (0.9 if truth else 0.3))
        chosen = rng.random() < 0.1
        rows.append((f"u{unit}", arm, score, truth if chosen else "", 0.1))
    return write(tmp_path / "runs.csv", ("user", "arm", "score", "human", "chance"), rows)


COLUMNS = ("--unit", "user", "--variant", "arm", "--judge", "score", "--label", "human")


def test_quality_corrects_the_judge_and_is_narrower_than_labels_alone(judged):
    found = answer(analyze_command, judged, *COLUMNS)
    control, short = found["variants"]
    assert (control["variant"], control["control"], control["units"]) == ("control", True, 2_000)
    assert control["interval"][0] <= 0.6 <= control["interval"][1]
    assert short["interval"][0] <= 0.75 <= short["interval"][1]
    assert control["bias"] == pytest.approx(control["judge_mean"] - control["quality"])
    assert control["label_gain"] > 1.2
    assert short["effect"] == pytest.approx(short["quality"] - control["quality"])
    assert short["effect_interval"][0] <= 0.15 <= short["effect_interval"][1]
    with judged.open() as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "control"]
    human = np.array([float(row["human"]) if row["human"] else np.nan for row in rows])
    totals = JudgedTotals.from_observations(
        np.array([float(row["score"]) for row in rows]), human, np.full(len(rows), 0.1)
    )
    expected = prediction_powered_mean(totals).mean
    assert control["quality"] == pytest.approx(expected.value)
    weighted = answer(analyze_command, judged, *COLUMNS, "--inclusion", "chance")
    assert weighted["variants"][0]["quality"] == pytest.approx(expected.value)


def test_quality_is_a_table_that_says_what_it_is(judged):
    shown = run(analyze_command, judged, *COLUMNS).output
    assert "human, with the help of score" in shown
    assert "fixed horizon" in shown
    assert "labels worth" in shown


def test_a_variant_with_too_few_labels_says_so(tmp_path):
    rows = [(f"u{n}", "ab"[n % 2], n % 3, n % 3 if n % 2 and n < 60 else "") for n in range(200)]
    path = write(tmp_path / "few.csv", ("user", "arm", "score", "human"), rows)
    found = answer(analyze_command, path, *COLUMNS)
    assert found["variants"][0]["reason"] == "needs at least 3 labels, has 0: no response has a human label"
    assert found["variants"][0]["quality"] is None
    assert found["variants"][1]["quality"] is not None
    assert found["variants"][1]["effect"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (COLUMNS[:6], "--judge and --label belong together"),
        ((*COLUMNS, "--metric", "score"), "take no options of metrics"),
        ((*COLUMNS, "--figure", "x.html"), "--figure belongs to --metric"),
        (COLUMNS[:4], "Missing option --metric"),
        ((*COLUMNS[:4], "--metric", "score", "--inclusion", "chance"), "--inclusion belongs to --judge"),
        ((*COLUMNS, "--control", "contrl"), "did you mean 'control'?"),
        ((*COLUMNS, "--inclusion", "score"), "must be in (0, 1]; got 0"),
        (("--unit", "arm", *COLUMNS[2:]), "has several rows; give one per unit"),
        ((*COLUMNS[:4], "--judge", "human", "--label", "score"), "is empty; score every unit"),
    ],
)
def test_quality_refuses_what_it_cannot_answer(judged, arguments, message):
    result = run(analyze_command, judged, *arguments)
    assert result.exit_code != 0
    assert message in result.output
