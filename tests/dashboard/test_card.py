from datetime import UTC, datetime, timedelta

from app.analysis.readout.model import AllocationAt, Status, VariantStatus
from app.dashboard.card import PAYLOAD_SHOWN_MAX, Card
from app.experiments.model import (
    Definition,
    Draft,
    Experiment,
    Running,
    State,
    Stopped,
    Variant,
    kind_of,
)
from app.experiments.policies import FixedPolicy
from app.experiments.reward import Reward

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
STOP, NOW = START + timedelta(hours=1), START + timedelta(hours=2)


def card(state: State, variants: list[VariantStatus], history=(), **options) -> Card:
    definition = Definition(
        key="question",
        variants=tuple(Variant(key=one.key, control=one.control, payload="x" * 900) for one in variants),
        **options,
    )
    experiment = Experiment(
        id=1,
        definition=definition,
        state=state,
        salt=b"",
        epoch=1,
        revision=1,
        created_at=START,
        updated_at=START,
    )
    status = Status(
        key="question",
        state=kind_of(state),
        winner=None,
        revision=1,
        epoch=1,
        policy_version=1,
        updated_at=START,
        totals_as_of=START,
        read_at=START,
        lag_events=0,
        warnings=[],
        variants=variants,
        allocation_history=[AllocationAt(at, 1, 1, shares) for at, shares in history],
    )
    return Card.of(experiment, status, NOW)


def variant(key: str, *, rewards: int = 0, best: float = 0.5, interval=None, share=0.5) -> VariantStatus:
    return VariantStatus(
        key=key,
        control=key == "a",
        assignments=rewards + 1,
        rewards=rewards,
        pending=1,
        censored=0,
        mean=0.5 if rewards else None,
        interval=interval,
        probability_best=best,
        expected_loss=0.1,
        allocation=share,
    )


def test_nobody_leads_before_the_first_reward():
    shown = card(Running(START), [variant("a"), variant("b")])
    assert shown.leader is None
    assert [row.probability_best for row in shown.rows] == [None, None]


def test_the_variant_most_probably_best_leads():
    shown = card(Running(START), [variant("a", rewards=5, best=0.2), variant("b", best=0.8)])
    assert shown.leader is shown.rows[1]


def test_shares_reach_to_the_present_or_to_the_end():
    history = [(START, (0.5, 0.5)), (START + timedelta(minutes=5), (0.25, 0.75))]
    variants = [variant("a"), variant("b")]
    running = card(Running(START), variants, history).history
    assert running.shares == [[0.5, 0.25, 0.25], [0.5, 0.75, 0.75]]
    assert running.times[-1] == round(NOW.timestamp() * 1_000)
    stopped = card(Stopped(START, STOP), variants, history).history
    assert stopped.times[-1] == round(STOP.timestamp() * 1_000)


def test_a_draft_has_no_history():
    assert card(Draft(), [variant("a"), variant("b")], [(START, (0.5, 0.5))]).history.times == []


def test_intervals_share_a_scale_that_holds_them_all():
    wide, narrow = variant("a", rewards=1, interval=(0.0, 0.9)), variant("b", rewards=9, interval=(0.4, 0.5))
    scale = card(Running(START), [wide, narrow]).scale
    assert scale is not None
    assert 0 <= scale.place(0.0) < scale.place(0.4) < scale.place(0.9) <= 100


def test_shares_are_stacked_without_a_gap():
    rows = card(Running(START), [variant("a", share=0.2), variant("b", share=0.8)]).rows
    assert [row.offset for row in rows] == [0.0, 0.2]


def test_a_long_payload_is_cut():
    assert len(card(Draft(), [variant("a"), variant("b")]).rows[0].payload) == PAYLOAD_SHOWN_MAX + 2


def test_policy_and_silence_are_told_in_words():
    variants = [variant("a"), variant("b")]
    learned = card(Draft(), variants, reward=Reward(horizon_s=5_400, silence=0.25))
    assert (learned.policy, learned.silence) == (
        "thompson, exploration floor 5%",
        "counts as 0.25 after 1.5 h",
    )
    fixed = card(Draft(), variants, policy=FixedPolicy(weights={"a": 0.5, "b": 0.5}))
    assert (fixed.policy, fixed.silence) == ("fixed", "does not count after 1 h")
