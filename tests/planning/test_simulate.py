"""POST /simulate: what it answers, refuses and holds back."""

import threading

import anyio
import anyio.to_thread
import msgspec
import numpy as np
import pytest

from app.access.model import Scope
from app.core.computing import Computing
from app.core.errors import InvalidInput, Unavailable
from app.core.limits import COMPUTATIONS_MAX
from app.experiments.policies.rule import Scene, Setting
from app.experiments.policies.shorthand import policy_of
from app.planning import model
from app.planning.model import Simulation
from app.planning.routes import ROUTES
from app.planning.service import PlanningService
from tests.support.api import KEYS, api, bearer, keyring_of_scopes

pytestmark = pytest.mark.anyio

MEANS = [0.2, 0.3]
SEASONAL = {"kind": "seasonal", "means": MEANS, "amplitude": 0.1}
BY = {"attribute": "device", "values": ["phone"]}
TRAFFIC = {"requests_per_day": 500, "days": 4, "batch": 20}
COARSE = TRAFFIC | {"batch": 100}
DISCOUNT = {"kind": "discount", "half_life_s": 3_600}


@pytest.fixture
async def client():
    async with api(ROUTES, {"planning": PlanningService(Computing())}, keyring_of_scopes()) as client:
        client.headers.update(bearer(KEYS[Scope.READ]))
        yield client


def body(environment=None, **changed):
    environment = environment or {"kind": "stationary", "means": MEANS}
    return {"environment": environment, "traffic": TRAFFIC, "runs": 40, **changed}


def simulated(**changed):
    request = msgspec.convert(body(**changed), Simulation)
    return model.run(model.checked(request, seconds_usual=1, seconds_max=60))


async def test_regret_of_an_even_split_is_known_and_learning_costs_less(client):
    """An even split loses half the gap per request: 2,000 x 0.05 = 100, with a deviation of 2.2 per run."""
    answer = await client.post("/simulate", json=body())
    assert answer.status_code == 200, answer.text
    result = answer.json()
    by_name = {one["policy"]: one for one in result["policies"]}
    assert by_name["fixed"]["lost_rewards"] == pytest.approx(100, abs=6 * 2.3 / 40**0.5)
    assert by_name["fixed"]["lost_share"] == pytest.approx(1 / 6, abs=0.01)
    assert by_name["thompson"]["lost_rewards_p95"] < by_name["fixed"]["lost_rewards"]
    assert (result["requests"], result["batch"], result["runs"]) == (2_000, 20, 40)
    for one in result["policies"]:
        curve, (low, high) = one["regret"], one["lost_rewards_interval"]
        assert curve["requests"][-1] == 2_000
        assert len(curve["requests"]) == len(curve["mean"]) == 100
        assert np.all(np.diff(curve["mean"]) >= 0)
        assert low <= one["lost_rewards"] <= high
    advised = result["recommendation"]
    assert advised["policy"] in by_name
    assert advised["policy"] != "fixed"
    assert advised["sentence"].startswith(f"Use {advised['policy']}: on 2,000 requests in 4 days it loses")


async def test_every_policy_runs_in_every_environment(client):
    policies = [
        "fixed",
        "thompson",
        "optimistic_thompson",
        "top_two",
        "epsilon_greedy",
        "exp3_ix",
        *({"kind": "ucb", "index": index} for index in ("ucb1", "ucb1_tuned", "kl_ucb", "kl_ucb_plus")),
        {"kind": "fixed", "weights": {"a": 0.9, "b": 0.1}},
        {"kind": "thompson", "forgetting": DISCOUNT, "exploration_floor": 0},
        {"kind": "thompson", "posterior": "normal"},
        {"kind": "thompson", "posterior": "gamma"},
        {"kind": "optimistic_thompson", "posterior": "normal", "sampling": 0.5},
        {"kind": "ucb", "rounds_ahead": 1, "forgetting": DISCOUNT},
        {"kind": "epsilon_greedy", "epsilon": {"gap": 0.1}},
    ]
    environments = [
        {"kind": "stationary", "means": MEANS},
        {"kind": "drifting", "means": MEANS, "last_means": [0.3, 0.2], "days": 1},
        {"kind": "changing", "means": MEANS, "changes": [{"day": 0.5, "means": [0.4, 0.3]}]},
        {"kind": "seasonal", "means": MEANS, "amplitude": 0.1},
        {"kind": "logged", "rewards": {"a": [0, 0.5, 1], "b": [0.7]}},
    ]
    traffic = {"requests_per_day": 150, "days": 2, "batch": 30, "delay_s": 3_600}
    for environment in environments:
        named = {} if environment["kind"] == "logged" else {"variants": ["a", "b"]}
        request = body(environment, policies=policies, traffic=traffic, runs=2, **named)
        answer = await client.post("/simulate", json=request)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["policies"]) == len(policies)


