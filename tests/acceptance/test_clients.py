"""Demo and replay, as commands, against a whole Wald."""

import asyncio
import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli.client import ClientError, Event, Refused, Unreachable, WaldClient
from app.cli.demo import demo_command
from app.cli.evaluate import evaluate_command
from app.cli.files import logged
from app.cli.replay import replay_command
from app.cli.traffic import demo, product
from tests.support.server import Up, free_port, up

SHARED_SCORES = Path(__file__).parents[3] / "shared/data/llm_judge_scores.csv"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Up:
    with up(tmp_path_factory.mktemp("clients") / "data") as server:
        yield server


def run(command, server: Up, *arguments: str) -> Result:
    return CliRunner().invoke(
        command, [*arguments, "--url", server.url, "--key", server.key], env={"COLUMNS": "160"}
    )


def scores(folder: Path, *, tasks: int, seed: int) -> Path:
    """Three variants whose true means differ by 0.2; some tasks lack a score."""
    chance = random.Random(seed)
    rows = ["task,variant,score"]
    for task in range(tasks):
        for variant, mean in (("plain", 3), ("good one", 5), ("poor", 1)):
            score = mean + chance.choice((-1, 0, 1))
            rows.append(f"t{task},{variant},{'' if task % 50 == 49 else score}")
    path = folder / "scores.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


REPLAY = ("--variant", "variant", "--reward", "score", "--task", "task", "--scale", "0:10")


def test_a_replay_ends_with_the_best_variant_in_front_and_no_errors(running, tmp_path):
    path = scores(tmp_path, tasks=200, seed=20261123)
    done = run(replay_command, running, str(path), *REPLAY, "--passes", "5", "--experiment", "replayed")
    assert done.exit_code == 0, done.output
    assert "3 variants on 196 tasks; left out 4 incomplete ones" in done.output
    assert "errors 0" in done.output
    with running.client() as client:
        status = client.get("/experiments/replayed/status").json()
    variants = {variant["key"]: variant for variant in status["variants"]}
    assert sum(variant["rewards"] for variant in variants.values()) == 5 * 196
    assert max(variants, key=lambda key: variants[key]["allocation"]) == "good-one"
    assert variants["good-one"]["mean"] == pytest.approx(0.5, abs=0.05)


def test_a_replay_of_fixed_shares_does_not_move_them(running, tmp_path):
    path = scores(tmp_path, tasks=50, seed=1)
    arguments = (str(path), *REPLAY, "--policy", "fixed", "--experiment", "fixed-shares")
    done = run(replay_command, running, *arguments)
    assert done.exit_code == 0, done.output
    with running.client() as client:
        status = client.get("/experiments/fixed-shares/status").json()
    assert [variant["allocation"] for variant in status["variants"]] == pytest.approx([1 / 3] * 3)
    again = run(replay_command, running, *arguments)
    assert again.exit_code == 1
    assert "409" in again.output


