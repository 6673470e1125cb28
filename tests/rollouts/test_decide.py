"""The decider: every stage, verdict, integrity, and what else may be the case, together."""

from datetime import timedelta
from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.analysis.integrity import Finding
from app.experiments.metrics import Margin, Mean, Metric
from app.rollouts.decide import decide, held
from app.rollouts.model import (
    Advance,
    Ask,
    Complete,
    Completed,
    Draft,
    GuardrailReading,
    Hold,
    LimitReading,
    Paused,
    Primary,
    PrimaryReading,
    Reading,
    RollBack,
    RolledBack,
    Running,
    Stage,
    Window,
)
from app.rollouts.steps import after
from tests.rollouts.support import DAY, ERRORS, LATENCY, START, approved, paused, plan_of, resumed, running

VERDICTS = ("harm", "safe", "not_enough_data", "missing")
SEVERITIES = ("fine", "note", "unknown", "broken")
PRIMARY = Primary(metric=Metric(key="score", measure=Mean("score"), role="primary", margin=Margin(0.1)))


def stages(**changes):
    kept = {"duration_s": 3_600.0, "duration_max_s": 7_200.0, **changes}
    return (*(Stage(share=share, **kept) for share in (0.01, 0.05, 0.25)), Stage(share=1.0))


def plan_with(*, primary=None, windows=(), canaries=("new",), **stage):
    return plan_of(
        ERRORS, LATENCY, stages=stages(**stage), primary=primary, windows=windows, canaries=canaries
    )


def guardrail(metric, verdict, canary="new"):
    missing = verdict == "missing"
    return GuardrailReading(
        metric=metric,
        canary=canary,
        verdict="not_enough_data" if missing else verdict,
        missing=missing,
        reason=verdict,
    )


def reading(
    errors="safe", latency="safe", *, severity="fine", tripped=False, age=1.0, units=10**6, shown=True
):
    return Reading(
        guardrails=(guardrail("error_rate", errors), guardrail("latency", latency)),
        limits=(
            LimitReading(
                metric="error_rate",
                canary="new",
                beyond=0.3,
                canary_units=90,
                canary_estimate=0.5,
                control_estimate=0.01,
                tripped=tripped,
            ),
        ),
        primary=(PrimaryReading(metric="score", canary="new", test="non_inferior", shown=shown),),
        integrity=(Finding(kind="sample_ratio", severity=severity, detail="the split"),),
        stage_units={"new": units},
        data_age_s=age,
    )


AGES = {"early": timedelta(minutes=30), "due": timedelta(minutes=90), "overdue": timedelta(hours=3)}


def expected(stage, errors, latency, severity, tripped, age, then, state_kind, approval):
    """The rule in its shortest form: a table to hold the code against."""
    both = (errors, latency)
    if tripped:
        return RollBack, "limit"
    if "harm" in both:
        return RollBack, "harm"
    if severity == "broken":
        return Hold, "integrity"
    unanswered = any(verdict != "safe" for verdict in both)
    if unanswered and age == "overdue" and state_kind == "running":
        return {"hold": Hold, "ask": Ask, "rollback": RollBack}[then], "overdue"
    if "missing" in both:
        return Hold, "missing_data"
    if state_kind == "paused":
        return Hold, "paused"
    if age == "early":
        return Hold, "minimum_duration"
    if unanswered:
        return Hold, "not_enough_data"
    if approval:
        return Ask, "approval"
    return (Complete if stage == 2 else Advance), None


def test_every_stage_verdict_and_integrity_leads_to_the_decision_of_the_table():
    seen = 0
    for stage, errors, latency, severity, tripped, age, then, state_kind, approval in product(
        range(3),
        VERDICTS,
        VERDICTS,
        SEVERITIES,
        (False, True),
        AGES,
        ("hold", "ask", "rollback"),
        ("running", "paused"),
        (False, True),
    ):
        plan = plan_with(then=then, approval=approval)
        state = running(stage)
        if state_kind == "paused":
            state = paused(state, at=START)
        look = reading(errors, latency, severity=severity, tripped=tripped)
        decision = decide(plan, state, look, START + AGES[age])
        kind, reason = expected(stage, errors, latency, severity, tripped, age, then, state_kind, approval)
        assert type(decision) is kind, (stage, errors, latency, severity, tripped, age, then, state_kind)
        assert getattr(decision, "reason", None) == reason
        if isinstance(decision, Advance):
            assert decision.to_stage == stage + 1
        if isinstance(decision, RollBack):
            assert decision.canaries == ("new",)
        seen += 1
    assert seen == 3 * 4 * 4 * 4 * 2 * 3 * 3 * 2 * 2


