"""What metrics make of units: by hand, and in the ledger against a model in plain Python."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from fractions import Fraction
from random import Random
from typing import Any

import msgspec
import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.core.postgres import psycopg_dsn
from app.experiments.metrics import Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.model import Definition, Variant
from app.experiments.plan import AnalysisPlan, Segments
from app.experiments.policies import FixedPolicy
from app.experiments.reward import Reward
from app.feedback.model import Source
from app.ledger.rebuild import Difference, rebuild_totals
from app.ledger.rewards.composite import NANO
from app.ledger.store import LedgerStore
from app.ledger.units.measures import CellTotals, Measures, MinuteKey, cells, first_sums, measures_of, nanos
from app.ledger.units.model import HEAD, MISSING, Units, fitting, totals_by_minute
from app.ledger.units.series import SeriesKey, series
from stats.quantiles import bucket_numbers
from tests.ledger.support import (
    SALT,
    T0_MS,
    Assigned,
    Model,
    Said,
    assignment_order,
    execute,
    exposures,
    numbered,
    rows,
    shuffled,
    signals,
    units,
)
from tests.ledger.test_ledger import deliver, forget_everything

pytestmark = pytest.mark.anyio

REWARD = Reward(signals={"up": 1.0, "down": 0.0}, combine="last", horizon_s=0.05, silence=None)
METRICS = (
    Metric(key="liked", measure=Proportion("up", silence=0)),
    Metric(key="latency", measure=Mean("latency", (None, 2.0)), role="primary"),
    Metric(key="spent", measure=Mean("latency", per_unit="sum", silence=0.125)),
    Metric(key="per-down", measure=Ratio("latency", "down")),
    Metric(key="per-request", measure=Ratio("latency", "assignments")),
    Metric(key="p95", measure=QuantileOf("latency")),
)
PLAN = AnalysisPlan(segments=Segments("number", ("1", "2")), covariates=("number", "age"))
STICKY = Definition(
    key="sticky",
    stickiness="unit",
    variants=(Variant("control", control=True), Variant("other")),
    policy=FixedPolicy({"control": 0.5, "other": 0.5}),
    reward=REWARD,
    metrics=METRICS,
    plan=PLAN,
)
DEFINITIONS = {1: STICKY, 2: msgspec.structs.replace(STICKY, key="each-drawn", stickiness="none")}
MEASURES = Measures.of(METRICS, PLAN)
VALUES = [0.0, 0.3, 1.0, 2.7, 1e9]

Told = tuple[Assigned, Any, dict[str, list[Fraction]]]
Cells = dict[tuple[int, int, int, str, bool], CellTotals]


# By hand


def test_units_are_measured_where_something_is_declared_of_them():
    assert measures_of((), AnalysisPlan(alpha=0.01), "none") is None
    assert measures_of((), AnalysisPlan(), "unit") is not None
    assert measures_of((), AnalysisPlan(covariates=("age",)), "none") is not None
    assert measures_of(METRICS, AnalysisPlan(), "none") is not None


def test_the_reward_is_primary_unless_a_metric_is():
    assert MEASURES.metrics[0].role == "secondary"
    assert Measures.of(METRICS[:1], PLAN).metrics[0].role == "primary"


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(-(10**18), 10**18), min_size=15, max_size=15), min_size=1, max_size=4))
@example([[2**62] * 15])
def test_units_come_back_from_their_bytes(numbers):
    """Also where their sums do not fit 64 bits."""
    made = units([one[1:] for one in numbers], covariates=[(one[0], MISSING) for one in numbers], segments=1)
    for stored in (made, made._replace(sums=made.sums.astype(object) * 10**6)):
        heads = np.zeros(len(numbers), HEAD)
        heads["epoch"], heads["minute"] = stored.epochs, stored.minutes
        heads["stratum"], heads["weight"], heads["layout"] = stored.strata, stored.weights, 1
        names, bodies = ["2"] * len(numbers), stored.bodies()
        read, readable = Units.read(heads, names, bodies, MEASURES)
        assert readable.all()
        assert not read.differ(stored).any()
        for unreadable in (
            Units.read(heads, ["3"] * len(numbers), bodies, MEASURES),
            Units.read(heads, names, [body + b"!" for body in bodies], MEASURES),
            Units.read(heads, names, bodies, Measures.of((), PLAN)),
        ):
            assert not unreadable[1].any()


def test_what_a_unit_is_stored_as_does_not_depend_on_how_columns_lie_in_memory() -> None:
    made = units([(0, 1, 2, 3), (0, 1, 2, 3), (4, 5, 6, 7)], covariates=[(1, MISSING), (1, MISSING), (2, 3)])
    other = made._replace(covariates=np.asfortranarray(made.covariates), sums=np.asfortranarray(made.sums))
    bodies = made.bodies()
    assert other.bodies() == bodies
    assert [msgspec.msgpack.decode(body) for body in bodies[1:]] == [
        [1, None, 0, 1, 2, 3],
        [2, 3, 4, 5, 6, 7],
    ]
    assert bodies[0] == bodies[1]


def test_cells_come_back_from_their_bytes_and_take_back_what_was_added():
    none = CellTotals.none(MEASURES)
    metrics = tuple({3: 2, -1: 5} if not one else tuple(range(len(one))) for one in none.metrics)
    some = CellTotals(7, metrics)
    assert CellTotals.from_bytes(some.to_bytes()) == some
    assert some + some - some == some
    assert some - some == none


def test_sums_of_ratios_from_before_they_had_covariates_go_on_without():
    """Also in the readout, where one cell without them leaves the ratio unadjusted."""
    made = units([[0] * 14] * 3, covariates=[(one, NANO) for one in (1, 2, 3)])
    made = made._replace(sums=np.tile([0] * 8 + [6, 2, 4, 8] + [0, 0], (3, 1)))
    (full,) = totals_by_minute(1, made, MEASURES).values()
    place = [metric.key for metric in MEASURES.metrics].index("per-down")
    assert len(full.metrics[place]) > 6
    old = CellTotals(
        3, tuple(first_sums(one, 2) if at == place else one for at, one in enumerate(full.metrics))
    )
    assert old.metrics[place] == (3, 18, 6, 108, 36, 12)
    for moved in (old + full, full + old):
        assert moved.metrics[place] == (6, 36, 12, 216, 72, 24)
        assert moved.metrics[place + 1] == (full + full).metrics[place + 1]
    assert old + full - full == old


@pytest.mark.parametrize(
    ("n", "d", "expected"), [(30, 2, 20), (1, 2, 10), (14, 2, 14), (-30, -2, -20), (5, 0, 0)]
)
def test_a_capped_ratio_brings_the_numerator_to_the_bound(n, d, expected):
    """Of units whose own ratio is beyond 5 or 10; exact in whole nanos, also beyond 64 bits."""
    metric = Metric(key="r", measure=Ratio("a", "b", (5.0, 10.0)))
    measures = Measures.of((metric,), AnalysisPlan())
    for size in (1, NANO, 10**21):
        sums = np.array([[0, 0, n * size, d * size]], object if size > NANO else np.int64)
        made = units([[0] * 4])._replace(sums=sums)
        (totals,) = totals_by_minute(1, made, measures).values()
        assert totals.metrics[1][1:3] == (expected * size, d * size)


@pytest.mark.parametrize("size", [10**3, NANO, 10**13, 10**18, 10**21])
def test_totals_are_exact_whatever_the_size_of_values(size):
    """Beside Python's own whole numbers and fractions; some units are taken away again."""
    rng = np.random.default_rng(20261129)
    n, cap = 60, 2 * NANO
    sums = [[int(one) * size // 10**6 for one in row] for row in rng.integers(-(10**6), 10**6, (n, 14))]
    for row in sums:
        row[1::2] = [int(one) for one in rng.integers(1, 4, 7)]
    known = rng.integers(-NANO, NANO, n).tolist()
    covariates = [(one, MISSING if one % 3 else NANO) for one in known]
    made = units([[0] * 14] * n, covariates=covariates, minutes=rng.integers(5, 7, n))
    made = made._replace(sums=fitting(np.array(sums, object if size > NANO**2 else np.int64)))
    signs = rng.choice([1, 1, -1], n)
    expected: dict[int, CellTotals] = {}
    for row, (one, other), minute, sign in zip(
        sums, covariates, made.minutes.tolist(), signs.tolist(), strict=True
    ):
        pairs = [(Fraction(a), Fraction(b)) for a, b in zip(row[::2], row[1::2], strict=True)]
        means = [half_even(a / b) for a, b in pairs]
        told = [Fraction(one), *map(Fraction, (0, 0, NANO) if other == MISSING else (NANO, 0, 0))]
        outcomes = (min(max(means[0], 0), NANO), NANO * (row[2] != 0), min(means[2], cap), row[6])
        totals = CellTotals(
            1,
            (
                *(moments(x, told) for x in outcomes),
                pair([pairs[4]], told),
                pair([pairs[5]], told),
                {bucket(pairs[6][0] / pairs[6][1]): 1},
            ),
        )
        none = expected.get(minute, CellTotals.none(MEASURES))
        expected[minute] = none + totals if sign == 1 else none - totals
    found = totals_by_minute(1, made, MEASURES, signs)
    assert {key[-1]: totals for key, totals in found.items()} == expected


# In the ledger


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Assigned], list[Said], Random]:
    assigned = [
        Assigned(
            experiment_id=draw(st.integers(1, 2)),
            unit=draw(st.integers(-1, 1)),
            number=number,
            at_ms=draw(st.integers(0, 120)),
            variant=draw(st.sampled_from([0, 0, 1])),
            epoch=draw(st.integers(1, 2)),
        )
        for number in range(draw(st.integers(1, 9)))
    ]
    said = []
    for number in range(draw(st.integers(0, 20))):
        target = draw(st.sampled_from(assigned))
        said.append(
            Said(
                about=draw(st.sampled_from([target, target, target.unit])),
                experiment_id=target.experiment_id,
                signal=draw(st.sampled_from(["up", "down", "latency"])),
                source=draw(st.sampled_from([Source.EXPLICIT, Source.AUTOMATED])),
                value=draw(st.sampled_from(VALUES)),
                at_ms=target.at_ms + draw(st.integers(-10, 120)),
                id=draw(st.sampled_from([None, None, f"id-{number}"])),
            )
        )
    return assigned, said, Random(draw(st.integers(0, 2**32)))


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[LedgerStore, LedgerStore]]:
    """Two sessions, as of two consumers."""
    with psycopg.connect(psycopg_dsn(database_url)) as connection:
        for one in DEFINITIONS.values():
            body = msgspec.json.encode(one).decode()
            connection.execute(
                "INSERT INTO experiments (key, definition, state, salt, reads_silence)"
                " VALUES (%s, %s, %s, %s, %s)",
                (one.key, body, '{"kind": "running"}', SALT, one.reads_silence),
            )
    async with LedgerStore.open(database_url) as first, LedgerStore.open(database_url) as second:
        yield first, second


