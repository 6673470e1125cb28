"""Changes of the metrics of a running experiment: allowed ones, refusals, and the history."""

from datetime import UTC, datetime

import msgspec
import pytest

from app.core.errors import Conflict, InvalidInput
from app.experiments import lifecycle, metric_history
from app.experiments.lifecycle import DefinitionChange
from app.experiments.metric_history import check_readers
from app.experiments.metrics import Margin, Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.model import Definition, Experiment, Running, Variant
from app.experiments.plan import AnalysisPlan, FixedHorizon, Segments
from app.experiments.policies import FixedPolicy
from app.experiments.policies.constrained_thompson import Bound, ConstrainedThompsonPolicy
from app.experiments.reward import Reward
from app.experiments.service import ExperimentService
from app.experiments.warnings import ReceivedSignals, SeenSignal, warnings_from_log, warnings_of

AT = datetime(2026, 12, 1, tzinfo=UTC)
LIKED = Metric(key="liked", measure=Proportion("thumbs_up", silence=0), role="primary")
ERRORS = Metric(
    key="errors",
    measure=Proportion("error", silence=0),
    role="guardrail",
    direction="lower",
    margin=Margin(0.1),
)
COST = Metric(key="cost", measure=Mean("cost_usd"))
VARIANTS = (Variant("control", control=True), Variant("short"))


def running(*metrics: Metric, **fields: object) -> Experiment:
    definition = Definition(key="summary", variants=VARIANTS, metrics=metrics, **fields)
    return Experiment(
        id=1, definition=definition, state=Running(AT), salt=b"", epoch=1, revision=1, created_at=AT,
        updated_at=AT,
    )  # fmt: skip


def changed(before: Experiment, *metrics: Metric, **fields: object) -> Experiment:
    return lifecycle.change(before, DefinitionChange(metrics=metrics, **fields))


def test_a_metric_that_is_added_is_exploratory_unless_the_plan_is_reopened():
    before = running(LIKED)
    added = changed(before, LIKED, COST)
    assert added.exploratory == {"cost"}
    assert added.layouts.present == 2
    assert added.epoch == before.epoch, "shares do not change"
    assert changed(added, LIKED, COST) is added, "a repeated call changes nothing"
    adopted = lifecycle.change(added, DefinitionChange(reopen_plan=True, reason="agreed on 3 December"))
    assert adopted.exploratory == set()
    assert adopted.layouts == added.layouts, "nothing has to be measured again"
    repeated = DefinitionChange(reopen_plan=True, reason="agreed on 3 December")
    assert lifecycle.change(adopted, repeated) is adopted
    with pytest.raises(InvalidInput, match="needs a reason"):
        lifecycle.change(added, DefinitionChange(reopen_plan=True))


def test_a_corrected_metric_is_measured_again_and_a_margin_is_not():
    before = running(LIKED, ERRORS, COST)
    capped = msgspec.structs.replace(COST, measure=Mean("cost_usd", (0.0, 1.0)))
    corrected = changed(before, LIKED, ERRORS, capped)
    assert corrected.exploratory == {"cost"}
    assert metric_history.unfinished_metrics(corrected) == {"cost"}
    wider = msgspec.structs.replace(ERRORS, margin=Margin(0.2))
    judged = changed(before, LIKED, wider, COST)
    assert judged.exploratory == {"errors"}, "a margin that is chosen later is not that of the plan"
    assert judged.layouts == before.layouts
    back = changed(corrected, LIKED, ERRORS, COST)
    assert back.exploratory == set()
    assert metric_history.unfinished_metrics(back) == {"cost"}, "it was not kept up to date meanwhile"


@pytest.mark.parametrize(
    ("metrics", "field"),
    [
        ((COST,), "metrics"),
        ((msgspec.structs.replace(LIKED, measure=Proportion("copied")), COST), "metrics[0]"),
        ((LIKED, msgspec.structs.replace(COST, role="primary")), "metrics[1].role"),
    ],
)
def test_what_decides_changes_only_with_a_reopened_plan(metrics, field):
    before = running(LIKED, COST)
    with pytest.raises(Conflict) as caught:
        changed(before, *metrics)
    assert field in [error.field for error in caught.value.errors]
    assert "reopen_plan" in caught.value.detail
    after = changed(before, *metrics, reopen_plan=True, reason="a new goal")
    assert after.exploratory == set()


def test_a_metric_that_a_rollout_or_a_policy_reads_stays():
    before = running(LIKED, ERRORS)
    removed = changed(before, LIKED)
    check_readers(before, removed, {})
    with pytest.raises(Conflict, match="'errors' decides in rollout 7"):
        check_readers(before, removed, {"errors": "rollout 7"})
    check_readers(before, changed(before, LIKED, ERRORS, COST), {"errors": "rollout 7"})
    policy = ConstrainedThompsonPolicy(constraints=(Bound("cost", at_most=1.0),))
    constrained = running(LIKED, COST, policy=policy)
    capped = msgspec.structs.replace(COST, measure=Mean("cost_usd", (0.0, 1.0)))
    with pytest.raises(Conflict, match="the policy reads 'cost'"):
        changed(constrained, LIKED, capped)