@pytest.mark.parametrize(
    "ended", [RolledBack(stage=1, ended_at=START), Completed(canaries=("new",), ended_at=START)]
)
def test_what_has_ended_stays_so_whatever_is_read(ended):
    for errors, latency, severity, tripped in product(VERDICTS, VERDICTS, SEVERITIES, (False, True)):
        look = reading(errors, latency, severity=severity, tripped=tripped)
        decision = decide(plan_with(), ended, look, START + DAY)
        assert decision == Hold(reason="ended", detail="the rollout has ended")
        assert after(ended, decision, at=START + DAY, epoch=9) == ended
        assert after(ended, Advance(to_stage=2), at=START + DAY, epoch=9) == ended


looks = st.builds(
    reading,
    st.sampled_from(VERDICTS),
    st.sampled_from(VERDICTS),
    severity=st.sampled_from(SEVERITIES),
    tripped=st.booleans(),
    age=st.sampled_from([None, 1.0, 1e6]),
    units=st.sampled_from([0, 10**6]),
    shown=st.booleans(),
)
actions = st.sampled_from(["look", "look", "look", "pause", "resume", "approve"])
plans = st.builds(
    plan_with,
    primary=st.sampled_from([None, PRIMARY]),
    then=st.sampled_from(["hold", "ask", "rollback"]),
    approval=st.booleans(),
    units_min=st.sampled_from([0, 1_000]),
    windows=st.sampled_from([(), (Window(from_hour=8, to_hour=20),)]),
)


@given(plan=plans, steps=st.lists(st.tuples(actions, looks, st.integers(0, 20_000)), max_size=25))
def test_a_rollout_only_goes_on_with_good_data_and_never_comes_back_from_a_rollback(plan, steps):
    state, now, epoch = running(), START, 1
    for action, look, seconds in steps:
        now, before = now + timedelta(seconds=seconds), state
        match action, state:
            case "pause", Running():
                state = paused(state, at=now)
            case "resume", Paused():
                state = resumed(state, at=now)
            case "approve", Running():
                state = approved(state)
            case "look", _:
                decision = decide(plan, state, look, now)
                epoch += 1
                state = after(state, decision, at=now, epoch=epoch)
                bad = {reading_of_one.verdict for reading_of_one in look.guardrails} | {
                    reading_of_one.tripped for reading_of_one in look.limits
                }
                if isinstance(decision, Advance | Complete):
                    assert isinstance(before, Running)
                    assert all(
                        reading_of_one.verdict == "safe" and not reading_of_one.missing
                        for reading_of_one in look.guardrails
                    )
                    assert not any(reading_of_one.tripped for reading_of_one in look.limits)
                    assert all(reading_of_one.severity != "broken" for reading_of_one in look.integrity)
                    assert look.data_age_s == 1.0
                    assert now >= before.entered_at + timedelta(hours=1)
                if isinstance(decision, RollBack):
                    assert "harm" in bad or True in bad or decision.reason == "overdue"
                    assert isinstance(state, RolledBack)
                if not isinstance(before, RolledBack | Completed) and ("harm" in bad or True in bad):
                    assert isinstance(state, RolledBack)
                if isinstance(before, RolledBack | Completed):
                    assert state == before
        assert sum(held(plan, state).values()) in (0.0, 0.01, 0.05, 0.25, 1.0)


@given(look=looks, worse=st.sampled_from(["harm", "limit"]))
def test_harm_is_rolled_back_whatever_else_is_the_case(look, worse):
    first = msgspec.structs.replace(look.guardrails[0], verdict="harm")
    trip = msgspec.structs.replace(look.limits[0], tripped=True)
    changed = {"guardrails": (first, look.guardrails[1])} if worse == "harm" else {"limits": (trip,)}
    harmful = msgspec.structs.replace(look, **changed)
    for state in (running(), paused(running(2), at=START)):
        assert isinstance(decide(plan_with(), state, harmful, START), RollBack)


@pytest.mark.parametrize("age", [None, 301.0])
def test_data_that_are_old_or_of_unknown_age_are_missing(age):
    decision = decide(plan_with(), running(), reading(age=age), START + AGES["due"])
    assert (decision.reason, decision.alert) == ("missing_data", True)


def test_a_guardrail_without_a_reading_is_missing():
    look = msgspec.structs.replace(reading(), guardrails=reading().guardrails[:1])
    decision = decide(plan_with(), running(), look, START + AGES["due"])
    assert decision.reason == "missing_data"
    assert "latency of new: not read" in decision.detail


