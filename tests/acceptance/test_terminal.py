"""`wald status` and `wald experiments` against a whole Wald."""

import json
import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from app.cli.main import main
from tests.support.processes import heed_interrupts
from tests.support.server import up

DEFINITION = {
    "key": "answers",
    "variants": [{"key": "control", "control": True}, {"key": "short"}],
    "metrics": [
        {
            "key": "error_rate",
            "measure": {"kind": "proportion", "signal": "error", "silence": 0},
            "role": "guardrail",
            "direction": "lower",
            "margin": {"size": 0.02},
        }
    ],
}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with up(tmp_path_factory.mktemp("terminal") / "data") as server:
        yield server


@pytest.fixture
def wald(running):
    def wald(*arguments, stdin=None, columns="100", key=running.key):
        environment = {"COLUMNS": columns, "WALD_URL": running.url, "WALD_API_KEY": key}
        return CliRunner().invoke(main, list(arguments), input=stdin, env=environment)

    return wald


def created(wald, key, **changes):
    done = wald("experiments", "create", "-", stdin=json.dumps(DEFINITION | {"key": key} | changes))
    assert done.exit_code == 0, done.stderr


def test_an_experiment_lives_from_a_file_to_its_archive(wald, tmp_path):
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(DEFINITION))
    done = wald("experiments", "create", str(file))
    assert done.stdout == "answers is a draft. Start it: wald experiments start answers\n"
    assert "answers" in wald("experiments", "list", "--state", "draft").stdout
    assert "answers" not in wald("experiments", "list", "--state", "running").stdout
    for action, state in (("start", "running"), ("pause", "paused"), ("resume", "running")):
        done = wald("experiments", action, "answers", "--json")
        assert json.loads(done.stdout)["state"] == state
    done = wald("experiments", "stop", "answers", "--winner", "short")
    assert done.stdout == "answers is stopped: it serves short.\n"
    assert wald("experiments", "archive", "answers").exit_code == 0
    (listed,) = json.loads(wald("experiments", "list", "--state", "archived", "--json").stdout)["experiments"]
    assert listed["key"] == "answers"


def test_what_show_prints_can_be_created_again(wald):
    created(wald, "original")
    shown = wald("experiments", "show", "original").stdout
    again = shown.replace('"original"', '"copy"')
    assert wald("experiments", "create", "-", stdin=again).exit_code == 0
    assert wald("experiments", "show", "copy").stdout == again
    assert json.loads(wald("experiments", "show", "copy", "--json").stdout)["state"] == "draft"


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"policy": {"kind": "tompson"}}, ["policy.kind: Invalid value 'tompson': one of fixed, thompson,"]),
        (
            {"variants": [{"key": "a b", "control": True}, {"key": "b"}]},
            ["variants[0].key: must be", '; got "a b"'],
        ),
        ({"variants": [{"key": "a"}, {"key": "b"}]}, ["variants: exactly one must be the control, got 0"]),
        ({"policy": {"kind": "thompson", "exploration_floor": 3}}, ["policy.exploration_floor:", "; got 3"]),
        ({"stickines": "unit"}, ["stickines: unknown field; did you mean stickiness?"]),
    ],
)
def test_a_wrong_definition_exits_2_and_names_field_value_bound_and_fix_once(wald, change, lines):
    done = wald("experiments", "create", "-", stdin=json.dumps(DEFINITION | change))
    assert (done.exit_code, done.stdout) == (2, "")
    for line in lines:
        assert done.stderr.count(line) == 1, done.stderr


def test_what_the_state_does_not_allow_exits_1(wald):
    created(wald, "twice")
    assert wald("experiments", "start", "twice").exit_code == 0
    again = wald("experiments", "start", "twice")
    assert again.exit_code == 1
    assert "answered 409" in again.stderr
    assert wald("experiments", "show", "no/such?key").exit_code == 1


def test_a_misspelled_experiment_is_answered_with_the_nearest_key(wald):
    created(wald, "summary")
    done = wald("status", "sumary")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "Error: no experiment is called 'sumary'; did you mean 'summary'?\n"


def test_signals_shows_counts_by_name_and_its_json_is_the_answer_of_the_api(wald, running):
    created(wald, "heard")
    wald("experiments", "start", "heard")
    text = wald("signals", "heard", columns="80").stdout
    assert "heard  0 signals about 0 assignments, 0 counted" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    printed = json.loads(wald("signals", "heard", "--json").stdout)
    with running.client() as client:
        assert printed == client.get("/experiments/heard/signals").json()


def test_status_shows_shares_the_readout_and_the_newest_rollout(wald, running):
    created(wald, "shown", policy={"kind": "fixed", "weights": {"control": 1, "short": 0}})
    wald("experiments", "start", "shown")
    begun = wald("rollout", "create", "shown", "--canary", "short", "--guardrail", "error_rate")
    assert begun.exit_code == 0, begun.stderr
    for columns in ("80", "160"):
        text = wald("status", "shown", columns=columns).stdout
        assert all(len(line) <= int(columns) for line in text.splitlines())
        for part in (
            "shown  running",
            "P(best)",
            "Wait:",
            "error_rate",
            "of shown: short",
            "stage 1 of 4, 1%",
        ):
            assert part in text
    printed = json.loads(wald("status", "shown", "--json").stdout)
    with running.client() as client:
        answered = client.get("/experiments/shown/status").json()
    assert printed.keys() == answered.keys()
    moving = {"read_at", "totals_as_of", "lag_events", "updated_at", "policy_version", "allocation_history"}
    steady = printed.keys() - moving - {"variants", "analysis", "epoch"}
    assert {name: printed[name] for name in steady} == {name: answered[name] for name in steady}
    assert printed["variants"][0].keys() == answered["variants"][0].keys()


def test_watch_goes_on_while_the_server_restarts_and_ends_with_0_on_an_interrupt(wald, running):
    created(wald, "watched")
    environment = os.environ | {"WALD_URL": running.url, "WALD_API_KEY": running.key}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "app.cli", "status", "watched", "--watch", "--json"],
        env=environment,
        preexec_fn=heed_interrupts,  # noqa: PLW1509
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert json.loads(process.stdout.readline())["state"] == "draft"
    running.part("serve")[0].kill()
    running.wait_ready()
    assert wald("experiments", "start", "watched").exit_code == 0
    while json.loads(process.stdout.readline())["state"] != "running":
        pass
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")


def test_watch_with_a_wrong_key_ends_at_once_and_says_so(wald):
    created(wald, "locked")
    done = wald("status", "locked", "--watch", key="wrong")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "answered 401" in done.stderr