def test_a_logged_environment_has_the_averages_of_the_log():
    rewards = {"a": [0.0, 0.5], "b": [0.75, 0.75]}
    result = simulated(environment={"kind": "logged", "rewards": rewards}, policies=["fixed"])
    assert result.policies[0].lost_rewards == pytest.approx(2_000 * 0.25, rel=0.02)


def test_many_different_logged_rewards_are_rounded():
    rewards = {"a": np.linspace(0, 0.5, 1_500).tolist(), "b": np.linspace(0.5, 1, 1_500).tolist()}
    result = simulated(environment={"kind": "logged", "rewards": rewards}, policies=["fixed"])
    assert result.policies[0].lost_rewards == pytest.approx(2_000 * 0.25, rel=0.02)


def test_feedback_that_comes_late_costs_rewards():
    """Until the delay has passed nothing is known: at least the even split's loss of that time."""
    prompt, late = (
        simulated(policies=["thompson"], traffic=TRAFFIC | {"delay_s": delay}) for delay in (0, 86_400)
    )
    assert late.policies[0].lost_rewards > prompt.policies[0].lost_rewards + 10


def test_where_means_move_a_policy_that_forgets_is_tried_and_advised():
    change = {"kind": "changing", "means": [0.2, 0.6], "changes": [{"day": 2, "means": [0.9, 0.6]}]}
    result = simulated(environment=change, traffic=TRAFFIC | {"requests_per_day": 2_000, "batch": 100})
    assert "half_life_s" in result.recommendation.policy


def test_equal_variants_need_no_policy():
    result = simulated(environment={"kind": "stationary", "means": [0.0, 0.0]}, traffic=COARSE, runs=5)
    assert result.recommendation.sentence == "All variants earn the same: any policy will do."
    assert all(policy.lost_share == 0 for policy in result.policies)


def test_equal_seeds_give_equal_results():
    first, second = (simulated(policies=["thompson", "top_two"], traffic=COARSE, runs=5) for _ in range(2))
    assert first == second


def test_progress_adds_up_to_the_whole():
    request = msgspec.convert(body(traffic=COARSE, runs=5), Simulation)
    done = []
    model.run(request, progress=done.append)
    assert sum(done) == pytest.approx(1)