def test_too_few_units_hold():
    decision = decide(plan_with(units_min=10**7), running(), reading(), START + AGES["due"])
    assert decision.reason == "minimum_units"


def test_the_primary_metric_is_asked_for_only_before_everything():
    plan, now = plan_with(primary=PRIMARY), START + AGES["due"]
    assert decide(plan, running(1), reading(shown=False), now) == Advance(to_stage=2)
    assert decide(plan, running(2), reading(shown=False), now).reason == "primary"
    assert decide(plan, running(2), reading(shown=True), now) == Complete()
    overdue = decide(plan_with(primary=PRIMARY, then="ask"), running(2), reading(shown=False), START + DAY)
    assert overdue.reason == "overdue"


def test_it_advances_only_in_its_windows():
    office = (Window(weekdays=(0, 1, 2, 3), from_hour=8, to_hour=16),)
    plan = plan_with(windows=office, duration_max_s=None)
    monday_at_13, monday_at_16 = START + timedelta(hours=1), START + timedelta(hours=4)
    assert decide(plan, running(), reading(), monday_at_13) == Advance(to_stage=1)
    assert decide(plan, running(), reading(), monday_at_16).reason == "window"
    assert decide(plan, running(), reading(), START + timedelta(days=4, hours=1)).reason == "window"
    assert isinstance(decide(plan, running(), reading("harm"), monday_at_16), RollBack)


def test_an_approved_stage_goes_on_once_all_is_safe():
    plan = plan_with(approval=True)
    assert decide(plan, approved(running()), reading(), START + AGES["due"]) == Advance(to_stage=1)
    assert (
        decide(plan, approved(running()), reading("not_enough_data"), START + AGES["due"]).reason
        == "not_enough_data"
    )


def test_a_pause_does_not_count_as_time_in_the_stage():
    back = resumed(paused(running(), at=START + timedelta(minutes=30)), at=START + timedelta(minutes=80))
    assert decide(plan_with(), back, reading(), START + timedelta(minutes=90)).reason == "minimum_duration"
    assert decide(plan_with(), back, reading(), START + timedelta(minutes=110)) == Advance(to_stage=1)


def test_the_last_stage_below_everything_completes_where_it_is():
    plan = plan_of(ERRORS, LATENCY, stages=(Stage(share=0.1), Stage(share=0.5)))
    assert decide(plan, running(1), reading(), START + DAY) == Complete()
    assert held(plan, Completed(canaries=("new",), ended_at=START)) == {"new": 0.5}


def test_of_several_canaries_only_the_harmful_one_is_rolled_back():
    plan = plan_with(canaries=("new", "other"))
    state = running(1, canaries=("new", "other"))
    assert held(plan, state) == {"new": 0.025, "other": 0.025}
    look = Reading(
        guardrails=tuple(
            guardrail(metric, "harm" if (metric, canary) == ("latency", "new") else "safe", canary)
            for metric in ("error_rate", "latency")
            for canary in ("new", "other")
        ),
        stage_units={"new": 900, "other": 900},
        data_age_s=0.0,
    )
    decision = decide(plan, state, look, START + AGES["due"])
    assert decision.canaries == ("new",)
    state = after(state, decision, at=START, epoch=2)
    assert held(plan, state) == {"new": 0.0, "other": 0.025}
    assert decide(plan, state, look, START + AGES["due"]) == Advance(to_stage=2)
    assert held(plan, Completed(canaries=("other",), ended_at=START)) == {"new": 0.0, "other": 1.0}
    assert after(
        state, RollBack(canaries=("other",), reason="person", detail="Ada"), at=START, epoch=3
    ) == RolledBack(stage=1, ended_at=START)


def test_a_paused_rollout_loses_the_harmful_canary_and_stays_paused():
    both = paused(running(1, canaries=("new", "other")), at=START)
    left = after(both, RollBack(canaries=("new",), reason="harm", detail=""), at=START, epoch=2)
    assert isinstance(left, Paused)
    assert left.running.canaries == ("other",)


def test_a_draft_holds_whatever_is_read_and_gives_no_share():
    plan = plan_of()
    for verdict in ("harm", "safe", "not_enough_data"):
        decision = decide(plan, Draft(), reading(errors=verdict), START)
        assert decision == Hold(reason="draft", detail="the rollout has not been started")
    back = RollBack(canaries=("new",), reason="person", detail="")
    for made in (Advance(to_stage=1), Complete(), back):
        assert after(Draft(), made, at=START, epoch=2) == Draft()
    assert held(plan, Draft()) == {}