def test_of_the_plan_only_segments_change_and_of_the_reward_all_but_the_horizon():
    before = running(LIKED)
    segmented = lifecycle.change(
        before, DefinitionChange(plan=AnalysisPlan(segments=Segments("lang", ("de",))))
    )
    assert segmented.layouts.present == 2
    assert metric_history.unfinished_metrics(segmented) == set()
    for plan in (AnalysisPlan(alpha=0.01), AnalysisPlan(covariates=("age",))):
        with pytest.raises(Conflict, match="only segments can change"):
            lifecycle.change(before, DefinitionChange(plan=plan))
    request = DefinitionChange(reward=Reward(horizon_s=60.0), reopen_plan=True, reason="sooner")
    with pytest.raises(Conflict, match="deadline of assignments"):
        lifecycle.change(before, request)
    scored = lifecycle.change(
        before, DefinitionChange(reward=Reward(signals={"copied": 1.0}), reopen_plan=True, reason="copies")
    )
    assert metric_history.unfinished_metrics(scored) == {"reward"}


@pytest.mark.anyio
async def test_the_history_names_who_changed_what_and_why(experiments: ExperimentService):
    await experiments.create(Definition(key="summary", variants=VARIANTS, metrics=(LIKED,)))
    await experiments.change("summary", DefinitionChange(metrics=(LIKED, ERRORS)))
    assert (await experiments.metrics("summary")).changes == (), "a draft has no history"
    await experiments.start("summary")
    await experiments.change("summary", DefinitionChange(metrics=(LIKED, ERRORS, COST)), "key 4")
    capped = msgspec.structs.replace(COST, measure=Mean("cost_usd", (0.0, 1.0)))
    request = DefinitionChange(metrics=(LIKED, capped), reason="a bot", reopen_plan=True)
    await experiments.change("summary", request, "key 5")
    await experiments.change("summary", request, "key 6")
    history = await experiments.metrics("summary")
    added, corrected = history.changes
    assert (added.added, added.by, added.reopened) == (("cost",), "key 4", False)
    assert (corrected.corrected, corrected.removed) == (("cost",), ("errors",))
    assert (corrected.by, corrected.reason, corrected.reopened) == ("key 5", "a bot", True)
    liked, cost = history.metrics
    assert (liked.version, liked.since, liked.complete) == (1, None, True)
    assert (cost.version, cost.since, cost.exploratory, cost.complete) == (2, corrected.at, False, False)
    assert history.backfill is not None
    assert (history.backfill.share, history.backfill.metrics) == (0.0, ("cost",))


# Warnings


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (COST, "can't be analysed exactly without `cap`"),
        (Metric(key="r", measure=Ratio("clicks", "assignments")), "only 'r' reads 'clicks'"),
        (Metric(key="r", measure=Ratio("tokens_out", "tokens_out")), "it is always 1"),
        (Metric(key="p95", measure=QuantileOf("latency_ms")), "not compared under thompson"),
    ],
)
def test_a_trap_is_a_warning(metric, text):
    assert [warning for warning in warnings_of(running(metric).definition) if text in warning]


def test_a_sound_definition_has_no_warnings():
    policy = FixedPolicy({"control": 0.5, "short": 0.5})
    assert (
        warnings_of(running(LIKED, policy=policy, reward=Reward(signals={"thumbs_up": 1.0})).definition) == []
    )
    planned = AnalysisPlan(estimator=FixedHorizon())
    bandit = warnings_of(running(plan=planned).definition)
    assert [warning.partition(":")[0] for warning in bandit] == ["plan.estimator"]


def test_the_log_of_other_experiments_shows_short_horizons_and_names_that_never_came():
    definition = running(COST, Metric(key="tone", measure=Mean("tone", (0.0, 1.0)))).definition
    seen = {
        "thumbs_up": SeenSignal("thumbs_up", 500, 0, delay_s=7_200.0, source="earlier"),
        "cost_usd": SeenSignal("cost_usd", 500, 0, delay_s=3.0, source="earlier"),
    }
    warnings = warnings_from_log(definition, ReceivedSignals(seen, anything=True))
    assert [text for text in warnings if "shorter than the delay of 'thumbs_up': in earlier" in text]
    assert not [text for text in warnings if "'cost_usd'" in text]
    assert [text for text in warnings if "no experiment has received the signal 'tone'" in text]
    late = warnings_from_log(definition, ReceivedSignals(seen, anything=True, assignments=200))
    assert [text for text in late if text.startswith("no client has sent the signal 'tone'")]
    assert warnings_from_log(definition, ReceivedSignals()) == []
