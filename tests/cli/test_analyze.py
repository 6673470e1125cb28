"""`wald analyze` and `wald power`: files read, errors that name line and column, tables, JSON and figures."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from app.cli.analyze import analyze_command
from app.cli.display.readout import forest_line
from app.cli.files.measurements import measure_of
from app.cli.power import power_command

SCORES = Path(__file__).parents[3] / "shared/data/llm_judge_scores.csv"


def run(*arguments):
    return CliRunner().invoke(analyze_command, list(map(str, arguments)), env={"COLUMNS": "200"})


def write(path, header, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


@pytest.fixture
def experiment(tmp_path):
    rng = np.random.default_rng(20260101)
    rows = []
    for n in range(6_000):
        arm = ("control", "new")[n % 2]
        before = rng.normal(10, 2)
        solved = int(rng.random() < (0.3 if arm == "control" else 0.4))
        rows.append((f"u{n}", arm, solved, round(before + rng.normal(), 4), round(before, 4), "xyz"[n % 3]))
    return write(tmp_path / "runs.csv", ("user", "arm", "solved", "cost", "before", "plan"), rows)


BASE = ("--unit", "user", "--variant", "arm")


def readout(*arguments):
    found = run(*arguments, "--json")
    assert found.exit_code == 0, found.output
    return json.loads(found.output)


def test_a_file_becomes_a_readout(experiment):
    found = readout(
        experiment,
        *BASE,
        "--metric",
        "solved",
        "--metric",
        "cost",
        "--covariate",
        "before",
        "--segment",
        "plan",
    )
    solved, cost = found["metrics"]
    assert (solved["kind"], cost["kind"]) == ("proportion", "mean")
    assert (found["control"], found["units"]) == ("control", 6_000)
    new = solved["variants"][1]
    assert new["verdict"] == "better"
    assert new["interval"][0] < 0.1 < new["interval"][1]
    assert cost["variants"][1]["variance_reduction"] == pytest.approx(0.8, abs=0.05)
    assert [segment["segment"] for segment in new["segments"]] == ["x", "y", "z"]
    assert found["recommendation"]["action"] == "ship"


def test_the_table_and_the_figure(experiment, tmp_path):
    figure = tmp_path / "forest.html"
    found = run(experiment, *BASE, "--metric", "solved", "--shares", "control=.5,new=.5", "--figure", figure)
    assert found.exit_code == 0, found.output
    assert "Ship new" in found.output
    assert "better" in found.output
    assert "valid at every look" in found.output
    page = figure.read_text()
    assert "plotly" in page
    assert 'src="http' not in page  # nothing is loaded from elsewhere


def test_guardrails_ratios_quantiles_caps_and_plans(experiment):
    found = readout(
        experiment, *BASE, "--metric", "solved", "--metric", "cost:p95", "--metric", "solved/cost:ratio",
        "--metric", "cost", "--guardrail", "cost=5%", "--lower", "cost", "--lower", "cost:p95",
        "--cap", "cost=0:30", "--plan", "fixed-horizon", "--correction", "bonferroni",
    )  # fmt: skip
    kinds = {metric["key"]: (metric["kind"], metric["role"]) for metric in found["metrics"]}
    assert kinds == {
        "solved": ("proportion", "primary"),
        "cost:p95": ("quantile", "secondary"),
        "solved/cost:ratio": ("ratio", "secondary"),
        "cost": ("mean", "guardrail"),
    }
    assert all("fixed horizon" in metric["guarantee"] for metric in found["metrics"])
    assert found["metrics"][3]["variants"][1]["verdict"] in {"safe", "better"}


def test_units_seen_in_two_variants_are_left_out_and_counted(tmp_path):
    rows = [(n, "ab"[n % 2], n % 3 == 0) for n in range(400)] + [(0, "b", 1), (1, "a", 0)]
    path = write(tmp_path / "x.csv", ("u", "v", "m"), [(u, v, int(m)) for u, v, m in rows])
    found = readout(path, "--unit", "u", "--variant", "v", "--metric", "m")
    assert found["units"] == 398
    crossed = next(one for one in found["integrity"] if one["kind"] == "crossovers")
    assert crossed["severity"] == "note"
    assert crossed["detail"].startswith("2 units (0.50%)")


def test_rows_of_one_unit_are_one_unit_and_empty_cells_are_missing(tmp_path):
    rows = [(n, "ab"[n % 2], "" if n >= 300 else n % 5) for n in range(400)]
    rows += [(n, "ab"[n % 2], 10) for n in range(100)]
    path = write(tmp_path / "x.csv", ("u", "v", "m"), rows)
    found = readout(path, "--unit", "u", "--variant", "v", "--metric", "m:mean", "--plan", "fixed-horizon")
    a, b = found["metrics"][0]["variants"]
    assert (a["units"], a["missing"], b["units"]) == (150, 50, 150)
    values = [np.mean([n % 5, 10]) if n < 100 else n % 5 for n in range(300)]
    assert b["effect"] == pytest.approx(np.mean(values[1::2]) - np.mean(values[::2]))


@pytest.mark.parametrize(
    ("separator", "written"),
    [
        (";", str),
        ("\t", str),
        (";", lambda value: str(value).replace(".", ",")),
        (",", lambda value: f'"{value}"'),
        (",", lambda value: f" {value} "),
    ],
)
def test_a_file_is_read_as_spreadsheets_databases_and_r_write_it(tmp_path, separator, written):
    """Other separators, decimal commas, quotes, blanks, NA and NULL, True and False, empty lines."""
    rows = [(f"é{n}", ("контроль", "変体")[n % 2], n % 5 / 2, n % 3 == 0) for n in range(600)]
    plain = write(tmp_path / "plain.csv", ("u", "v", "m", "ok"), [(u, v, m, int(ok)) for u, v, m, ok in rows])
    with plain.open("a") as file:
        file.writelines(f"x{n},{('контроль', '変体')[n % 2]},,\n" for n in range(20))
    other = tmp_path / "other.csv"
    lines = [("u", "v", "m", "ok"), *((u, f" {v}", written(m), ok) for u, v, m, ok in rows)]
    lines += [(f"x{n}", ("контроль", "変体")[n % 2], ("NA", "NULL")[n % 2], "") for n in range(20)]
    text = "\n".join(separator.join(map(str, line)) for line in lines)
    other.write_text(f"\ufeff{text}\n\n")
    arguments = ("--unit", "u", "--variant", "v", "--metric", "m", "--metric", "ok", "--control", "контроль")
    assert readout(other, *arguments) == readout(plain, *arguments)


def test_moving_propensities_are_taken_for_a_bandit(tmp_path):
    rng = np.random.default_rng(20260102)
    rows = []
    for n in range(4_000):
        share = 0.5 if n < 1_000 else 0.9
        arm = "b" if rng.random() < share else "a"
        rows.append((n, arm, rng.normal(1.0 if arm == "a" else 1.5), share if arm == "b" else 1 - share))
    path = write(tmp_path / "x.csv", ("u", "v", "m", "p"), rows)
    arguments = (path, "--unit", "u", "--variant", "v", "--metric", "m")
    found = readout(*arguments, "--propensity", "p")
    assert found["adaptive"]
    assert found["metrics"][0]["method"].startswith("confidence sequence from logged propensities")
    interval = found["metrics"][0]["variants"][1]["interval"]
    assert interval[0] < 0.5 < interval[1]
    assert [one["severity"] for one in found["integrity"]] == ["fine"]
    assert not readout(*arguments)["adaptive"]


@pytest.mark.parametrize(
    ("rows", "metric", "expected"),
    [
        ([(1, "a", 1), (2, "b", "x")], "m", "line 3, column 'm': 'x' is not a number"),
        ([(1, "a", 1), (2, "b", "NaN")], "m", "line 3, column 'm': 'NaN' is not finite"),
        ([(1, "a", 1), (2, "b", "inf")], "m", "line 3, column 'm': 'inf' is not finite"),
        ([(1, "a", 1), (2, "b", 1)], "other", "line 1: no column 'other'; there are u, v, m"),
        ([(1, "a", 1), (2, "b", "")], "m", "column 'm': no value in any row of 'b'"),
        ([(1, "a", 1), (2, "a", 1)], "m", "needs two or more variants, found a"),
        ([], "m", "line 1: a header without rows"),
        ([(1, "a", 1), (2, "", 1)], "m", "line 3, column 'v': is empty"),
        ([(1, "a", 1), (2, "b", 0.5)], "m:proportion", "line 3, column 'm': 0.5 is neither 0 nor 1"),
        ([(1, "a", 1), (1, "a", 2), (2, "b", 1)], "m:p50", "line 3, column 'm': a quantile needs one row"),
        ([(1, "a", 1), (1, "b", 2)], "m", "column 'u': every unit has rows in several variants"),
        ([(1, "a", 1), (2, "b")], "m", "line 3: has 2 cells, the header has 3"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, rows, metric, expected):
    path = write(tmp_path / "x.csv", ("u", "v", "m"), rows)
    found = run(path, "--unit", "u", "--variant", "v", "--metric", metric)
    assert found.exit_code != 0
    assert expected in " ".join(found.output.replace("│", " ").split()), found.output
    assert "Traceback" not in found.output


@pytest.mark.parametrize(
    "options",
    [
        ("--control", "z"),
        ("--guardrail", "m=-1"),
        ("--guardrail", "nope=1"),
        ("--cap", "m=5"),
        ("--looks", "0.5,1"),
        ("--plan", "group-sequential", "--looks", "0.5,0.2"),
        ("--shares", "a=.5"),
        ("--shares", "a=.5,b=.2"),
        ("--metric", "m/x"),
        ("--metric", "m:p0"),
    ],
)
def test_options_that_mean_nothing_are_refused_in_words(tmp_path, options):
    path = write(tmp_path / "x.csv", ("u", "v", "m"), [(n, "ab"[n % 2], n) for n in range(20)])
    found = run(path, "--unit", "u", "--variant", "v", "--metric", "m", *options)
    assert found.exit_code != 0
    assert isinstance(found.exception, SystemExit), found.exception


# Numbers that were plausible and wrong


def variant(found, key, metric=0):
    return next(one for one in found["metrics"][metric]["variants"] if one["variant"] == key)


def finding(found, kind):
    return next(one for one in found["integrity"] if one["kind"] == kind)


PAIR = ("--unit", "u", "--variant", "v")


def test_a_relative_guardrail_of_a_negative_mean_is_safe_if_2_percent_worse(tmp_path):
    rng = np.random.default_rng(20260107)
    noise = rng.normal(0, 0.5, 8_000)
    rows = [(n, ("control", "b")[n % 2], (-10.009, -10.215)[n % 2] + noise[n]) for n in range(8_000)]
    path = write(tmp_path / "x.csv", ("u", "v", "m"), rows)
    for plan in ("always-valid", "fixed-horizon"):
        found = variant(readout(path, *PAIR, "--metric", "m", "--guardrail", "m=10%", "--plan", plan), "b")
        assert found["verdict"] == "safe"
        assert found["relative_effect"] == pytest.approx(-0.0206, abs=0.003)


@pytest.mark.parametrize("n", [24, 3_000])
def test_a_declared_variant_without_rows_is_a_broken_sample_ratio(tmp_path, n):
    rows = [(k, ("control", "c")[k % 2], k % 3) for k in range(n)]
    path = write(tmp_path / "x.csv", ("u", "v", "m"), rows)
    found = readout(path, *PAIR, "--metric", "m:mean", "--shares", "control=.3333,b=.3333,c=.3334")
    ratio = finding(found, "sample_ratio")
    assert ratio["severity"] == "broken"
    assert ratio["detail"].startswith("b got no units")
    assert found["recommendation"]["action"] == "fix_data"
    assert variant(found, "b")["units"] == 0
    assert "no unit of b" in variant(found, "b")["reason"]


def test_one_variant_alone_is_a_broken_sample_ratio_if_others_were_declared(tmp_path):
    path = write(tmp_path / "x.csv", ("u", "v", "m"), [(n, "a", n % 3) for n in range(100)])
    found = readout(path, *PAIR, "--metric", "m:mean", "--shares", "a=.5,b=.5")
    assert finding(found, "sample_ratio")["detail"] == "b got no units; its logged probabilities give 50"
    refused = run(path, *PAIR, "--metric", "m:mean")
    assert refused.exit_code == 1
    assert "declare them with --shares" in " ".join(refused.output.replace("│", " ").split())


def test_rows_of_a_variant_without_a_share_are_a_leak_or_a_misspelling(tmp_path):
    path = write(tmp_path / "x.csv", ("u", "v", "m"), [(n, "abc"[n % 3], n % 3) for n in range(300)])
    found = readout(path, *PAIR, "--metric", "m:mean", "--shares", "a=.5,b=.5")
    assert finding(found, "zero_weight")["detail"] == "100 assignments to c while its probability was 0"
    for shares in ("a=.5,x=.5", "b=1,x=0", "x=.5,y=.5"):
        found = readout(path, *PAIR, "--metric", "m:mean", "--shares", shares)
        assert finding(found, "zero_weight")["severity"] == "broken"
    refused = run(path, *PAIR, "--metric", "m:mean", "--shares", "a=.4,b=.3,cc=.2")
    assert "no share was given for c" in refused.output
    assert "did you mean 'cc'?" in " ".join(refused.output.replace("│", " ").split())


def ratio_file(tmp_path):
    rng, rows = np.random.default_rng(20260108), []
    for n in range(6_000):
        pre, seen = rng.normal(5, 1), 1 + rng.poisson(3)
        rate = min(max(0.3 + 0.1 * (pre - 5) + 0.02 * (n % 2), 0), 1)
        rows.append((n, ("control", "b")[n % 2], rng.binomial(seen, rate), seen, pre, 7))
    return write(tmp_path / "x.csv", ("u", "v", "clicks", "seen", "pre", "seven"), rows)


@pytest.mark.parametrize("cap", [(), ("--cap", "clicks/seen:ratio=0.1:0.8")])
def test_covariates_narrow_ratios_capped_ones_too(tmp_path, cap):
    """Against the rows themselves: the delta method's residuals, less what the covariate explains."""
    path = ratio_file(tmp_path)
    asked = (path, *PAIR, "--metric", "clicks/seen:ratio", "--plan", "fixed-horizon", *cap)
    plain, adjusted = (variant(readout(*asked, *more), "b") for more in ((), ("--covariate", "pre")))
    data = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=(2, 3, 4))
    arm = np.arange(6_000) % 2
    clicks, seen, pre = data.T
    if cap:
        clicks = np.clip(clicks, 0.1 * seen, 0.8 * seen)
    parts = np.zeros(6_000)
    for one in (0, 1):
        own = arm == one
        value = clicks[own].sum() / seen[own].sum()
        parts[own] = value + (clicks[own] - value * seen[own]) / seen[own].mean()
    centred = [x - np.array([x[arm == one].mean() for one in (0, 1)])[arm] for x in (parts, pre)]
    slope = centred[0] @ centred[1] / (centred[1] @ centred[1])
    rest = parts - slope * pre
    effect = rest[arm == 1].mean() - rest[arm == 0].mean()
    error = np.sqrt(sum(rest[arm == one].var(ddof=1) / 3_000 for one in (0, 1)))
    assert adjusted["effect"] == pytest.approx(effect, rel=1e-9)
    width = (adjusted["interval"][1] - adjusted["interval"][0]) / 2
    assert width == pytest.approx(1.96 * error, rel=2e-3)
    assert adjusted["variance_reduction"] == pytest.approx(0.16, abs=0.03)
    assert width < (plain["interval"][1] - plain["interval"][0]) / 2
    assert plain["variance_reduction"] is None


