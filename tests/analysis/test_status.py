"""The status API: what is known of an experiment, and what is not."""

from datetime import UTC, datetime, timedelta

import pytest
from scipy import stats

from app.access.model import Scope
from app.assignment import snapshot
from app.assignment.bucketing import WHOLE
from app.core.errors import Unavailable
from app.core.valkey import registry_key
from app.experiments.lifecycle import DefinitionChange
from app.experiments.model import Definition, Variant
from app.experiments.policies import EpsilonGreedyPolicy, FixedPolicy, ThompsonPolicy
from app.experiments.policies.forgetting import Window
from app.experiments.policies.posterior import BetaPrior
from app.ledger.learning.model import RewardSums, part_of_bucket
from app.ledger.tables import draws, metric_totals, policy_totals, stream_positions
from app.ledger.units.measures import CellTotals
from tests.support.api import KEYS, bearer
from tests.support.totals import record

pytestmark = pytest.mark.anyio

VARIANTS = (Variant("control", control=True), Variant("short"))
PATH = "/experiments/summary/status"


@pytest.fixture
async def experiment(experiments):
    await experiments.create(Definition(key="summary", variants=VARIANTS))
    return await experiments.start("summary")


async def status(client):
    answer = await client.get(PATH)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_before_the_first_reward_nothing_is_claimed(client, experiment):
    body = await status(client)
    history = body.pop("allocation_history")
    assert datetime.fromisoformat(body.pop("updated_at")) <= datetime.now(UTC)
    assert datetime.fromisoformat(body.pop("read_at")) <= datetime.now(UTC)
    assert body.pop("analysis")["recommendation"]["action"] == "wait"
    assert body.pop("conclusion") == "Wait: no unit has come yet."
    (figures,) = body.pop("descriptive")
    assert [(row["variant"], row["n"], row["value"]) for row in figures["variants"]] == [
        ("control", 0, None),
        ("short", 0, None),
    ]
    assert body.pop("backfill") is None
    assert body.pop("assumptions") == [
        (
            "probability_best and expected_loss assume that mean rewards do not drift; "
            "comparisons do not assume it"
        )
    ]
    unknown = {"assignments": 0, "rewards": 0, "pending": 0, "censored": 0, "mean": None, "interval": None}
    even = {
        "probability_best": 0.5,
        "expected_loss": pytest.approx(1 / 6),
        "allocation": 0.5,
        "retired": False,
    }
    assert body == {
        "key": "summary",
        "state": "running",
        "winner": None,
        "revision": 2,
        "epoch": 1,
        "policy_version": 1,
        "totals_as_of": None,
        "lag_events": 0,
        "warnings": [],
        "rollouts": [],
        "frozen": None,
        "variants": [
            {"key": "control", "control": True, **unknown, **even},
            {"key": "short", "control": False, **unknown, **even},
        ],
        "reward_in_words": "the last of thumbs_up (1) and thumbs_down (0) within 1 h, on the"
        " scale 0 to 1; silence does not count",
    }
    assert [(point["policy_version"], point["epoch"], point["shares"]) for point in history] == [
        (1, 1, [0.5, 0.5])
    ]


async def test_totals_become_means_intervals_and_chances(client, engine, allocation, experiment):
    await record(engine, experiment, (100, 30), (100, 60), pending=5, censored=2)
    await allocation.reallocate(experiment.id)
    body = await status(client)
    control, short = body["variants"]
    assert (short["assignments"], short["rewards"], short["pending"], short["censored"]) == (107, 100, 5, 2)
    assert (control["mean"], short["mean"]) == (0.3, 0.6)
    assert short["interval"] == pytest.approx(stats.beta(61, 41).interval(0.95))
    assert short["probability_best"] > 0.999
    assert short["expected_loss"] < 1e-4 < control["expected_loss"]
    assert short["allocation"] == pytest.approx(0.975, abs=1e-3)
    assert control["allocation"] + short["allocation"] == 1
    assert [point["shares"] for point in body["allocation_history"]] == [
        [0.5, 0.5],
        [control["allocation"], short["allocation"]],
    ]


