"""Off-policy evaluation: the interval holds the truth, and no policy is judged on rows it learned from."""

import uuid
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from app.access.model import Scope
from app.evaluation import limits
from app.evaluation.model import EvaluationRequest, Log, evaluate
from app.evaluation.targets import Rows, shares, target
from app.experiments.lifecycle import DefinitionChange
from app.experiments.model import Definition, Variant
from app.experiments.reward import Reward
from app.ledger.tables import assignments
from tests.support.api import KEYS, bearer

pytestmark = pytest.mark.anyio

VARIANTS = (Variant("control", control=True), Variant("short"))
START = datetime(2026, 1, 1, tzinfo=UTC)
PENDING, REWARDED, CENSORED = 0, 1, 3
SURE = 0.999999  # a correct interval misses the truth with probability below 1e-5


async def stored(engine, experiment, *, n=2_000, propensity=0.8, means=(0.3, 0.6), seed=1, **changed):
    """Assignments drawn with a known propensity of the control, and Bernoulli rewards."""
    rng = np.random.default_rng(20260101 + seed)
    arms = (rng.random(n) >= propensity).astype(int)
    rewards = rng.random(n) < np.array(means)[arms]
    rows = [
        {
            "experiment_id": experiment.id,
            "unit_hash": int(rng.integers(-(2**63), 2**63 - 1)),
            "id": uuid.UUID(int=int.from_bytes(rng.bytes(16))),
            "unit": str(row),
            "assigned_at": START + timedelta(seconds=row),
            "deadline": START + timedelta(seconds=row, hours=1),
            "epoch": 1,
            "policy_version": 1,
            "variant": int(arms[row]),
            "propensity": propensity if arms[row] == 0 else 1 - propensity,
            "context": None,
            "exposed": True,
            "outcome": REWARDED,
            "reward": int(rewards[row]) * 10**9,
        }
        | {name: value(row) for name, value in changed.items()}
        for row in range(n)
    ]
    async with engine.begin() as connection:
        await connection.execute(assignments.insert(), rows)
    return rows


@pytest.fixture
async def experiment(experiments):
    return await experiments.create(Definition(key="summary", variants=VARIANTS))


async def ask(client, policy, **request):
    answer = await client.post("/experiments/summary/evaluate", json={"policy": policy, **request})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(client, status, field, policy="thompson", **request):
    answer = await client.post("/experiments/summary/evaluate", json={"policy": policy, **request})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    return error["reason"]


async def test_constant_policies_are_judged_by_the_truth(client, engine, experiment):
    """Means 0.3 and 0.6: always the second earns 0.6, an even split 0.45. The log, at 4 to 1, earned 0.36."""
    await stored(engine, experiment)
    only_short = {"kind": "fixed", "weights": {"short": 1}}
    for policy, truth, weight in ((only_short, 0.6, 5.0), ("fixed", 0.45, 2.5)):
        found = await ask(client, policy, level=SURE)
        for one in found["estimates"].values():
            assert one["interval"][0] < truth < one["interval"][1]
            assert truth == pytest.approx(one["value"], abs=5 * one["standard_error"])
        assert found["anytime_interval"][0] < truth < found["anytime_interval"][1]
        assert found["overlap"]["largest_weight"] == pytest.approx(weight)
        assert found["logged"]["interval"][0] < 0.36 < found["logged"]["interval"][1]
        assert (found["rows"], found["units"], found["pending"], found["sampled"]) == (2_000, 2_000, 0, False)
        assert found["warnings"] == []
    assert found["shares"] == {"control": 0.5, "short": 0.5}
    assert set(found["estimates"]) == {
        "ips", "self_normalised", "doubly_robust", "self_normalised_doubly_robust",
    }  # fmt: skip


async def test_a_new_variant_is_judged_only_by_the_time_in_which_it_was_served(
    client, engine, experiment, experiments
):
    """The new variant could not be drawn in the first 600 rows, which would count as failures."""
    await experiments.start("summary")
    await stored(engine, experiment, n=600)
    await experiments.change("summary", DefinitionChange(variants=(*VARIANTS, Variant("long"))))
    await stored(engine, experiment, n=500, seed=2, epoch=lambda _: 2)
    evaluated = await ask(client, {"kind": "fixed", "weights": {"short": 1}}, level=SURE)
    assert evaluated["rows"] == 500
    retired = (VARIANTS[0], Variant("short", retired=True), Variant("long"))
    await experiments.change("summary", DefinitionChange(variants=retired))
    served = await ask(client, "thompson", level=SURE)
    assert (served["rows"], served["shares"]["short"]) == (500, 0), "a retired variant is not served"


