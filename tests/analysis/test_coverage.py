"""The coverage of signals, what they predict, and weights that are calibrated to labels."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest
from scipy.stats import binom

from app.analysis.coverage import LABELS_MIN, coverage_of, joined
from app.analysis.labels import Labelled, compared, fitted
from app.cli.display.signals import prediction
from app.experiments.checks import check
from app.experiments.metrics import Metric, Proportion
from app.experiments.model import Definition, Variant
from app.experiments.reward import Reward
from app.feedback.model import Source
from app.ledger.rewards.model import ASSIGNMENT, GIVEN, Given, Rule, resolve
from app.ledger.tables import assignments as assignment_rows
from app.ledger.tables import signal_totals
from app.ledger.tables import signals as signal_rows

DEFINITION = Definition(
    key="summary",
    variants=(Variant("control", control=True), Variant("short")),
    reward=Reward(signals={"copied": 0.8, "regenerated": -0.5}),
    metrics=(Metric(key="stars", measure=Proportion("stars")),),
)
NAMES = ["copied", "regenerated", "quality", "stars"]
AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


def sample(n, seed=1, *, copies_if_good=0.4, copies_if_bad=0.15, labelled=0.5, per_unit=1):
    """Make assignments of known quality, and signals about them."""
    chance = np.random.default_rng(seed)
    good = chance.random(n) < 0.65
    copied = chance.random(n) < np.where(good, copies_if_good, copies_if_bad)
    stars = np.where(good, chance.integers(3, 6, n), chance.integers(1, 4, n))
    made = np.zeros(n, ASSIGNMENT)
    made["unit_hash"] = np.arange(n) // per_unit
    made["deadline_us"] = 10**12
    rows = []
    for owner in range(n):
        if copied[owner]:
            rows.append((owner, 0, Source.IMPLICIT, 2_000_000, 1.0))
        if owner % 10 == 0:
            rows.append((owner, 3, Source.EXPLICIT, 60_000_000, float(stars[owner])))
        if chance.random() < labelled:
            rows.append((owner, 2, Source.HUMAN, 3_600_000_000, float(good[owner])))
    return made, Given(np.array(rows, GIVEN), NAMES), good, copied


def signal(coverage, name):
    return next(row for row in coverage.signals if row.signal == name)


def test_shares_and_delays_are_those_of_the_sample():
    made, given, _, copied = sample(2_000)
    coverage = coverage_of(DEFINITION, made, given)
    row = signal(coverage, "copied")
    assert (row.assignments, row.share) == (int(copied.sum()), pytest.approx(copied.mean()))
    assert row.share_interval.lower < row.share < row.share_interval.upper
    assert row.delay.median_s == 2.0
    assert signal(coverage, "regenerated").share == 0.0
    assert signal(coverage, "stars").share == pytest.approx(0.1)


def test_says_what_a_copy_predicts():
    made, given, good, copied = sample(4_000)
    coverage = coverage_of(DEFINITION, made, given)
    assert (coverage.label, coverage.sampled) == ("quality", 4_000)
    comparison = signal(coverage, "copied").comparison
    labelled = np.zeros(4_000, np.bool_)
    labelled[given.signals["owner"][given.signals["name"] == 2]] = True
    assert comparison.with_signal.score == pytest.approx(good[labelled & copied].mean())
    assert comparison.without.score == pytest.approx(good[labelled & ~copied].mean())
    assert comparison.interval.lower > 0
    assert prediction("copied", comparison).startswith("copied raises the label from 0.5")


@pytest.mark.parametrize("per_unit", [1, 8])
def test_intervals_cover_what_is_true(per_unit):
    """An interval may miss in at most 5 % of samples; a right one fails here in 1 of 10,000 runs.

    Labels of one unit are alike, so an interval that takes them as independent misses far more.
    """
    runs, misses, naive_misses = 300, 0, 0
    truth = 0.6
    for seed in range(runs):
        chance = np.random.default_rng(seed)
        n = 400
        units = np.arange(n) // per_unit
        unit_scores = chance.random(n // per_unit) < truth
        scores = np.repeat(unit_scores, per_unit).astype(np.float64)
        for clusters, counted in ((units, True), (np.arange(n), False)):
            values = np.where(np.arange(n) < n - per_unit, 1.0, np.nan)
            comparison = compared(Labelled(scores, clusters), values, is_event=True, lower_is_better=False)
            around = comparison.with_signal.interval
            missed = not around.lower <= truth <= around.upper
            misses += missed and counted
            naive_misses += missed and not counted
    limit = binom.ppf(1 - 1e-4, runs, 0.05)
    assert misses <= limit
    assert per_unit == 1 or naive_misses > limit  # planted: clusters are ignored


def test_a_calibration_is_monotone_and_close_to_the_truth():
    chance = np.random.default_rng(3)
    stars = chance.integers(1, 6, 6_000).astype(np.float64)
    good = (chance.random(6_000) < (stars - 0.5) / 5).astype(np.float64)
    fit = fitted(Labelled(good, np.arange(6_000)), stars, is_event=False)
    assert [point.value for point in fit.points] == [1, 2, 3, 4, 5]
    scores = [point.score for point in fit.points]
    assert scores == sorted(scores)
    assert scores == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9], abs=0.05)
    assert fit.weight_interval.lower < fit.weight < fit.weight_interval.upper


def test_a_signal_that_falls_with_quality_falls_in_its_calibration():
    chance = np.random.default_rng(4)
    latency = chance.lognormal(7, 1, 3_000)
    good = (chance.random(3_000) < 1 / (1 + latency / 1_000)).astype(np.float64)
    fit = fitted(Labelled(good, np.arange(3_000)), latency, is_event=False)
    scores = [point.score for point in fit.points]
    assert len(scores) == 16
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.7
    assert scores[-1] < 0.3


def test_the_proposed_reward_is_valid_and_predicts_the_label():
    made, given, good, copied = sample(6_000, labelled=0.5)
    reward = coverage_of(DEFINITION, made, given).reward
    definition = check(Definition(key="next", variants=DEFINITION.variants, reward=reward))
    made["experiment_id"] = 1
    rule = {1: Rule.of(definition.reward, by_unit=False)}
    after = resolve(made, given, rule, silent_until_us=-np.inf)
    rewarded = after["reward"] >= 0
    assert rewarded.sum() >= copied.sum()
    of_good, of_bad = (after["reward"][rewarded & (good == side)].mean() for side in (True, False))
    assert of_good > of_bad + 0.03 * 10**9


def test_too_few_labels_say_so_and_propose_nothing():
    made, given, *_ = sample(100, labelled=0.02)
    coverage = coverage_of(DEFINITION, made, given)
    assert coverage.reward is None
    assert f"{LABELS_MIN} are needed" in signal(coverage, "copied").reason
    none = Given(given.signals[given.signals["source"] != Source.HUMAN], NAMES)
    assert signal(coverage_of(DEFINITION, made, none), "copied").reason.startswith("no label")


def test_nothing_is_logged_yet():
    coverage = coverage_of(DEFINITION, np.zeros(0, ASSIGNMENT), Given(np.zeros(0, GIVEN), []))
    assert coverage.sampled == 0
    assert [row.share for row in coverage.signals] == [None, None, None]


def test_parts_of_a_log_are_joined_whatever_order_their_names_have():
    made, given, *_ = sample(200)
    half = made["unit_hash"] < 100
    parts = [(made[:100], given.about(np.arange(100))), (made[100:], given.about(np.arange(100, 200)))]
    turned = [parts[1][1].signals.copy(), ["stars", "quality", "regenerated", "copied"]]
    turned[0]["name"] = 3 - turned[0]["name"]
    again = joined([parts[0], (parts[1][0], Given(*turned))])
    whole = coverage_of(DEFINITION, made, given)
    assert half.sum() == 100
    assert coverage_of(DEFINITION, *again) == whole


@pytest.fixture
async def logged(engine, experiments):
    await experiments.create(DEFINITION)
    experiment = await experiments.start("summary")
    async with engine.begin() as connection:
        for number in range(80):
            at = AT + timedelta(seconds=number)
            row = {"experiment_id": experiment.id, "unit_hash": number, "id": UUID(int=number + 1)}
            await connection.execute(
                assignment_rows.insert(),
                row
                | {
                    "unit": f"u{number}", "assigned_at": at, "deadline": at + timedelta(hours=1), "epoch": 1,
                    "policy_version": 1, "variant": 0, "propensity": 0.5, "exposed": True,
                },
            )  # fmt: skip
            sent = {"copied": (0, 1.0)} if number % 2 else {}
            sent |= {"quality": (3, float(number % 4 != 0))}
            for name, (source, value) in sent.items():
                await connection.execute(
                    signal_rows.insert(),
                    {
                        "assignment_id": UUID(int=number + 1), "event_key": f"#{name}/{source}",
                        "experiment_id": experiment.id, "unit_hash": number, "signal": name, "source": source,
                        "value": value, "at": at + timedelta(seconds=3), "received_at": at,
                    },
                )  # fmt: skip
        counts = {"waiting": 0, "unknown_unit": 0, "late": 0, "early": 0, "out_of_range": 0}
        for name, counted in (("copied", 40), ("quality", 80)):
            row = {"experiment_id": experiment.id, "signal": name, "counted": counted}
            await connection.execute(signal_totals.insert(), row | counts)


@pytest.mark.anyio
async def test_coverage_comes_with_the_signals_over_http(client, logged):
    body = (await client.get("/experiments/summary/signals")).json()
    coverage = body["coverage"]
    assert (coverage["sampled"], coverage["label"], coverage["labelled"]) == (80, "quality", 80)
    copied = next(row for row in coverage["signals"] if row["signal"] == "copied")
    assert (copied["share"], copied["delay"]["median_s"]) == (0.5, 3.0)
    assert copied["comparison"]["with_signal"]["score"] == 1.0
    assert copied["comparison"]["without"]["score"] == 0.5
    assert coverage["reward"]["signals"]["copied"]["calibration"] == [[0.0, 0.5], [1.0, 1.0]]
    bare = (await client.get("/experiments/summary/signals?coverage=false")).json()
    assert bare["coverage"] is None


@pytest.mark.anyio
async def test_an_unknown_label_is_refused_with_the_nearest(client, logged):
    refused = await client.get("/experiments/summary/signals?label=qualty")
    assert refused.status_code == 400
    assert "did you mean quality?" in refused.json()["detail"]