def test_a_constant_covariate_changes_nothing_and_is_noted(tmp_path):
    path = ratio_file(tmp_path)
    for metric in ("clicks/seen:ratio", "clicks"):
        plain, constant = (
            readout(path, *PAIR, "--metric", metric, *more) for more in ((), ("--covariate", "seven"))
        )
        assert constant["metrics"] == plain["metrics"]
        assert "seven not used" in finding(constant, "covariates")["detail"]


def test_a_covariate_that_the_treatment_moved_is_a_finding_and_not_used(tmp_path):
    rng, rows = np.random.default_rng(20260109), []
    for n in range(4_000):
        pre = rng.normal() + 0.15 * (n % 2)
        rows.append((n, ("control", "b")[n % 2], 0.05 * (n % 2) + pre + 0.1 * rng.normal(), pre))
    path = write(tmp_path / "x.csv", ("u", "v", "m", "pre"), rows)
    found = readout(path, *PAIR, "--metric", "m", "--covariate", "pre")
    assert variant(found, "b")["effect"] == pytest.approx(0.2, abs=0.07)
    assert finding(found, "covariate_balance")["severity"] == "broken"
    assert "not adjusted" in finding(found, "covariate_balance")["detail"]


def test_decimal_commas_are_read_and_doubt_is_refused(tmp_path):
    cells = ["950,5", "1.234", "900,25", "739,25"]
    path = tmp_path / "x.csv"
    path.write_text("u;v;m\n" + "".join(f"{n};{'ab'[n // 4 % 2]};{cells[n % 4]}\n" for n in range(400)))
    found = readout(path, *PAIR, "--metric", "m")
    assert variant(found, "a")["estimate"] == pytest.approx(956.0)
    path.write_text("u;v;m\n" + "".join(f"{n};{'ab'[n % 2]};1.234\n" for n in range(40)))
    refused = run(path, *PAIR, "--metric", "m:mean")
    assert "column 'm': '1.234' may be 1.234 or 1234" in " ".join(refused.output.replace("│", " ").split())
    assert variant(readout(path, *PAIR, "--metric", "m:mean", "--decimal", "comma"), "a")["estimate"] == 1234