async def test_a_shadow_policy_is_compared_and_never_served(
    client, experiments, engine, allocation, valkey, experiment
):
    """Epsilon-greedy gives 0.95 and 0.05. The posterior means of 30 and 60 of 100 are 31/102 and 61/102."""
    await experiments.change("summary", DefinitionChange(policy=FixedPolicy({"control": 0.5, "short": 0.5})))
    await record(engine, experiment, (100, 30), (100, 60))
    await allocation.reallocate(experiment.id)
    before = await status(client)
    assert "shadow_policy" not in before
    await experiments.change("summary", DefinitionChange(shadow_policy=EpsilonGreedyPolicy(epsilon=0.1)))
    await allocation.reallocate(experiment.id)
    body = await status(client)
    assert body["shadow_policy"] == {
        "kind": "epsilon_greedy",
        "shares": {"control": pytest.approx(0.05), "short": pytest.approx(0.95)},
        "moved": pytest.approx(0.45),
        "expected_reward": pytest.approx((0.05 * 31 + 0.95 * 61) / 102),
        "served_expected_reward": pytest.approx(46 / 102),
    }
    for field in ("epoch", "policy_version", "variants", "allocation_history"):
        assert body[field] == before[field]
    published = snapshot.decode(await valkey.hget(registry_key("experiments"), "summary"))
    assert published.weights == (WHOLE // 2, WHOLE // 2)
    await experiments.change("summary", DefinitionChange(shadow_policy=None))
    assert "shadow_policy" not in await status(client)


async def test_the_prior_of_the_policy_counts(client, experiments, engine, experiment):
    policy = ThompsonPolicy(prior=BetaPrior(10, 10))
    await experiments.change("summary", DefinitionChange(policy=policy))
    await record(engine, experiment, (4, 4), (0, 0))
    control, short = (await status(client))["variants"]
    assert control["interval"] == pytest.approx(stats.beta(14, 10).interval(0.95))
    assert control["mean"] == 1.0
    assert short["interval"] is None


async def test_a_fixed_policy_shows_the_chances_it_does_not_use(client, experiments, engine, experiment):
    await experiments.change("summary", DefinitionChange(policy=FixedPolicy({"control": 0.9, "short": 0.1})))
    await record(engine, experiment, (100, 30), (100, 60))
    body = await status(client)
    assert [variant["allocation"] for variant in body["variants"]] == pytest.approx([0.9, 0.1])
    assert body["variants"][1]["probability_best"] > 0.999
    assert (body["epoch"], body["policy_version"]) == (2, 2)


async def test_the_lag_is_told_and_unknown_without_valkey(client, lag, experiment):
    lag.answer = 17
    assert (await status(client))["lag_events"] == 17
    lag.answer = Unavailable("Valkey does not answer: gone")
    body = await status(client)
    assert body["lag_events"] is None
    assert body["warnings"] == ["lag_events is unknown: Valkey does not answer: gone"]


async def test_totals_are_as_old_as_the_slowest_shard(client, engine, experiment):
    now = datetime.now(UTC)
    async with engine.begin() as connection:
        await connection.execute(stream_positions.delete())
        rows = [{"shard": shard, "watermark": now - timedelta(seconds=shard)} for shard in range(2)]
        await connection.execute(stream_positions.insert(), rows)
    assert datetime.fromisoformat((await status(client))["totals_as_of"]) == now - timedelta(seconds=1)
    async with engine.begin() as connection:
        await connection.execute(stream_positions.insert(), {"shard": 2})
    assert (await status(client))["totals_as_of"] is None


async def test_a_draft_and_a_stopped_experiment_have_a_status(client, experiments):
    await experiments.create(Definition(key="summary", variants=VARIANTS))
    assert (await status(client))["state"] == "draft"
    await experiments.start("summary")
    await experiments.stop("summary", "short")
    body = await status(client)
    assert (body["state"], body["winner"]) == ("stopped", "short")


async def test_a_draft_that_changed_its_variants_shows_the_history_of_the_present_ones(client, experiments):
    await experiments.create(Definition(key="summary", variants=VARIANTS))
    await experiments.change("summary", DefinitionChange(variants=(*VARIANTS, Variant("long"))))
    body = await status(client)
    assert len(body["variants"]) == 3
    # The variant that was added later has no share in the earlier point.
    assert [len(point["shares"]) for point in body["allocation_history"]] == [3, 3]


async def test_before_anything_is_published_there_is_no_allocation(client, engine, experiments, experiment):
    async with engine.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM allocations")
    body = await status(client)
    assert (body["policy_version"], body["updated_at"], body["allocation_history"]) == (None, None, [])
    assert [variant["allocation"] for variant in body["variants"]] == [None, None]


@pytest.mark.parametrize("key", ["nobody", "a%00b", "%FF", "x" * 200])
async def test_what_has_no_status_is_not_found(client, key):
    answer = await client.get(f"/experiments/{key}/status")
    assert answer.status_code in {400, 404}
    assert answer.headers["content-type"] == "application/problem+json"


async def test_only_readers_may_ask(client, experiment):
    assert (await client.get(PATH, headers=bearer(KEYS[Scope.ASSIGN]))).status_code == 403
    assert (await client.get(PATH, headers=bearer("unknown"))).status_code == 401


async def test_a_bandit_is_read_by_its_strata_of_shares_and_decided(client, engine, experiment):
    await record(engine, experiment, (1_000, 300), (1_000, 600))
    body = (await status(client))["analysis"]
    (reward,) = body["metrics"]
    _, short = reward["variants"]
    assert body["adaptive"]
    assert "under any drift" in reward["guarantee"]
    assert short["verdict"] == "better"
    assert short["effect"] == pytest.approx(0.3)
    assert 0 < short["interval"][0] < 0.3 < short["interval"][1]
    assert short["e_value"] > 20
    assert body["leader"] == {"variant": "short", "declared": True, "level": 0.05, "undecided": []}
    assert body["recommendation"]["action"] == "ship"
    # Shares that moved within the epoch: the log would know, the totals do not.
    assert [finding["severity"] for finding in body["integrity"]] == ["unknown"]


async def test_a_fixed_split_is_checked_against_its_shares(client, experiments, engine, experiment):
    await experiments.change("summary", DefinitionChange(policy=FixedPolicy({"control": 0.5, "short": 0.5})))
    experiment = await experiments.get("summary")
    await record(engine, experiment, (1_000, 300), (1_000, 320))
    body = (await status(client))["analysis"]
    assert not body["adaptive"]
    assert [finding["severity"] for finding in body["integrity"]] == ["fine"]
    assert body["metrics"][0]["method"].startswith("asymptotic confidence sequence")
    await record(engine, experiment, (1_000, 300), (100, 32))
    body = (await status(client))["analysis"]
    assert body["integrity"][0]["severity"] == "broken"
    assert body["recommendation"]["action"] == "fix_data"


async def test_a_sticky_unit_is_no_draw_of_its_own(client, experiments, engine):
    fixed = FixedPolicy({"control": 0.5, "short": 0.5})
    await experiments.create(Definition(key="summary", variants=VARIANTS, stickiness="unit", policy=fixed))
    experiment = await experiments.start("summary")
    await record(engine, experiment, (1_000, 300), (100, 30))
    body = await status(client)
    assert [finding["severity"] for finding in body["analysis"]["integrity"]] == ["unknown"]
    assert body["analysis"]["units"] == 0, "totals of rewards say nothing of units"


async def test_a_policy_that_forgets_tells_what_has_changed(client, experiments, engine, experiment):
    """Ten failures, then ten successes: log evidence 9.70, of log(2 / 0.05) that call a mean changed."""
    assert "drift" not in await status(client)
    await experiments.change("summary", DefinitionChange(policy=ThompsonPolicy(forgetting=Window(480.0))))
    assert "drift" not in await status(client), "there is no reward yet"
    epoch = (await experiments.get("summary")).epoch
    now_s = int(datetime.now(UTC).timestamp()) // 60 * 60
    buckets = {now_s - 120: (0, 5), now_s - 60: (10, 5), now_s - 10 * 60 * 60: (10, 0)}  # the last: forgotten
    async with engine.begin() as connection:
        for start_s, successes in buckets.items():
            for variant, n in enumerate(successes):
                body = RewardSums.of([10**9] * n + [0] * (10 - n)).to_bytes()
                key = {"experiment_id": experiment.id, "epoch": epoch, "variant": variant}
                await connection.execute(
                    policy_totals.insert().values(**key, part=part_of_bucket(start_s), body=body)
                )
    drift = (await status(client))["drift"]
    assert drift["changed"] == [
        {"variant": "control", "since": f"{datetime.fromtimestamp(now_s - 60, UTC):%Y-%m-%dT%H:%M:%SZ}"}
    ]
    assert drift["log_evidence"]["control"] == pytest.approx(9.70, abs=0.005)
    assert drift["log_evidence"]["short"] < drift["log_threshold"] == pytest.approx(3.689, abs=5e-4)


async def test_the_split_of_a_bandit_is_checked_from_sums_of_its_probabilities(client, engine, experiment):
    """Shares moved: 4,000 draws had a summed probability of 1,200 for the control."""

    async def draw(control, expected):
        counts = ((0, control, expected), (1, 4_000 - control, 4_000 - expected))
        async with engine.begin() as connection:
            await connection.execute(draws.delete())
            for variant, count, total in counts:
                await connection.execute(
                    draws.insert().values(
                        experiment_id=experiment.id,
                        epoch=1,
                        variant=variant,
                        assignments=count,
                        probability_sum=total * WHOLE,
                    )
                )

    await record(engine, experiment, (10, 3), (10, 6))
    [unknown] = (await status(client))["analysis"]["integrity"]
    assert (unknown["kind"], unknown["severity"]) == ("sample_ratio", "unknown")
    await draw(1_210, 1_200)
    [fine] = (await status(client))["analysis"]["integrity"]
    assert (fine["kind"], fine["severity"]) == ("sample_ratio", "fine")
    await draw(900, 1_200)
    [broken] = (await status(client))["analysis"]["integrity"]
    assert broken["severity"] == "broken"
    assert "control has 25.00% fewer" in broken["detail"]


async def test_where_units_crossed_over_it_is_said_how_it_would_be_the_other_way(client, experiments, engine):
    """By hand: 600 of 1,000 against 300 of 1,000 left alone; 1,000 more that crossed have none of 1,000."""
    policy = FixedPolicy({"control": 0.5, "short": 0.5})
    definition = Definition(key="summary", variants=VARIANTS, stickiness="unit", policy=policy)
    await experiments.create(definition)
    made = await experiments.start("summary")

    async def cell(variant, successes, *, crossed=False):
        sums = (1_000, successes * 10**9, successes * 10**18)
        async with engine.begin() as connection:
            await connection.execute(
                metric_totals.insert().values(
                    experiment_id=made.id,
                    epoch=1,
                    variant=variant,
                    segment="",
                    crossed=crossed,
                    body=CellTotals(1_000, (sums,)).to_bytes(),
                )
            )

    await cell(0, 300)
    await cell(1, 600)
    assert (await status(client))["analysis"]["sensitivity"] == []
    await cell(1, 0, crossed=True)
    analysis = (await status(client))["analysis"]
    planned = analysis["metrics"][0]["variants"][1]
    assert (planned["verdict"], planned["effect"]) == ("better", pytest.approx(0.3))
    [other] = analysis["sensitivity"]
    assert (other["metric"], other["variant"], other["crossovers"]) == ("reward", "short", "first")
    assert other["effect"] == pytest.approx(0.0, abs=1e-12)
    assert other["verdict"] == "not_enough_data"