async def test_thompson_at_the_end_serves_the_better_variant(client, engine, experiment):
    await stored(engine, experiment)
    found = await ask(client, "thompson", level=SURE)
    truth = 0.3 * found["shares"]["control"] + 0.6 * found["shares"]["short"]
    assert found["shares"]["short"] == pytest.approx(0.975, abs=1e-3)  # the floor of 0.05 is in it
    low, high = found["estimates"]["doubly_robust"]["interval"]
    assert low < truth < high
    assert found["fitted"].startswith("the policy learns from 4 of 5 parts")
    assert found["summary"].startswith("thompson would have earned 0.")


def rows_of(arms, rewards, propensities, contexts=None):
    n = len(arms)
    return Rows(
        np.arange(n),
        np.asarray(arms, dtype=np.int64),
        (np.asarray(rewards) * 10**9).astype(np.int64),
        np.asarray(propensities, dtype=float),
        contexts or [{}] * n,
    )


def test_a_policy_that_learns_is_not_praised_for_its_luck():
    """Of 40 equal variants the luckiest looks good on its own rows; judged on others it is no better.

    The gate catches the planted bug: learning from all rows, then judging on them, is off by far more.
    """
    rng = np.random.default_rng(20260101)
    n, k = 4_000, 40
    definition = Definition(
        key="many", variants=tuple(Variant(f"v{arm}", control=arm == 0) for arm in range(k))
    )
    arms, rewards = rng.integers(k, size=n), rng.random(n) < 0.3
    rows = rows_of(arms, rewards, np.full(n, 1 / k))
    request = EvaluationRequest(policy={"kind": "thompson", "exploration_floor": 0})
    found = evaluate(definition, request, Log(rows, 0, 0, sampled=False))
    robust = found.estimates["doubly_robust"]
    assert abs(robust.value - 0.3) < 4 * robust.standard_error
    averages = np.bincount(arms, rewards) / np.bincount(arms)
    assert averages.max() - 0.3 > 4 * robust.standard_error  # the planted bug


def test_what_is_served_in_a_part_does_not_depend_on_its_rewards():
    rng = np.random.default_rng(20260102)
    definition = Definition(key="two", variants=VARIANTS)
    arms, rewards = rng.integers(2, size=100), rng.random(100)
    rows = rows_of(arms, rewards, np.full(100, 0.5))
    chosen = target("thompson", definition)
    before = shares(chosen, definition, rows)
    part = rows.folds == 2
    changed = rows._replace(rewards=np.where(part, 0, rows.rewards))
    after = shares(chosen, definition, changed)
    assert np.array_equal(before[part], after[part])
    assert not np.array_equal(before[~part], after[~part])


def contextual_log(n=3_000):
    """The first variant is right for short texts, the second for long ones; drawn 1 to 1."""
    rng = np.random.default_rng(20260103)
    long = rng.random(n) < 0.5
    arms = rng.integers(2, size=n)
    rewards = rng.random(n) < np.where(arms == long, 0.8, 0.2)
    # As `GET /assign` sends them: text.
    contexts = [{"long": str(bool(one)).lower(), "tokens": "3e2" if one else "20"} for one in long]
    return rows_of(arms, rewards, np.full(n, 0.5), contexts)


FEATURES = [
    {"type": "boolean", "name": "long"},
    {"type": "numeric", "name": "tokens", "location": 150, "scale": 150},
]
LIN_TS = {"kind": "lin_ts", "features": FEATURES}