def test_a_metric_without_values_says_so_and_the_others_are_read(tmp_path):
    rows = [(n, "ab"[n % 2], n % 5, "" if n % 2 else n, "") for n in range(400)]
    path = write(tmp_path / "x.csv", ("u", "v", "m", "half", "none"), rows)
    found = readout(path, *PAIR, "--metric", "m", "--metric", "half:mean", "--metric", "none:mean")
    assert variant(found, "b")["interval"] is not None
    assert variant(found, "b", 1)["reason"] == "no unit of b has a value"
    assert "no unit of a or b" in variant(found, "b", 2)["reason"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--covariate", "m"), "'m' is what the metric 'm' measures"),
        (("--covariate", "c", "--covariate", "c"), "'c' is given twice"),
        (("--guardrail", "m=1", "--guardrail", "m=2"), "'m' is given twice"),
        (("--shares", "a=.5,a=.5"), "'a' is given twice"),
        (("--guardrail", "mm=1"), "did you mean 'm'?"),
        (("--guardrail", "m=nan"), "must be a finite number"),
        (("--metric", "c:p50", "--cap", "c:p50=0:1"), "'c:p50' is a quantile"),
        (("--control", "A"), "did you mean 'a'?"),
    ],
)
def test_options_that_would_be_ignored_are_refused(tmp_path, options, expected):
    path = write(tmp_path / "x.csv", ("u", "v", "m", "c"), [(n, "ab"[n % 2], n, n % 7) for n in range(40)])
    found = run(path, *PAIR, "--metric", "m", *options)
    assert found.exit_code in (1, 2)
    assert expected in " ".join(found.output.replace("│", " ").split())


