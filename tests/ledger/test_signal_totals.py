"""What becomes of signals is counted exactly: by state, whatever the order, and by name within a bound."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.telemetry import LEDGER_EVENTS
from app.experiments.reward import Reward
from app.feedback.limits import CLOCK_TOLERANCE_S
from app.feedback.model import Source
from app.ledger.limits import SIGNAL_NAMES_MAX
from app.ledger.rebuild import Difference, rebuild_totals
from app.ledger.signals.step import admitted
from app.ledger.store import LedgerStore
from tests.ledger.support import (
    TOLERANCE_MS,
    Assigned,
    Said,
    create_experiment,
    execute,
    exposures,
    rows,
    signals,
    stored_states,
    stored_totals,
)
from tests.ledger.test_ledger import deliver, delivered, forget_everything

pytestmark = pytest.mark.anyio

HORIZON_S = 3_600.0
REWARD = Reward(signals={"up": 1.0, "down": 0.0}, horizon_s=HORIZON_S)
HORIZON_MS = round(HORIZON_S * 1_000)
RESULTS = (
    *("exposure", "counted", "waiting", "unknown_signal", "unknown_unit", "late", "early", "repeated"),
    *("conflict", "unknown_experiment"),
)


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[LedgerStore, LedgerStore]]:
    for number in (1, 2):
        assert create_experiment(database_url, f"experiment-{number}", REWARD) == number
    async with LedgerStore.open(database_url) as first, LedgerStore.open(database_url) as second:
        yield first, second


def assigned(unit: int, *, at_ms: int = 0, experiment_id: int = 1) -> Assigned:
    return Assigned(experiment_id=experiment_id, unit=unit, number=unit, at_ms=at_ms, variant=unit % 2)


def said(about: Assigned | int, signal: str = "up", *, at_ms: int = 1, **fields: object) -> Said:
    experiment_id = about.experiment_id if isinstance(about, Assigned) else 1
    one = Said(about, experiment_id, signal, Source.EXPLICIT, 1.0, at_ms)
    return one._replace(**fields)


skews = st.integers(-100_000, 100_000) | st.sampled_from(
    [
        *(-50, 0, -TOLERANCE_MS, -TOLERANCE_MS - 1, -TOLERANCE_MS + 1),
        *(HORIZON_MS, HORIZON_MS + 1, -10 * TOLERANCE_MS),
    ]
)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    told=st.lists(st.tuples(st.integers(0, 5), skews), min_size=1, max_size=15), seed=st.integers(0, 2**32)
)
async def test_events_by_unit_and_by_id_end_in_the_same_totals_under_skew_and_reordering(
    database_url: str,
    stores: tuple[LedgerStore, LedgerStore],
    told: Sequence[tuple[int, int]],
    seed: int,
) -> None:
    """In experiment 1 events name their assignment, in experiment 2 its unit: each has one assignment."""
    random = Random(seed)
    await forget_everything(stores[0])
    by_id = [assigned(unit) for unit in range(6)]
    by_unit = [one._replace(experiment_id=2, number=one.number + 100) for one in by_id]
    events = [
        one
        for unit, skew_ms in told
        for one in (
            said(by_id[unit], at_ms=skew_ms),
            said(unit, at_ms=skew_ms, experiment_id=2),
        )
    ]
    entries = delivered([*by_id, *by_unit], events, random)
    half = len(entries) // 2
    await asyncio.gather(
        deliver(stores[0], 0, entries[:half], Random(random.random())),
        deliver(stores[1], 1, entries[half:], Random(random.random())),
    )
    totals = stored_totals(database_url)
    named = {key[1:]: value for key, value in totals.items() if key[0] == 2}
    assert {key[1:]: value for key, value in totals.items() if key[0] == 1} == named
    in_time = {unit for unit, skew_ms in told if -TOLERANCE_MS <= skew_ms <= HORIZON_MS}
    assert sum(total[1] for total in named.values()) == len(in_time)
    assert await rebuild_totals(database_url) == []


async def test_an_event_50_ms_before_its_assignment_counts_however_it_is_addressed(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    named, addressed = assigned(1, at_ms=1_000), assigned(2, at_ms=1_000)
    events = [said(1, at_ms=950), said(addressed, at_ms=950)]
    await deliver(stores[0], 0, delivered([named, addressed], events, Random(1)), Random(1))
    assert sum(total[1] for total in stored_totals(database_url).values()) == 2
    assert stored_states(database_url) == {(1, "up"): Counter(counted=2)}


async def test_a_returning_unit_keeps_an_event_with_the_assignment_that_came_before_it(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    """The tolerance is for what would belong to nothing: it takes nothing away from an earlier assignment."""
    first = assigned(1)
    second = first._replace(number=9, at_ms=10_000, variant=0)
    await deliver(stores[0], 0, delivered([first, second], [said(1, at_ms=9_950)], Random(1)), Random(1))
    totals = stored_totals(database_url)
    assert (totals[1, 1, first.variant][1], totals[1, 1, second.variant][1]) == (1, 0)


async def test_each_loss_is_counted_under_its_name(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    here, unexposed = assigned(1), assigned(2)
    events = [
        said(here),
        said(here, "thumb_up"),
        said(77),
        said(77, "thumb_up"),
        said(unexposed),
        said(here, at_ms=HORIZON_MS + 1),
        said(here, at_ms=-TOLERANCE_MS - 1),
        said(here, id="a"),
        said(here, id="a"),
        said(here, id="a", value=0.0),
        said(here, at_ms=2, value=7.0),
        said(assigned(3, experiment_id=99)),
    ]
    before = {result: LEDGER_EVENTS.labels(result)._value.get() for result in RESULTS}
    for event in [exposures([here]), *(signals([one]) for one in events)]:
        await deliver(stores[0], 0, [event._replace(id=f"{Random(1).random()}-0")], Random(1))
    moved = {result: LEDGER_EVENTS.labels(result)._value.get() - before[result] for result in RESULTS}
    assert moved == {
        "exposure": 1,
        "counted": 2,
        "waiting": 1,
        "unknown_signal": 2,
        "unknown_unit": 1,
        "late": 1,
        "early": 1,
        "repeated": 2,
        "conflict": 1,
        "unknown_experiment": 1,
    }
    assert stored_states(database_url) == {
        (1, "up"): Counter(counted=2, waiting=1, unknown_unit=1, late=1, early=1),
        (1, "thumb_up"): Counter(counted=1, unknown_unit=1),
    }
    found = rows(
        database_url,
        "SELECT out_of_range, lowest, highest FROM signal_totals WHERE signal = 'up'",
    )
    assert found == [(1, 1.0, 7.0)]
    assert await rebuild_totals(database_url) == []


async def test_a_value_that_is_revised_onto_its_scale_is_not_out_of_range_any_more(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    one = assigned(1)
    count = "SELECT out_of_range FROM signal_totals"
    await deliver(stores[0], 0, delivered([one], [said(one, value=11.0)], Random(3)), Random(1))
    assert rows(database_url, count) == [(1,)]
    await deliver(stores[0], 0, [signals([said(one, value=1.0, at_ms=2)])._replace(id="9-0")], Random(1))
    assert rows(database_url, count) == [(0,)]
    assert await rebuild_totals(database_url) == []


async def test_names_are_bounded_and_those_that_are_read_always_have_a_row(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    one = assigned(1)
    flood = [said(one, f"random-{number}") for number in range(2 * SIGNAL_NAMES_MAX)]
    await deliver(stores[0], 0, [exposures([one])._replace(id="1-0")], Random(1))
    for start in range(0, len(flood), 90):
        await deliver(stores[0], 0, [signals(flood[start : start + 90])._replace(id="2-0")], Random(1))
    await deliver(stores[0], 0, [signals([said(one, "down")])._replace(id="3-0")], Random(1))
    states = stored_states(database_url)
    assert len(states) == SIGNAL_NAMES_MAX + 2
    assert states[1, ""] == Counter(counted=SIGNAL_NAMES_MAX)
    assert states[1, "down"] == Counter(counted=1)
    assert await rebuild_totals(database_url) == []


async def test_a_rebuild_mends_totals_of_signals_and_counts_what_was_logged_before_there_were_any(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    one = assigned(1)
    events = [said(one), said(one, "thumb_up"), said(5, at_ms=3)]
    await deliver(stores[0], 0, delivered([one], events, Random(1)), Random(1))
    right = rows(database_url, "SELECT * FROM signal_totals ORDER BY signal")
    execute(database_url, "UPDATE signal_totals SET counted = 7 WHERE signal = 'up'")
    assert await rebuild_totals(database_url) == [Difference("signal_totals", 1, detail="up")]
    assert rows(database_url, "SELECT * FROM signal_totals ORDER BY signal") == right
    execute(database_url, "DELETE FROM signal_totals")
    assert await rebuild_totals(database_url, [1]) == [
        Difference("signal_totals", 1, detail=name) for name in ("thumb_up", "up")
    ]
    assert rows(database_url, "SELECT * FROM signal_totals ORDER BY signal") == right


async def test_two_workers_that_expose_one_unit_at_the_same_time_count_its_signals_once(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    """The signal came first. Each of the exposures, alone, would take it."""
    for round_number in range(5):
        await forget_everything(stores[0])
        await deliver(stores[0], 0, [signals([said(1, at_ms=5_000)])._replace(id="1-0")], Random(1))
        assert stored_states(database_url) == {(1, "up"): Counter(unknown_unit=1)}
        pair = [assigned(1, at_ms=at_ms)._replace(number=at_ms) for at_ms in (10, 20)]
        await asyncio.gather(
            *(
                deliver(store, shard, [exposures([one])._replace(id="2-0")], Random(round_number))
                for shard, (store, one) in enumerate(zip(stores, pair, strict=True))
            )
        )
        assert stored_states(database_url) == {(1, "up"): Counter(counted=1)}
        assert sum(total[1] for total in stored_totals(database_url).values()) == 1
    assert await rebuild_totals(database_url) == []


@given(first=st.integers(0, 300), n_stored=st.integers(0, SIGNAL_NAMES_MAX), n_missing=st.integers(0, 400))
def test_no_more_names_are_admitted_than_there_is_room_for(first: int, n_stored: int, n_missing: int) -> None:
    """Names that are read are below 10."""
    stored, missing = range(first, first + n_stored), range(n_missing)
    kept = {(1, f"{number}") for number in stored}
    read = {(1, f"{number}") for number in range(10)}

    def uses(experiment_id: int, name: str) -> object:
        return object() if (experiment_id, name) in read else None

    found = admitted(kept, [(1, f"{number}") for number in missing], uses)  # type: ignore[arg-type]
    asked = {(1, f"{number}") for number in missing}
    assert kept | (asked & read) <= found <= kept | asked
    assert len(found - read) <= max(SIGNAL_NAMES_MAX, len(kept - read))


def test_the_tolerance_is_what_the_clocks_of_servers_may_differ_by() -> None:
    assert CLOCK_TOLERANCE_S == 60