def delivered(assigned: Sequence[Assigned], said: Sequence[Said], random: Random) -> tuple[list[Any], ...]:
    """Every event once or twice, in any order, cut anyhow, to either of two shards."""
    shards: tuple[list[Any], list[Any]] = [], []
    events: list[Assigned | Said] = [*assigned, *said]
    for one in shuffled(events + [one for one in events if random.random() < 0.4], random):
        made = exposures([one]) if isinstance(one, Assigned) else signals([one])
        random.choice(shards).append(made)
    return tuple(numbered(entries) for entries in shards)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories(), never_exposed=st.sets(st.integers(0, 8), max_size=2))
async def test_cells_do_not_depend_on_order_repeats_batches_or_shards(
    database_url: str,
    stores: tuple[LedgerStore, LedgerStore],
    history: tuple[list[Assigned], list[Said], Random],
    never_exposed: set[int],
) -> None:
    assigned, said, random = history
    exposed = [one for one in assigned if one.number not in never_exposed]
    await forget_everything(stores[0])
    shards = delivered(exposed, said, random)
    await asyncio.gather(
        *(deliver(store, shard, shards[shard], Random(random.random())) for shard, store in enumerate(stores))
    )
    while (await stores[0].sweep())[0]:
        pass
    expected = expected_minutes(exposed, said)
    assert stored_cells(database_url) == cells(expected)
    assert stored_series(database_url) == series(expected, dict.fromkeys(DEFINITIONS, MEASURES))
    assert await rebuild_totals(database_url) == []