@pytest.mark.parametrize(
    "policy",
    [
        LIN_TS,
        LIN_TS | {"hybrid": True},
        {"kind": "lin_ucb", "width": 1.5, "features": FEATURES},
        {"kind": "logistic_ts", "exploration_floor": 0.02, "features": FEATURES},
    ],
)
def test_a_contextual_policy_earns_what_no_constant_one_can(policy):
    """With the right variant for each context 0.8 is earned, less 0.3 of the floor; else 0.5."""
    definition = Definition(key="contexts", variants=VARIANTS)
    request = msgspec.convert({"policy": policy, "level": SURE}, EvaluationRequest)
    found = evaluate(definition, request, Log(contextual_log(), 0, 0, sampled=False))
    floor = found.policy["exploration_floor"]
    for one in found.estimates.values():
        assert one.interval[0] < 0.8 - 0.3 * floor < one.interval[1]
        assert one.interval[0] > 0.5
    # Prediction explains the noise of who came, so the doubly robust error is the smaller one.
    assert found.estimates["doubly_robust"].standard_error < found.estimates["ips"].standard_error


def test_exp3_ix_learns_from_losses_by_their_propensity():
    """The second variant earns 0.6 against 0.3, in the 1 of 5 rows that it served: its share exceeds 0.9."""
    rng = np.random.default_rng(20260104)
    arms = (rng.random(2_000) < 0.2).astype(int)
    rows = rows_of(arms, rng.random(2_000) < np.array([0.3, 0.6])[arms], np.where(arms, 0.2, 0.8))
    definition = Definition(key="two", variants=VARIANTS)
    served = shares(target({"kind": "exp3_ix", "eta": 0.1}, definition), definition, rows)
    assert (served[:, 1] > 0.9).all()


def test_segments_earn_what_no_constant_policy_can():
    """As for contextual policies, of which each segment is a context: shares are its own, near 1 and 0."""
    definition = Definition(key="contexts", variants=VARIANTS)
    by = [{"attribute": "long", "values": ["true", "false"]}]
    policy = {"kind": "segmented_thompson", "by": by}
    request = msgspec.convert({"policy": policy, "level": SURE}, EvaluationRequest)
    found = evaluate(definition, request, Log(contextual_log(), 0, 0, sampled=False))
    for one in found.estimates.values():
        assert one.interval[0] < 0.8 - 0.3 * 0.05 < one.interval[1]
        assert one.interval[0] > 0.5


async def test_segments_are_read_from_the_log(client, engine, experiment):
    """The first variant is right in one segment, which a policy can earn 0.8 of; by another attribute 0.5."""
    log = contextual_log(2_000)
    await stored(
        engine,
        experiment,
        propensity=0.5,
        variant=lambda row: int(log.arms[row]),
        reward=lambda row: int(log.rewards[row]),
        context=lambda row: log.contexts[row],
    )
    for attribute, truth in (("long", 0.785), ("unheard-of", 0.5)):
        by = [{"attribute": attribute, "values": ["true"]}]
        found = await ask(client, {"kind": "segmented_thompson", "by": by}, level=SURE)
        low, high = found["estimates"]["ips"]["interval"]
        assert low < truth < high


async def test_too_little_overlap_is_refused_with_what_is_missing(client, engine, experiment):
    await stored(engine, experiment, n=400, propensity=0.99)
    reason = await refused(client, 422, "policy", {"kind": "fixed", "weights": {"short": 1.0}})
    assert "needs at least 30 effective rows" in reason
    assert "short would get 100% and was served" in reason


async def test_a_log_without_rewards_is_refused(client, engine, experiment):
    assert "needs at least 5 rewards: 0 assignments" in await refused(client, 422, "experiment")
    await stored(engine, experiment, n=20, outcome=lambda _: PENDING, reward=lambda _: None)
    assert "20 wait for theirs" in await refused(client, 422, "experiment")


async def test_rewards_that_do_not_differ_are_refused(client, engine, experiment):
    await stored(engine, experiment, n=200, reward=lambda _: 0)
    assert "do not differ" in await refused(client, 422, "experiment")


