"""What `/feedback` says about accepted events that do not count, or not as they were likely meant."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.assignment import assignment_id
from app.assignment.assignment_id import Flag, Signer
from app.assignment.snapshot import PreparedExperiment, Snapshot
from app.core.clock import SystemClock
from app.core.telemetry import FEEDBACK
from app.experiments.metrics import Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.model import Archived, Definition, Draft, Stopped, Variant
from app.experiments.reward import Reward
from app.experiments.signals import nearest, signals_of
from app.feedback.decode import MediaType
from app.feedback.limits import CLOCK_TOLERANCE_S, WARNINGS_MAX
from app.feedback.model import Receipt
from app.feedback.service import RESULTS, FeedbackService
from tests.support.registry import START, experiment

SIGNER = Signer([(1, b"the signing key.")])
HORIZON_S = 600.0
METRICS = (
    Metric(key="quality", measure=Mean("score", range=(1.0, 10.0))),
    Metric(key="capped", measure=Mean("grade", cap=(0.0, 5.0))),
    Metric(key="slow", measure=QuantileOf("latency_ms")),
    Metric(key="solved", measure=Proportion("solved")),
    Metric(key="rate", measure=Ratio("clicks", "seen")),
    Metric(key="cost", measure=Ratio("tokens", "assignments")),
    Metric(key="purchases", measure=Mean("purchase", per_unit="sum")),
)
SNAPSHOT = Snapshot().changed(
    [
        PreparedExperiment(experiment("exp", id=1, reward=Reward(horizon_s=HORIZON_S), metrics=METRICS)),
        PreparedExperiment(
            experiment("sums", id=2, reward=Reward(signals={"judge": 1.0}, combine="sum", range=(1.0, 10.0)))
        ),
        PreparedExperiment(experiment("draft", id=3, state=Draft())),
        PreparedExperiment(experiment("over", id=4, state=Stopped(START, START))),
        PreparedExperiment(experiment("old", id=5, state=Archived(START))),
        PreparedExperiment(
            msgspec.structs.replace(experiment("before", id=6, metrics=METRICS), metric_signals=None)
        ),
    ],
    None,
    SIGNER,
)


class Sink:
    """Takes what is appended, as Valkey would."""

    def append(self, _: Any) -> asyncio.Future[None] | None:
        return None


def give(*events: dict[str, Any]) -> Receipt:
    service = FeedbackService(SimpleNamespace(snapshot=SNAPSHOT), Sink(), SystemClock())  # type: ignore[arg-type]
    receipt, _ = service.take(msgspec.json.encode(list(events)), MediaType.JSON, by_unit=True)
    return receipt


def token(*, experiment_id: int = 1, age_s: float = 0.0, number: int = 0, flags: int = 0) -> str:
    return SIGNER.sign(
        assignment_id.body(
            key_id=1,
            flags=flags,
            variant=0,
            experiment_id=experiment_id,
            epoch=1,
            policy_version=1,
            id=assignment_id.uuid7(SystemClock().now_ms() - round(age_s * 1_000), number),
            propensity=0.5,
            unit_hash=number,
        )
    )


def event(signal: str = "thumbs_up", **fields: Any) -> dict[str, Any]:
    return {"assignment_id": token(), "signal": signal} | fields


def at(seconds_from_now: float) -> float:
    return SystemClock().now_us() / 1e6 + seconds_from_now


LOST = {
    "misspelled signal": (lambda: event("thumb_up"), "unknown_signal", "unknown_signal", "signal"),
    "after the horizon": (lambda: event(assignment_id=token(age_s=601)), "late", "late", "at"),
    "said to be after the horizon": (
        lambda: event(assignment_id=token(age_s=900), at=at(-200)),
        "late",
        "late",
        "at",
    ),
    "before its assignment": (lambda: event(at=at(-CLOCK_TOLERANCE_S - 5)), "early", "early", "at"),
    "of an unrecorded assignment": (
        lambda: event(assignment_id=token(flags=Flag.UNRECORDED)),
        "waiting",
        "unrecorded",
        "assignment_id",
    ),
    "of a draft": (
        lambda: {"experiment": "draft", "unit": "u", "signal": "thumbs_up"},
        "waiting",
        "not_started",
        "experiment",
    ),
    "a judge's 11 on a scale of 1 to 10": (
        lambda: event("score", value=11),
        "counted",
        "out_of_range",
        "value",
    ),
    "below a scale": (lambda: event("score", value=0), "counted", "out_of_range", "value"),
    "beyond a cap with two bounds": (lambda: event("grade", value=5.5), "counted", "out_of_range", "value"),
    "an 11 in a sum of 1 to 10": (
        lambda: event("judge", assignment_id=token(experiment_id=2), value=11),
        "counted",
        "out_of_range",
        "value",
    ),
    "a grade for a yes or no": (lambda: event("solved", value=7), "counted", "out_of_range", "value"),
    "a score without a value": (lambda: event("score"), "counted", "value_missing", "value"),
    "a latency without a value": (lambda: event("latency_ms"), "counted", "value_missing", "value"),
}


@pytest.mark.parametrize("case", LOST)
def test_an_accepted_event_that_does_not_count_as_meant_is_told_so(case: str) -> None:
    make, counted_as, kind, field = LOST[case]
    receipt = give(event(), make(), event())
    (warning,) = receipt.warnings
    assert (warning.index, warning.kind, warning.field) == (1, kind, field)
    assert receipt.warned == 1
    counts = {result: getattr(receipt, result) for result in RESULTS}
    expected = dict.fromkeys(RESULTS, 0) | {"counted": 2}
    expected[counted_as] += 1
    assert counts == expected
    assert receipt.accepted == 3


RIGHT = {
    "thumb": event,
    "thumb just before its assignment": lambda: event(at=at(-0.05)),
    "thumb within the tolerance": lambda: event(at=at(-CLOCK_TOLERANCE_S + 5)),
    "score on its scale": lambda: event("score", value=10),
    "latency": lambda: event("latency_ms", value=830),
    "solved without a value": lambda: event("solved"),
    "clicks of a ratio": lambda: event("clicks"),
    "purchase of a sum": lambda: event("purchase"),
    "penalty in a sum": lambda: event("judge", assignment_id=token(experiment_id=2), value=-3),
    "of a stopped experiment": lambda: event(assignment_id=token(experiment_id=4)),
    "of an archived experiment": lambda: event(assignment_id=token(experiment_id=5)),
    "of an experiment that an older version published": lambda: event(
        "anything", assignment_id=token(experiment_id=6)
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_an_event_that_counts_as_meant_has_no_warning(case: str) -> None:
    assert give(RIGHT[case]()) == Receipt(1, counted=1)


def test_an_event_by_unit_waits_for_the_ledger_to_find_its_assignment() -> None:
    by_unit = {"experiment": "exp", "unit": "nobody", "signal": "thumbs_up"}
    assert give(by_unit, event()) == Receipt(2, counted=1, waiting=1)
    receipt = give(by_unit | {"signal": "thumb_up"})
    assert (receipt.unknown_signal, receipt.waiting) == (1, 0)


def test_a_misspelled_signal_is_told_the_one_that_was_meant() -> None:
    (warning,) = give(event("thumb_up")).warnings
    assert warning.nearest == "thumbs_up"
    assert warning.reason == (
        "neither the reward nor a metric of exp reads 'thumb_up'; did you mean 'thumbs_up'?"
    )
    (other,) = give(event("wholly-different")).warnings
    assert other.nearest is None
    assert other.reason == "neither the reward nor a metric of exp reads 'wholly-different'"


def test_what_was_refused_is_not_warned_about_as_well() -> None:
    receipt = give(event("thumb_up", value=1e300), event("thumb up"), event("thumb_up"))
    assert [rejection.index for rejection in receipt.rejected] == [0, 1]
    assert [warning.index for warning in receipt.warnings] == [2]
    assert (receipt.accepted, receipt.warned, receipt.unknown_signal) == (1, 1, 1)


def test_warnings_are_bounded_and_counts_are_not() -> None:
    receipt = give(*(event(f"unknown-{number}") for number in range(100)))
    assert len(receipt.warnings) == WARNINGS_MAX
    assert (receipt.accepted, receipt.warned, receipt.unknown_signal) == (100, 100, 100)


def test_the_metric_tells_apart_what_counts_and_what_does_not() -> None:
    before = {result: FEEDBACK.labels(result)._value.get() for result in RESULTS}
    by_unit = {"experiment": "exp", "unit": "u", "signal": "thumbs_up"}
    late, early = event(assignment_id=token(age_s=601)), event(at=at(-120))
    give(event(), event(), event("thumb_up"), by_unit, late, early)
    moved = {result: FEEDBACK.labels(result)._value.get() - before[result] for result in RESULTS}
    assert moved == {"counted": 2, "unknown_signal": 1, "waiting": 1, "late": 1, "early": 1}


def test_a_misspelled_source_is_told_the_valid_ones() -> None:
    (rejection,) = give(event(source="humn")).rejected
    assert rejection.error.field == "source"
    assert "implicit, explicit, automated, human" in rejection.error.reason


@given(
    st.lists(
        st.sampled_from(
            [*(make for make, *_ in LOST.values()), *RIGHT.values(), lambda: event(value=7), dict]
        ),
        max_size=30,
    )
)
def test_every_event_is_counted_exactly_once(makers: list[Any]) -> None:
    receipt = give(event(), *(make() for make in makers))
    assert receipt.accepted == sum(getattr(receipt, result) for result in RESULTS)
    assert receipt.accepted + len(receipt.rejected) == len(makers) + 1
    assert receipt.warned == len({warning.index for warning in receipt.warnings}) or receipt.warned > 20


def test_the_signals_of_a_definition_are_those_of_its_reward_and_its_metrics() -> None:
    uses = signals_of(Reward(), METRICS)
    assert set(uses) == {
        *("thumbs_up", "thumbs_down", "score", "grade", "latency_ms", "solved", "clicks", "seen", "tokens"),
        "purchase",
    }
    both = signals_of(Reward(signals={"score": 5.0}, range=(0.0, 8.0)), METRICS)["score"]
    assert (both.low, both.high, both.needs_value) == (1.0, 8.0, False)


@pytest.mark.parametrize("measure", [Mean, QuantileOf])
@pytest.mark.parametrize("scale", [(10.0, 1.0), (1.0, 1.0), (float("nan"), 1.0)])
def test_a_range_has_its_lower_bound_below_the_upper_one(measure: Any, scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="lower bound below the upper one"):
        measure("score", range=scale)


@given(name=st.text(max_size=200), known=st.lists(st.text(max_size=128), max_size=20))
def test_a_suggestion_is_a_known_name_or_nothing(name: str, known: list[str]) -> None:
    assert nearest(name, known) in {None, *known}


def test_a_definition_with_a_range_reads_back_as_it_was() -> None:
    variants = (Variant("a", control=True), Variant("b"))
    definition = Definition(key="exp", variants=variants, metrics=METRICS)
    assert msgspec.json.decode(msgspec.json.encode(definition), type=Definition) == definition
