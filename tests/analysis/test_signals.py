"""Signals by name: what became of them, what is lost, and where a person is told so."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from app.access.model import Scope
from app.analysis.routes import ROUTES
from app.analysis.signals import WARNINGS_MAX, SignalTotals, report_of, warnings_of
from app.experiments.metrics import Mean, Metric
from app.experiments.model import Definition, Variant
from app.experiments.reward import Reward
from app.ledger.tables import signal_totals
from tests.support.api import KEYS, bearer
from tests.support.totals import record

pytestmark = pytest.mark.anyio

VARIANTS = (Variant("control", control=True), Variant("short"))
DEFINITION = Definition(
    key="summary",
    variants=VARIANTS,
    reward=Reward(),
    metrics=(Metric(key="quality", measure=Mean("score", range=(1.0, 10.0))),),
)
AT = datetime(2026, 1, 2, tzinfo=UTC)
PATH = "/experiments/summary/signals"


def totals(signal: str, counted: int = 0, **others: object) -> SignalTotals:
    counts = dict.fromkeys(("waiting", "unknown_unit", "late", "early", "out_of_range"), 0)
    values = {"lowest": 1.0, "highest": 1.0, "last_at": AT}
    return SignalTotals(signal=signal, counted=counted, **(counts | values | others))  # type: ignore[arg-type]


@pytest.fixture
async def experiment(experiments):
    await experiments.create(DEFINITION)
    return await experiments.start("summary")


async def store(engine, experiment, *stored: SignalTotals) -> None:
    names = SignalTotals.__struct_fields__
    async with engine.begin() as connection:
        await connection.execute(
            insert(signal_totals),
            [
                {"experiment_id": experiment.id} | {name: getattr(one, name) for name in names}
                for one in stored
            ],
        )


async def test_before_the_first_signal_the_signals_that_are_read_stand_at_zero(client, experiment):
    body = (await client.get(PATH)).json()
    assert (body["key"], body["assignments"], body["seen"], body["warnings"]) == ("summary", 0, 0, [])
    assert [(one["signal"], one["seen"], one["last_at"], one["share"]) for one in body["signals"]] == [
        ("score", 0, None, None),
        ("thumbs_up", 0, None, None),
        ("thumbs_down", 0, None, None),
    ]
    assert body["others"] is None


async def test_each_signal_says_what_became_of_it_and_what_it_was_likely_meant_to_be(
    client, engine, experiment
):
    await record(engine, experiment, (30, 10), (20, 10))
    await store(
        engine,
        experiment,
        totals("thumbs_up", 20, waiting=1, unknown_unit=3, late=2, early=1),
        totals("thumb_up", 7, unknown_unit=2),
        totals("", 5),
    )
    body = (await client.get(PATH)).json()
    by_name = {one["signal"]: one for one in body["signals"]}
    up, misspelled = by_name["thumbs_up"], by_name["thumb_up"]
    assert (up["seen"], up["counted"], up["unknown"], up["read"]) == (27, 20, 0, True)
    assert (up["waiting"], up["late"], up["early"], up["unknown_unit"]) == (1, 2, 1, 3)
    assert up["share"] == pytest.approx(20 / 50)
    assert datetime.fromisoformat(up["last_at"]) == AT
    assert (misspelled["seen"], misspelled["counted"], misspelled["unknown"]) == (9, 0, 9)
    assert (misspelled["read"], misspelled["nearest"]) == (False, "thumbs_up")
    assert (body["seen"], body["counted"], body["unknown_signals"], body["unknown_units"]) == (41, 20, 14, 3)
    assert body["others"]["seen"] == 5


async def test_the_status_warns_of_feedback_that_is_lost(client, engine, experiment):
    lost = (totals("thumb_up", 7), totals("score", 4, unknown_unit=3, out_of_range=1, highest=11.0))
    await store(engine, experiment, *lost)
    warnings = (await client.get("/experiments/summary/status")).json()["warnings"]
    assert warnings == (await client.get(PATH)).json()["warnings"]
    assert warnings == [
        "3 signals name a unit that had no assignment in this experiment at the time; they are not counted",
        (
            "7 signals 'thumb_up' are not counted: neither the reward nor a metric reads them;"
            " did you mean 'thumbs_up'?"
        ),
        "1 values of 'score' are outside of its declared range, 1 to 10; values go from 1 to 11",
    ]


async def test_signals_need_the_scope_read_and_a_known_experiment(client, experiment):
    assert (await client.get(PATH, headers=bearer(KEYS[Scope.FEEDBACK]))).status_code == 403
    assert (await client.get("/experiments/nothing/signals")).status_code == 404


def test_signals_that_wald_makes_itself_may_be_unread():
    own = ("error", "latency_ms", "cost_usd", "finish_reason.stop", "judge.helpful", "review")
    assert warnings_of(DEFINITION, [totals(name, 8) for name in own]) == []
    (warning,) = warnings_of(DEFINITION, [totals("latency", 8)])
    assert "8 signals 'latency' are not counted" in warning


def test_late_and_early_and_waiting_feedback_is_warned_of_where_it_is_much():
    assert warnings_of(DEFINITION, [totals("thumbs_up", 100, late=5, waiting=90)]) == []
    late, early = warnings_of(DEFINITION, [totals("thumbs_up", 10, late=5, early=1)])
    assert "5 of 16 signals 'thumbs_up' came after the horizon" in late
    assert "check the clock of the sender" in early
    (waiting,) = warnings_of(DEFINITION, [totals("thumbs_up", 10, waiting=100)])
    assert "100 signals are about assignments without a recorded exposure" in waiting


counts = st.integers(0, 1_000)


@given(
    st.lists(
        st.builds(
            totals,
            st.sampled_from(["", "score", "thumbs_up", "thumb_up", "x", "y"]),
            counts,
            **dict.fromkeys(("waiting", "unknown_unit", "late", "early", "out_of_range"), counts),
        ),
        unique_by=lambda one: one.signal,
    ),
    st.integers(0, 10_000),
)
def test_every_signal_is_in_exactly_one_count(stored, assignments):
    report = report_of(DEFINITION, assignments, stored)
    parts = ("counted", "waiting", "late", "early", "unknown_unit", "unknown")
    assert all(one.seen == sum(getattr(one, part) for part in parts) for one in report.signals)
    assert report.seen == sum(one.seen for one in stored)
    assert report.seen == report.unknown_signals + sum(one.seen for one in report.signals if one.read)
    assert len(report.warnings) <= WARNINGS_MAX


def test_the_route_is_one_of_those_of_the_room():
    assert any("/experiments/{key:str}/signals" in route.paths for route in ROUTES)
