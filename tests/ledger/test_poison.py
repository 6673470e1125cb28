"""Entries that nobody could have meant: they are put aside, and take nothing that is good with them."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.postgres import create_engine
from app.core.stream import StreamAppender
from app.core.telemetry import LEDGER_EVENTS
from app.core.valkey import shard_key
from app.experiments.reward import Reward
from app.feedback.model import Source
from app.ledger.lag import LedgerLag
from app.ledger.log.batch import StreamEntry, UndecodableEntry, apart, stage
from app.ledger.stream import _entry
from tests.ledger.support import (
    Assigned,
    Model,
    Said,
    create_experiment,
    exposures,
    rows,
    signals,
    stored_totals,
)
from tests.ledger.test_consumer import consumer, running
from tests.support.polling import eventually

pytestmark = pytest.mark.anyio

REWARD = Reward(signals={"up": 1.0, "down": 0.0}, horizon_s=3_600)
EVENTS = shard_key(0, "events")
SIGNALS_BY_UNIT = 7
"""Where they stand in an entry of signals."""

odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -0.0, 2**31, 2**63, -1, 0, "", b"", [], {}]),
    st.text(max_size=5),
    st.sampled_from(["a\0b", "x" * 300, "\ud7ff", "=id"]),
    st.binary(max_size=60),
    st.lists(st.integers(-3, 3), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
odd_fields = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"x", b"s", b"1", b"-1", b"0", b"1e3", b"9" * 19, b"1" * 40, b"1" * 5_000, b"\xc2\xb2"]
    ),
)


def some(experiment_id: int = 1, n: int = 3, start: int = 0) -> list[Assigned]:
    return [
        Assigned(experiment_id, number, number, at_ms=0, variant=number % 2)
        for number in range(start, start + n)
    ]


def said_about(assigned: Sequence[Assigned]) -> list[Said]:
    """About the even ones by their ids, about the odd ones by their units."""
    return [
        Said(one if one.unit % 2 == 0 else one.unit, one.experiment_id, "up", Source.EXPLICIT, 1.0, 10)
        for one in assigned
    ]


@st.composite
def mutated(draw: st.DrawFn) -> StreamEntry:
    """An entry of three events with something odd in it, at any depth."""
    made = draw(st.sampled_from([exposures(some()), signals(said_about(some()))]))
    content = msgspec.msgpack.decode(made.body)
    place = content
    for _ in range(draw(st.integers(0, 3))):
        index = draw(st.integers(0, len(place) - 1))
        if not isinstance(place[index], list) or not place[index]:
            break
        place = place[index]
    change = draw(st.sampled_from(["replace", "drop", "add", "cut", "flip", "garbage"]))
    if change == "replace":
        place[draw(st.integers(0, len(place) - 1))] = draw(odd_values)
    elif change == "drop":
        del place[draw(st.integers(0, len(place) - 1))]
    elif change == "add":
        place.insert(draw(st.integers(0, len(place))), draw(odd_values))
    try:
        body = bytearray(msgspec.msgpack.encode(content))
    except OverflowError:  # a number that MessagePack has no form for
        reject()
    if change == "cut":
        body = body[: draw(st.integers(0, len(body)))]
    elif change == "flip":
        body[draw(st.integers(0, len(body) - 1))] ^= draw(st.integers(1, 255))
    elif change == "garbage":
        body = bytearray(draw(st.binary(max_size=100)))
    return made._replace(body=bytes(body), id="5-0")


@settings(max_examples=120, deadline=None)
@given(mutated())
def test_whatever_an_entry_holds_it_is_read_or_refused_and_so_is_each_event(entry: StreamEntry) -> None:
    events, wrong = apart(entry)
    for one in [entry, *(event for _, event in events)]:
        try:
            batch = stage([one])
            batch.assignments(batch.bodies["epoch"].astype("i8"))
            batch.staged_signals(batch.assignments(batch.bodies["epoch"].astype("i8")))
        except UndecodableEntry:
            continue
    assert events or wrong or msgspec.msgpack.decode(entry.body) in ([], [0, b"", [], b"", b"", b"", []])


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from([b"k", b"n", b"b", b"other"]), odd_fields))
def test_whatever_fields_an_entry_has_it_counts_a_bounded_number_of_events(
    fields: dict[bytes, bytes],
) -> None:
    entry = _entry(b"5-0", fields)
    assert 0 <= entry.n <= 1_000_000
    assert (entry.n == 0) == bool(entry.fault)


@pytest.fixture
async def appender(valkey_url: str) -> AsyncIterator[StreamAppender]:
    appender = StreamAppender(valkey_url, deadline_s=5)
    await appender.start()
    yield appender
    await appender.stop()


@pytest.fixture
async def lag(database_url: str, valkey: Redis) -> AsyncIterator[LedgerLag]:
    engine: AsyncEngine = create_engine(database_url)
    yield LedgerLag(engine, valkey, shards=1)
    await engine.dispose()


async def applied(database_url: str, valkey: Redis, lag: LedgerLag) -> None:
    """Run a consumer until nothing waits; what was appended is then what was applied."""
    async with running(consumer(database_url, valkey).run):

        async def nothing_waits() -> bool:
            return await lag.events() == 0

        await eventually(nothing_waits)

        async def counts_agree() -> bool:
            ((stored,),) = rows(database_url, "SELECT applied FROM stream_positions")
            return int(await valkey.get(shard_key(0, "appended")) or 0) == stored

        await eventually(counts_agree)


@pytest.mark.parametrize(
    "fields",
    [
        {"k": "x", "n": "1" * 40, "b": b""},
        {"k": "x", "n": "-5", "b": b""},
        {"k": "x", "n": "three", "b": b""},
        {"k": "x", "n": "0", "b": b""},
        {"k": "s", "n": str(2**63 - 1), "b": b""},
        {"n": "1", "b": b""},
        {"k": "x", "n": "1"},
        {"k": "x", "b": b""},
        {"k": "s", "n": "1", "b": b"\xff\x00 garbage"},
        {"k": b"\xff\xfe", "n": "1", "b": b""},
    ],
    ids=lambda fields: " ".join(f"{name}={value!s:.12}" for name, value in fields.items()),
)
async def test_a_poison_entry_goes_to_the_dead_letters_and_the_shard_moves_on(
    database_url: str, valkey: Redis, appender: StreamAppender, lag: LedgerLag, fields: dict[Any, Any]
) -> None:
    experiment_id = create_experiment(database_url, "experiment", REWARD)
    assigned = some(experiment_id, 4)
    before = LEDGER_EVENTS.labels("dead_letter")._value.get()
    for entry in (exposures(assigned[:2]), None, exposures(assigned[2:])):
        if entry is None:
            await valkey.xadd(EVENTS, fields)
        else:
            await appender.append(0, entry.kind, entry.n, entry.body)
    await applied(database_url, valkey, lag)
    assert len(rows(database_url, "SELECT FROM assignments")) == len(assigned)
    ((error,),) = rows(database_url, "SELECT error FROM dead_letters")
    assert error
    assert LEDGER_EVENTS.labels("dead_letter")._value.get() == before + 1


def spoil_unit(content: Any) -> None:
    content[7][1] = "a unit\0"


def spoil_context(content: Any) -> None:
    content[7][2] = {"text": "a\0b"}


def spoil_propensity(content: Any) -> None:
    content[7][0] = content[7][0][:32] + b"\x7f\xf8" + content[7][0][34:]


def spoil_experiment(content: Any) -> None:
    content[7][0] = content[7][0][:4] + b"\xff" + content[7][0][5:]


def spoil_variant(content: Any) -> None:
    content[7][0] = content[7][0][:3] + b"\xc8" + content[7][0][4:]


def spoil_shape(content: Any) -> None:
    content[7] = ["not", "an", "exposure"]


def spoil_unit_signal(content: Any) -> None:
    content[SIGNALS_BY_UNIT][3][4] = math.nan


def spoil_unit_signal_id(content: Any) -> None:
    content[SIGNALS_BY_UNIT][3][0] = 2**40


def spoil_unit_signal_shape(content: Any) -> None:
    content[SIGNALS_BY_UNIT][3] = [1]


def spoil_value(content: Any) -> None:
    content[4] = content[4][:16] + b"\0\0\0\0\0\0\xf8\x7f" + content[4][24:]


def spoil_time(content: Any) -> None:
    content[5] = content[5][:16] + b"\xff\xff\xff\xff\xff\xff\xff\x7f" + content[5][24:]


def spoil_source(content: Any) -> None:
    content[3] = content[3][:2] + b"\xc8" + content[3][3:]


def spoil_name(content: Any) -> None:
    content[2][2] = "no\0name"


OF_EXPOSURES = {
    spoil_unit,
    spoil_context,
    spoil_propensity,
    spoil_experiment,
    spoil_variant,
    spoil_shape,
}


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_unit,
        spoil_context,
        spoil_propensity,
        spoil_experiment,
        spoil_variant,
        spoil_shape,
        spoil_unit_signal,
        spoil_unit_signal_id,
        spoil_unit_signal_shape,
        spoil_value,
        spoil_time,
        spoil_source,
        spoil_name,
    ],
)
async def test_one_poisonous_event_leaves_the_others_of_its_entry_counted(
    database_url: str,
    valkey: Redis,
    appender: StreamAppender,
    lag: LedgerLag,
    spoil: Callable[[Any], None],
) -> None:
    experiment_id = create_experiment(database_url, "experiment", REWARD)
    assigned = some(experiment_id, 20)
    said = said_about(assigned)
    of_exposures = spoil in OF_EXPOSURES
    entries = [exposures(assigned), signals(said)]
    spoiled = 0 if of_exposures else 1
    content = msgspec.msgpack.decode(entries[spoiled].body)
    spoil(content)
    entries[spoiled] = entries[spoiled]._replace(body=msgspec.msgpack.encode(content))
    for entry in entries:
        await appender.append(0, entry.kind, entry.n, entry.body)
    await applied(database_url, valkey, lag)
    if of_exposures:
        lost = {7}
        expected = Model({experiment_id: REWARD}).totals(
            [one for one in assigned if one.number not in lost],
            [one for one in said if one.about != 7],
            -1,
        )
    else:
        by_unit = [one for one in said if isinstance(one.about, int)]
        by_id = [one for one in said if not isinstance(one.about, int)]
        bad = by_unit[3] if spoil.__name__.startswith("spoil_unit") else by_id[2]
        expected = Model({experiment_id: REWARD}).totals(
            assigned, [one for one in said if one is not bad], -1
        )
    assert stored_totals(database_url) == expected
    ((error,),) = rows(database_url, "SELECT error FROM dead_letters")
    assert error.startswith("1 not applied: event ")


async def test_a_stream_full_of_poison_is_drained_and_every_good_event_counts(
    database_url: str, valkey: Redis, appender: StreamAppender, lag: LedgerLag
) -> None:
    experiment_id = create_experiment(database_url, "experiment", REWARD)
    rng = Random(20261201)
    assigned = some(experiment_id, 60)
    said = said_about(assigned)
    for start in range(0, 60, 3):
        for entry in (exposures(assigned[start : start + 3]), signals(said[start : start + 3])):
            await appender.append(0, entry.kind, entry.n, entry.body)
        odd = bytearray(exposures(some(experiment_id, 3, start=1_000 + start)).body)
        odd = odd[: rng.randrange(len(odd))] if rng.random() < 0.5 else bytearray(rng.randbytes(40))
        kind = rng.choice(["x", "s", "", "unknown"])
        await valkey.xadd(EVENTS, {"k": kind, "n": rng.choice(["3", "1" * 40, "-1", ""]), "b": bytes(odd)})
    await applied(database_url, valkey, lag)
    assert stored_totals(database_url) == Model({experiment_id: REWARD}).totals(assigned, said, -1)
    assert len(rows(database_url, "SELECT FROM dead_letters")) == 20