def test_chooses_the_number_of_runs_that_fits():
    few, many = (
        model.checked(
            msgspec.convert(body(runs=None), Simulation), seconds_usual=seconds, seconds_max=600
        ).runs
        for seconds in (1e-3, 600)
    )
    assert (few, many) == (20, 200)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"environment": {"kind": "stationary", "means": [0.1]}}, "environment"),
        ({"environment": {"kind": "stationary", "means": [0.1, 1.5]}}, "environment"),
        ({"environment": {"kind": "elsewhere"}}, "environment"),
        (
            {"environment": {"kind": "drifting", "means": MEANS, "last_means": [0.1] * 3, "days": 1}},
            "environment",
        ),
        (
            {
                "environment": {
                    "kind": "changing",
                    "means": MEANS,
                    "changes": [{"day": 1, "means": [0.1] * 3}],
                }
            },
            "environment",
        ),
        (
            {
                "environment": {
                    "kind": "changing",
                    "means": MEANS,
                    "changes": [{"day": 2, "means": MEANS}, {"day": 1, "means": MEANS}],
                }
            },
            "environment",
        ),
        (
            {"environment": {"kind": "seasonal", "means": MEANS, "amplitude": 0.1, "phases": [0.1] * 3}},
            "environment",
        ),
        ({"environment": {"kind": "logged", "rewards": {"a": [0.1], "b": []}}}, "environment"),
        ({"traffic": {"requests_per_day": 0}}, "traffic"),
        ({"traffic": {"requests_per_day": 0.1, "days": 1}}, "traffic.requests_per_day"),
        ({"traffic": {"requests_per_day": 2e7, "days": 30}}, "traffic.requests_per_day"),
        ({"policies": ["thompson", "thompson"]}, "policies[1]"),
        ({"policies": ["unheard-of"]}, "policies"),
        ({"policies": []}, "policies"),
        ({"policies": [{"kind": "fixed", "weights": {"v1": 0.5, "v2": 0.2}}]}, "policies[0].weights"),
        ({"policies": [{"kind": "fixed", "weights": {"v3": 1.0}}]}, "policies[0].weights.v3"),
        ({"policies": ["best_arm"]}, "policies[0].kind"),
        ({"policies": ["constrained_thompson"]}, "policies[0].constraints"),
        ({"policies": [{"kind": "segmented_thompson", "by": [BY]}]}, "policies[0].kind"),
        ({"policies": [{"kind": "thompson", "step_max": 0.1}]}, "policies[0].step_max"),
        (
            {"policies": [{"kind": "thompson", "warm_start": {"experiment": "other"}}]},
            "policies[0].warm_start",
        ),
        (
            {"policies": [{"kind": "ucb", "forgetting": {"kind": "window", "window_s": 3_600}}]},
            "policies[0].forgetting",
        ),
        ({"variants": ["a"]}, "variants"),
        (
            {"environment": {"kind": "logged", "rewards": {"a": [0], "b": [1]}}, "variants": ["a", "b"]},
            "variants",
        ),
        ({"environment": SEASONAL | {"period_days": 1e9}}, "environment"),
        ({"runs": 1}, "runs"),
        ({"runs": 10_000, "traffic": {"requests_per_day": 1e6, "days": 10, "batch": 100}}, "runs"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_what_cannot_be_simulated_is_refused_by_its_field(client, changed, field):
    answer = await client.post("/simulate", json=body() | changed)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert any(error["field"].startswith(field) for error in answer.json()["errors"]), answer.text


async def test_a_misspelled_policy_is_refused_with_the_nearest_name(client):
    answer = await client.post("/simulate", json=body(policies=["fixed", "tompson"]))
    (error,) = answer.json()["errors"]
    assert error["field"] == "policies[1]"
    assert error["reason"].endswith("did you mean thompson?")


async def test_only_readers_may_simulate(client):
    assert (
        await client.post("/simulate", json=body(), headers=bearer(KEYS[Scope.ASSIGN]))
    ).status_code == 403


async def test_one_computation_at_a_time_and_the_loop_goes_on():
    computing, begun, go_on = Computing(), threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        assert go_on.wait(30)
        return "done"

    answers = []
    async with anyio.create_task_group() as group:

        async def first() -> None:
            answers.append(await computing.run(work))

        group.start_soon(first)
        assert await anyio.to_thread.run_sync(begun.wait, 30)
        with pytest.raises(Unavailable, match="another computation"):
            await computing.run(work)
        go_on.set()
    assert answers == ["done"]
    with pytest.raises(InvalidInput):
        await computing.run(_refuse)  # an error frees the place as well
    assert await computing.run(lambda: "again") == "again"


def _refuse() -> None:
    raise InvalidInput("no")


@pytest.mark.parametrize("policy", ["thompson", "ucb", "top_two", "fixed"])
def test_more_of_anything_is_expected_to_take_longer(policy):
    few, many = (Setting("", tuple("abcdef"[:n]), 0, (0.0, 1.0), ()) for n in (3, 6))
    scene = Scene(few, requests_per_day=1_000, requests=100_000, batch=100, runs=50)

    def seconds(scene):
        return policy_of(policy, scene.setting.variants).simulated(scene).seconds

    assert 0 < seconds(scene) < seconds(scene._replace(runs=100))
    assert seconds(scene) < seconds(scene._replace(setting=many))
    assert seconds(scene) < seconds(scene._replace(requests=200_000))
    assert COMPUTATIONS_MAX == 1