async def test_a_context_that_does_not_fit_is_refused_by_its_feature(client, engine, experiment):
    await stored(engine, experiment, n=50, context=lambda row: {"tokens": "many"} if row == 7 else None)
    reason = await refused(client, 422, "policy.features.tokens", LIN_TS)
    assert "'tokens' must be a number, got 'many'" in reason
    reason = await refused(client, 422, "features.tokens", "thompson", features=FEATURES)
    assert "'tokens' must be a number, got 'many'" in reason


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"policy": "unheard-of"}, "policy"),
        ({"policy": {"weights": {}}}, "policy"),
        ({"policy": {"kind": "thompson", "temperature": 1}}, "policy"),
        ({"policy": {"kind": "fixed", "weights": {"long": 1.0}}}, "policy.weights.long"),
        ({"policy": {"kind": "fixed", "weights": {"short": 0.4}}}, "policy.weights"),
        ({"policy": {"kind": "fixed", "weights": 3}}, "policy"),
        ({"policy": {"kind": "thompson", "warm_start": {"experiment": "other"}}}, "policy.warm_start"),
        ({"policy": {"kind": "constrained_thompson"}}, "policy.kind"),
        ({"policy": {"kind": "segmented_thompson", "by": []}}, "policy.by"),
        ({"policy": "lin_ts"}, "policy"),
        ({"policy": {"kind": "lin_ts", "features": []}}, "policy.features"),
        ({"policy": {"kind": "lin_ucb", "width": -1, "features": FEATURES}}, "policy"),
        ({"policy": "fixed", "features": [{"type": "boolean", "name": "a"}] * 2}, "features"),
        ({"policy": "fixed", "level": 1.0}, "level"),
        ({"policy": "fixed", "since": "2026-01-01T00:00:00"}, "since"),
        ({}, "policy"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_by_its_field(client, experiment, request_, field):
    answer = await client.post("/experiments/summary/evaluate", json=request_)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert field in {error["field"] for error in answer.json()["errors"]}, answer.text


async def test_counts_recorded_assignments_and_reports_the_pending_and_censored_ones(
    client, engine, experiment
):
    def outcome(row: int) -> int:
        return (REWARDED, PENDING, CENSORED, REWARDED)[row % 4]

    await stored(
        engine,
        experiment,
        n=1_000,
        outcome=outcome,
        reward=lambda row: (row // 4 % 2) * 10**9 if outcome(row) == REWARDED else None,
        exposed=lambda row: row % 20 != 3,
    )
    found = await ask(client, "fixed")
    assert (found["rows"], found["pending"], found["censored"]) == (450, 250, 250)
    assert found["warnings"] == [
        "250 assignments still wait for their reward: those that came first may be different"
    ]
    hour = {"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:10:00Z"}
    assert (await ask(client, "fixed", **hour))["rows"] == 270


async def test_where_silence_is_a_reward_assignments_count_after_their_horizon(client, engine, experiments):
    """Before it, those with a signal would stand for those that stay silent."""
    reward = Reward(silence=0.0)
    experiment = await experiments.create(Definition(key="summary", variants=VARIANTS, reward=reward))
    ahead = datetime.now(UTC) + timedelta(hours=1)
    await stored(engine, experiment, n=300, deadline=lambda row: ahead if row >= 200 else START)
    assert (await ask(client, "fixed"))["rows"] == 200


async def test_a_sticky_unit_counts_once(client, engine, experiments):
    definition = Definition(key="summary", variants=VARIANTS, stickiness="unit")
    experiment = await experiments.create(definition)
    await stored(engine, experiment, n=600, unit_hash=lambda row: row // 3)
    found = await ask(client, "fixed")
    assert (found["rows"], found["units"]) == (200, 200)
    assert any("sticky" in warning for warning in found["warnings"])


async def test_warns_about_units_with_several_assignments(client, engine, experiment):
    await stored(engine, experiment, n=600, unit_hash=lambda row: row // 3)
    found = await ask(client, "fixed")
    assert (found["rows"], found["units"]) == (600, 200)
    assert any("independent" in warning for warning in found["warnings"])


async def test_a_log_is_read_in_pages_and_a_long_one_in_part(client, engine, experiment, monkeypatch):
    await stored(engine, experiment, n=500)
    whole = await ask(client, "fixed")
    monkeypatch.setattr(limits, "EVALUATION_PAGE_ROWS", 7)
    assert await ask(client, "fixed") == whole
    monkeypatch.setattr(limits, "EVALUATION_ROWS_MAX", 210)
    part = await ask(client, "fixed")
    assert (part["rows"], part["sampled"]) == (210, True)


async def test_only_readers_may_ask_and_only_of_what_there_is(client, experiment):
    path = "/experiments/summary/evaluate"
    assert (
        await client.post(path, json={"policy": "fixed"}, headers=bearer(KEYS[Scope.ASSIGN]))
    ).status_code == 403
    assert (await client.post("/experiments/nobody/evaluate", json={"policy": "fixed"})).status_code == 404