def test_a_forest_line_worked_by_hand():
    assert forest_line((-1.0, 1.0), 0.0, 1.0, 5) == "--o--"
    assert forest_line((0.5, 1.0), 0.75, 1.0, 9) == "    | -o-"
    assert forest_line((None, -0.5), -1.0, 1.0, 9)[0] == "<"


def test_kinds_of_metrics():
    assert measure_of("a/b").denominator == "b"
    assert measure_of("latency:p99.9").q == pytest.approx(0.999)
    with pytest.raises(ValueError, match="NUMERATOR/DENOMINATOR"):
        measure_of("a:ratio")


@pytest.mark.skipif(not SCORES.exists(), reason="the real judge scores are not here")
def test_on_real_judge_scores_intervals_hold_the_truth_and_the_best_model_is_declared(tmp_path):
    """Each task gets one of four models at random; the truth is known from the scores of all of them."""
    from app.experiments.plan import AlwaysValid
    from benchmarks import judge_readout as judged

    table = judged.scores(SCORES)
    truth = dict(zip(judged.MODELS, table.mean(axis=0).tolist(), strict=True))
    path = tmp_path / "experiment.csv"
    covered = declared = wrong = 0
    for seed in range(40):
        judged.assigned(table, seed, path)
        found = judged.readout_of(path, AlwaysValid())
        covered += judged.covers(found, truth)
        declared += found.leader.declared and found.leader.variant == "Qwen1.5-72B-Chat"
        wrong += found.leader.declared and found.leader.variant != "Qwen1.5-72B-Chat"
    assert covered >= 33  # a correct 95 % method is below with probability 1e-3 at most
    assert declared >= 25
    assert wrong <= 1


def test_power_on_the_command_line(tmp_path):
    def ask(*arguments):
        return CliRunner().invoke(power_command, arguments, env={"COLUMNS": "160"})

    found = ask(
        "--baseline",
        "0.1",
        "--effect",
        "0.01",
        "--units-per-day",
        "500",
        "--figure",
        str(tmp_path / "f.html"),
    )
    assert found.exit_code == 0, found.output
    assert "29,502 units" in found.output
    assert "traffic is too low" in found.output
    assert "judge" in found.output
    assert (tmp_path / "f.html").stat().st_size > 1_000_000
    answer = json.loads(
        ask("--baseline", ".1", "--effect", ".01", "--design", "always-valid", "--json").output
    )
    assert answer["inflation"] == pytest.approx(1.69, abs=0.02)
    refused = ask("--baseline", "2", "--effect", "0.01")
    assert refused.exit_code == 2
    assert "--baseline" in refused.output