def test_a_replay_names_what_is_wrong_with_the_file(running, tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("task,variant,score\na,x,1\na,y,eleven\n", encoding="utf-8")
    done = run(replay_command, running, str(path), *REPLAY)
    assert done.exit_code == 1
    assert "line 3, column 'score': 'eleven' is not a number" in done.output


@pytest.mark.skipif(not SHARED_SCORES.exists(), reason="the WildBench scores are not beside this repository")
@pytest.mark.long
def test_a_replay_of_real_judge_scores_earns_more_than_uniform(running):
    passes = 8  # a single one is over before the first rewards have moved the shares
    judge = ("judge", "gpt-4o-2024-05-13")
    columns = logged.Columns(variant="model", reward="score", task="task_id", where=(judge,))
    log = logged.read(SHARED_SCORES, columns, scale=(1, 10))
    of_columns = ("--variant", "model", "--reward", "score", "--task", "task_id")
    of_rows = ("--where", "=".join(judge), "--scale", "1:10")
    arguments = (*of_columns, *of_rows, "--passes", str(passes), "--experiment", "wildbench")
    done = run(replay_command, running, str(SHARED_SCORES), *arguments)
    assert done.exit_code == 0, done.output
    assert "errors 0" in done.output
    with running.client() as client:
        status = client.get("/experiments/wildbench/status").json()
    rewards = sum(variant["rewards"] * variant["mean"] for variant in status["variants"])
    n_rewards = sum(variant["rewards"] for variant in status["variants"])
    assert n_rewards == passes * 1013
    assert rewards / n_rewards > sum(log.means) / len(log.means)  # which uniform earns


@pytest.mark.skipif(not SHARED_SCORES.exists(), reason="the WildBench scores are not beside this repository")
def test_an_evaluation_of_real_judge_scores_finds_the_truth(running):
    """Two logs, of a policy that adapted and of even shares; the truth is known from the scores.

    At this level a correct interval misses the truth with probability below 1e-5.
    """
    judge = ("judge", "gpt-4o-2024-05-13")
    columns = logged.Columns(variant="model", reward="score", task="task_id", where=(judge,))
    log = logged.read(SHARED_SCORES, columns, scale=(1, 10))
    of_columns = ("--variant", "model", "--reward", "score", "--task", "task_id")
    arguments = (str(SHARED_SCORES), *of_columns, "--where", "=".join(judge), "--scale", "1:10")
    best = logged.variant_keys(log.variants)[log.variants[log.means.index(max(log.means))]]
    only_best = json.dumps({"kind": "fixed", "weights": {best: 1.0}})
    for policy in ("thompson", "fixed"):
        key = f"evaluated-{policy}"
        done = run(replay_command, running, *arguments, "--policy", policy, "--experiment", key)
        assert done.exit_code == 0, done.output
        for target, truth in (("fixed", sum(log.means) / len(log.means)), (only_best, max(log.means))):
            options = (key, "--policy", target, "--level", "0.99999")
            done = run(evaluate_command, running, *options, "--json")
            assert done.exit_code == 0, done.output
            found = json.loads(done.stdout)
            assert found["rows"] == len(log.tasks)
            low, high = found["estimates"]["doubly_robust"]["interval"]
            assert low < truth < high
            low, high = found["anytime_interval"]
            assert low < truth < high
    shown = run(evaluate_command, running, "evaluated-fixed", "--policy", "thompson")
    assert shown.exit_code == 0, shown.output
    assert "thompson would have earned 0." in shown.output
    assert "effective rows" in shown.output


def test_an_evaluation_without_a_log_says_what_is_missing(running):
    with running.client() as client:
        variants = [{"key": "a", "control": True}, {"key": "b"}]
        client.post("/experiments", json={"key": "unserved", "variants": variants}).raise_for_status()
    done = run(evaluate_command, running, "unserved", "--policy", "thompson")
    assert done.exit_code == 1
    assert "answered 422: needs at least 5 rewards" in done.output
    done = run(evaluate_command, running, "unserved", "--policy", "thompson", "--features", "@nowhere.json")
    assert done.exit_code == 2
    assert "--features" in done.output


def test_a_demo_shows_what_it_learned(running):
    done = run(demo_command, running, "--requests", "300", "--rate", "300", "--experiment", "demo-once")
    assert done.exit_code == 0, done.output
    assert "True and learned mean rewards" in done.output
    with running.client() as client:
        status = client.get("/experiments/demo-once/status").json()
    assert sum(variant["assignments"] for variant in status["variants"]) == 300
    again = run(demo_command, running, "--requests", "20", "--rate", "300", "--experiment", "demo-once")
    assert again.exit_code == 0, again.output


def test_a_demo_leaves_experiments_alone_that_are_not_its_own(running):
    with running.client() as client:
        variants = [{"key": "a", "control": True}, {"key": "b"}]
        client.post("/experiments", json={"key": "foreign", "variants": variants}).raise_for_status()
    done = run(demo_command, running, "--experiment", "foreign")
    assert done.exit_code == 1
    assert "not an experiment of the demo" in done.output


def test_a_stopped_demo_says_so(running):
    async def stop() -> None:
        async with WaldClient(running.url, running.key) as client:
            await demo.ensure_running(client, "demo-stopped")
        with running.client() as http:
            http.post("/experiments/demo-stopped/stop").raise_for_status()

    asyncio.run(stop())
    done = run(demo_command, running, "--experiment", "demo-stopped")
    assert done.exit_code == 1
    assert "demo-stopped is stopped" in done.output


def test_a_trickle_goes_on_until_it_is_cancelled(running):
    async def watch() -> int:
        async with WaldClient(running.url, running.key) as client:
            task = asyncio.create_task(demo.trickle(client, rate=50))
            try:
                async with asyncio.timeout(30):
                    while True:
                        try:
                            status = await client.status(demo.TRICKLE_EXPERIMENT)
                        except Refused:
                            status = None  # not defined yet
                        if status and (served := sum(one.assignments for one in status.variants)) >= 20:
                            return served
                        await asyncio.sleep(0.1)
            finally:
                task.cancel()

    assert asyncio.run(watch()) >= 20


def test_the_client_says_what_the_server_refused(running):
    async def call() -> None:
        async with WaldClient(running.url, running.key) as client:
            with pytest.raises(Refused, match="no experiment has the key") as caught:
                await client.assign("nothing-of-this-name", "u")
            assert caught.value.status == 404
            receipt = await client.feedback([Event(assignment_id="x", signal="thumbs_up")])
            assert (receipt.accepted, len(receipt.rejected)) == (0, 1)
            await demo.ensure_running(client, "unsettled")
            with pytest.raises(ClientError, match="did not settle"):
                await client.settled("unsettled", rewards=1, within_s=0)

    asyncio.run(call())


def test_the_client_gives_up_on_a_server_that_stays_away():
    async def call() -> None:
        url = f"http://127.0.0.1:{free_port()}"
        async with WaldClient(url, "key", patience_s=0.3) as client:
            with pytest.raises(Unreachable, match="is away"):
                await client.status("any")
            assert client.retries > 0

    asyncio.run(call())


@pytest.mark.parametrize(("url", "key"), [("127.0.0.1:8000", "k"), ("http://127.0.0.1", "né"), ("", "k")])
def test_the_client_refuses_what_no_server_can_have(url, key):
    with pytest.raises(ClientError):
        WaldClient(url, key)


def test_the_truth_of_the_demo_has_one_best_prompt():
    means = sorted(prompt.mean_reward for prompt in product.PROMPTS)
    assert means[-1] - means[-2] > 0.1