async def test_a_unit_is_measured_by_its_first_assignments_whatever_their_order(
    database_url: str, stores: tuple[LedgerStore, LedgerStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ledger.limits.UNIT_ASSIGNMENTS_MAX", 3)
    one_unit = [Assigned(1, 0, number, number, int(number == 4)) for number in range(6)]
    each_drawn = [Assigned(2, 0, number, number, 0) for number in range(6, 12)]
    assigned = [*one_unit, *each_drawn]
    said = [
        Said(one, one.experiment_id, "latency", Source.AUTOMATED, 0.25, one.at_ms + 1) for one in assigned
    ]
    measured = [*one_unit[:3], *each_drawn]
    right = cells(expected_minutes(measured, [one for one in said if one.about in measured]))
    for seed in range(4):
        await forget_everything(stores[0])
        entries = [
            exposures([one]) if isinstance(one, Assigned) else signals([one])
            for one in shuffled([*assigned, *said], Random(seed))
        ]
        await deliver(stores[0], 0, numbered(entries), Random(seed))
        await stores[0].sweep()
        assert stored_cells(database_url) == right, f"seed {seed}"
        assert not any(crossed for *_, crossed in right), (
            "it crossed over with its fifth, which is not measured"
        )
        assert await rebuild_totals(database_url) == []


async def test_a_rebuild_mends_units_and_cells(
    database_url: str, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    assigned = [Assigned(1, unit, unit, 0, unit % 2) for unit in range(6)]
    said = [Said(one, 1, "latency", Source.AUTOMATED, 0.5 * one.unit, 1) for one in assigned]
    await deliver(stores[0], 0, numbered([exposures(assigned), signals(said)]), Random(1))
    await stores[0].sweep()
    right = stored_cells(database_url)
    assert sum(cell.units for cell in right.values()) == 6
    execute(database_url, "UPDATE metric_totals SET body = '' WHERE variant = 1 AND segment = 'other'")
    differences = await rebuild_totals(database_url)
    assert differences == [Difference("metric_totals", 1, 1, 1, "other")]
    assert stored_cells(database_url) == right
    execute(database_url, "UPDATE unit_totals SET crossed = true WHERE unit_hash = 3")
    differences = await rebuild_totals(database_url)
    tables = [difference.table for difference in differences]
    assert tables.count("metric_totals") == 2, "the cells follow the unit, and then the unit its log"
    assert tables[-1] == "assignments"
    assert stored_cells(database_url) == right
    assert await rebuild_totals(database_url) == []
    execute(database_url, "UPDATE unit_totals SET body = '\\x00' WHERE unit_hash = 2")
    assert Difference("assignments", 1) in await rebuild_totals(database_url)
    assert stored_cells(database_url) == right
    assert await rebuild_totals(database_url) == []


def stored_cells(database_url: str) -> Cells:
    """Cells that hold units, or ever did."""
    none = CellTotals.none(MEASURES)
    found = rows(
        database_url, "SELECT experiment_id, epoch, variant, segment, crossed, body FROM metric_totals"
    )
    cells = {row[:5]: CellTotals.from_bytes(row[5]) for row in found if row[5]}
    return {key: cell for key, cell in cells.items() if cell != none}


def stored_series(database_url: str) -> dict[SeriesKey, CellTotals]:
    """That hold units."""
    found = rows(
        database_url, "SELECT experiment_id, minute, span, epoch, variant, crossed, body FROM metric_series"
    )
    totals = {row[:6]: CellTotals.from_bytes(row[6]) for row in found}
    return {key: one for key, one in totals.items() if not one.empty}


def expected_minutes(exposed: Iterable[Assigned], said: Iterable[Said]) -> dict[MinuteKey, CellTotals]:
    """From the definitions of the metrics, unit by unit."""
    units: defaultdict[tuple[int, int, int, int], list[Told]] = defaultdict(list)
    model = Model(dict.fromkeys(DEFINITIONS, REWARD))
    of_assignment = model.given(exposed, said)
    for one, reward in model.rewards(exposed, said, silent_until_ms=150):
        newest: dict[tuple[str, Source], tuple[int, float]] = {}
        for signal in of_assignment[one]:
            if signal.at_ms <= one.at_ms + 50:
                key = signal.signal, signal.source
                newest[key] = max(newest.get(key, (-(10**9), 0.0)), (signal.at_ms, signal.value))
        values: defaultdict[str, list[Fraction]] = defaultdict(list)
        for (name, _), (_, value) in newest.items():
            values[name].append(Fraction(nanos(value)))
        itself = one.number if DEFINITIONS[one.experiment_id].stickiness == "none" else -1
        units[one.experiment_id, one.epoch, one.unit, itself].append((one, reward, values))
    found: dict[MinuteKey, CellTotals] = {}
    for (experiment_id, epoch, *_), told in units.items():
        told.sort(key=lambda row: assignment_order(row[0]))
        first = told[0][0]
        segment = str(first.number) if first.number in {1, 2} else "other"
        crossed = any(one.variant != first.variant for one, _, _ in told)
        own = [row for row in told if row[0].variant == first.variant]
        minute = (T0_MS + first.at_ms) // 60_000
        key = experiment_id, epoch, first.variant, segment, crossed, minute
        found[key] = found.get(key, CellTotals.none(MEASURES)) + one_unit(first.number, own)
    return found


def one_unit(number: int, told: list[Told]) -> CellTotals:
    covariates = [Fraction(number * NANO), Fraction(0), Fraction(0), Fraction(NANO)]  # the second is missing
    ends = [one.at_ms + 50 <= 150 for one, _, _ in told]
    latencies = [values.get("latency", []) for _, _, values in told]
    all_latencies = [value for values in latencies for value in values]
    rewards = [Fraction(reward) for _, reward, _ in told if isinstance(reward, int)]
    liked = [
        max(values["up"]) > 0 if values.get("up") else False
        for (_, _, values), end in zip(told, ends, strict=True)
        if values.get("up") or end
    ]
    spent = [
        sum(values) if values else Fraction(nanos(0.125))
        for values, end in zip(latencies, ends, strict=True)
        if values or end
    ]
    per_down = [
        (sum(above), sum(below))
        for (_, _, values), end in zip(told, ends, strict=True)
        for above, below in [(values.get("latency", []), values.get("down", []))]
        if (above and below) or (end and (above or below))
    ]
    per_request = [(sum(values), NANO) for values, end in zip(latencies, ends, strict=True) if values or end]
    mean = sum(all_latencies) / len(all_latencies) if all_latencies else None
    return CellTotals(
        1,
        (
            moments(half_even(sum(rewards) / len(rewards)) if rewards else None, covariates),
            moments(NANO * any(liked) if liked else None, covariates),
            moments(None if mean is None else min(half_even(mean), 2 * NANO), covariates),
            moments(sum(spent) if spent else None, covariates),
            pair(per_down, covariates),
            pair(per_request, covariates),
            {} if mean is None else {bucket(mean): 1},
        ),
    )


def half_even(value: Fraction) -> int:
    return round(value)


def bucket(mean: Fraction) -> int:
    return int(bucket_numbers(np.array([float(mean) / NANO]), accuracy=0.01)[0])


def moments(x: Any, covariates: list[Fraction]) -> tuple[int, ...]:
    return sums_of(None if x is None else [Fraction(x), *covariates], 1 + len(covariates))


def pair(pairs: list[tuple[Any, Any]], covariates: list[Fraction]) -> tuple[int, ...]:
    n, d = sum(one for one, _ in pairs), sum(one for _, one in pairs)
    return sums_of([Fraction(n), Fraction(d), *covariates] if n or d else None, 2 + len(covariates))


def sums_of(vector: list[Fraction] | None, dimension: int) -> tuple[int, ...]:
    if vector is None:
        return (0,) * (1 + dimension + dimension * (dimension + 1) // 2)
    products = [a * b for row, a in enumerate(vector) for b in vector[: row + 1]]
    return (1, *map(int, vector), *map(int, products))
