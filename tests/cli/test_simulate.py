"""`wald simulate`: what it shows, writes and refuses. It needs no server."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli.simulate import simulate_command

TRAFFIC = ("--requests-per-day", "200", "--days", "5", "--runs", "20")
CSV = "task,model,score\n" + "".join(f"{task},x,{task % 5}\n{task},y,{task % 3 + 2}\n" for task in range(60))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(simulate_command, [*arguments, *TRAFFIC], env={"COLUMNS": "120"})


@pytest.fixture
def scores(tmp_path: Path) -> str:
    path = tmp_path / "scores.csv"
    path.write_text(CSV, encoding="utf-8")
    return str(path)


def test_it_advises_and_shows_every_policy_with_its_curve():
    done = run("--means", "0.2,0.4")
    assert done.exit_code == 0, done.output
    assert "1,000 requests in batches of 5, 20 runs" in done.output
    assert "Use " in done.output
    for name in ("thompson", "optimistic_thompson", "ucb", "epsilon_greedy", "fixed"):
        assert name in done.output
    assert "EEEE" in done.output  # the line of the even split


@pytest.mark.parametrize(
    "environment",
    [
        ("--change", "2:0.5,0.3"),
        ("--drift-to", "0.4,0.2", "--drift-days", "3"),
        ("--season", "0.1"),
        ("--delay-hours", "12"),
    ],
)
def test_environments_are_chosen_by_options(environment):
    done = run("--means", "0.2,0.4", *environment, "--policy", "thompson")
    assert done.exit_code == 0, done.output


def test_a_log_stands_for_the_means(scores):
    of_log = ("--log", scores, "--variant", "model", "--reward", "score", "--task", "task", "--scale", "0:4")
    done = run(*of_log, "--policy", "fixed", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    # Averages are 2 and 3 of 4: an even split loses half of 0.25 per request.
    assert result["policies"][0]["lost_rewards"] == pytest.approx(125, rel=0.05)


def test_the_figure_is_a_page_of_its_own(tmp_path):
    path = tmp_path / "regret.html"
    done = run("--means", "0.2,0.4", "--policy", "thompson", "--policy", "fixed", "--figure", str(path))
    assert done.exit_code == 0, done.output
    page = path.read_text(encoding="utf-8")
    assert "rewards lost so far (regret)" in page
    assert "thompson" in page
    assert "<script src=" not in page  # nothing is loaded from elsewhere


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --log"),
        (("--means", "0.2,0.4", "--season", "0.1", "--drift-to", "0.4,0.2"), "give either --log"),
        (("--means", "a,b"), "must be A,B,..., as in 0.1,0.12"),
        (("--means", "0.2,1.4"), "environment.means[1]"),
        (("--means", "0.2,0.4", "--change", "0.2"), "must be DAY:A,B,..."),
        (("--means", "0.2,0.4", "--change", "1:0.2,0.2,0.2"), "changes[0].means must have a number for each"),
        (("--means", "0.2,0.4", "--policy", "unheard-of"), "policies[0]"),
        (("--means", "0.2,0.4", "--policy", "{"), "is not valid JSON"),
        (("--means", "0.2,0.4", "--batch", "0"), "traffic.batch"),
    ],
)
def test_mistakes_are_named(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_a_log_needs_its_columns_and_has_to_be_readable(scores):
    done = run("--log", scores)
    assert done.exit_code == 2
    assert "--log needs --variant and --reward" in done.output
    done = run("--log", scores, "--variant", "model", "--reward", "score", "--task", "task")
    assert done.exit_code == 1
    assert "is off the scale 0:1" in " ".join(done.output.replace("│", " ").split())
