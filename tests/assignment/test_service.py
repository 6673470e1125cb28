"""One assignment: who gets what, why, what of it is recorded, and that its id says so."""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import msgspec
import pytest
from scipy.stats import binom, chi2, chi2_contingency

from app.assignment import bucketing
from app.assignment.assignment_id import AssignmentId, Flag
from app.assignment.decide import Decision, Reason, decide
from app.assignment.service import Assignment
from app.assignment.snapshot import PreparedExperiment
from app.core.engines import ValkeyServer
from app.core.engines.folder import DataFolder
from app.core.errors import NotFound, Unavailable
from app.core.settings import Durability
from app.core.valkey import create_client
from app.experiments.model import Archived, Condition, Draft, LayerRange, Paused, Stopped
from tests.assignment.conftest import Server, recorded, running_server
from tests.support.polling import eventually
from tests.support.registry import ACCESS, START, experiment, publish

pytestmark = pytest.mark.anyio

GOLD = (Condition("tier", "in", ("gold",)),)


async def assign(server: Server, unit: str = "unit", context: dict | None = None) -> Assignment:
    return await server.assigner.assign(await server.assigner.experiment("exp"), unit, context)


def content(server: Server, assignment: Assignment) -> AssignmentId:
    return server.keeper.snapshot.signer.verify(assignment.id)


@pytest.mark.parametrize(
    ("changes", "context", "variant", "propensity", "reason"),
    [
        ({"shares": [0.0, 1.0]}, {}, 1, 1.0, "SPLIT"),
        ({"shares": [0.0, 1.0], "targeting": GOLD}, {"tier": "gold"}, 1, 1.0, "TARGETING_MATCH"),
        ({"shares": [0.0, 1.0], "targeting": GOLD}, {"tier": "tin"}, 0, 1.0, "NOT_TARGETED"),
        ({"shares": [0.0, 1.0], "targeting": GOLD}, {}, 0, 1.0, "NOT_TARGETED"),
        ({"shares": [1.0, 0.0], "overrides": {"unit": "v1"}}, {}, 1, 1.0, "FORCED"),
        ({"shares": [0.0, 1.0], "state": Draft()}, {}, 0, 1.0, "DISABLED"),
        ({"shares": [0.0, 1.0], "state": Paused(START, START)}, {}, 0, 1.0, "DISABLED"),
        ({"shares": [0.0, 1.0], "state": Stopped(START, START)}, {}, 0, 1.0, "DISABLED"),
        ({"shares": [1.0, 0.0], "state": Stopped(START, START, "v1")}, {}, 1, 1.0, "DISABLED"),
        (
            {"shares": [1.0, 0.0], "state": Paused(START, START), "overrides": {"unit": "v1"}},
            {},
            0,
            1.0,
            "DISABLED",
        ),
    ],
)
def test_decisions(changes: dict, context: dict, variant: int, propensity: float, reason: Reason):
    prepared = PreparedExperiment(experiment(**changes))
    assert decide(prepared, "unit", 12345, context, 2**31) == Decision(variant, propensity, reason)


def test_the_propensity_is_the_exact_share_of_the_variant_drawn():
    prepared = PreparedExperiment(experiment(shares=[0.1, 0.2, 0.7]))
    for number in (0, 2**30, 2**31, 2**32 - 1):
        decision = decide(prepared, "unit", 0, {}, number)
        assert decision.propensity * 2**32 == prepared.published.weights[decision.variant]


def test_a_sticky_unit_gets_the_same_variant_for_any_random_bits():
    prepared = PreparedExperiment(experiment(stickiness="unit"))
    for unit in range(100):
        number = bucketing.unit_hash(b"salt", str(unit))
        assert (
            len({decide(prepared, str(unit), number, {}, chance).variant for chance in (0, 2**32 - 1)}) == 1
        )


async def test_the_id_says_everything_and_the_exposure_is_on_the_stream(valkey_url: str):
    published = experiment(id=77, shares=[0.25, 0.75], policy_version=9)
    await publish(valkey_url, published)
    async with running_server(valkey_url) as server:
        before_ms = server.assigner.clock.now_ms()
        assignment = await assign(server, "unit", {"tier": "gold"})
        token = content(server, assignment)
    assert (token.experiment_id, token.epoch, token.policy_version, token.flags) == (77, 1, 9, 0)
    assert token.propensity == (0.25, 0.75)[token.variant]
    assert token.unit_hash == bucketing.unit_hash(published.salt, "unit")
    assert before_ms <= token.assigned_at_ms <= before_ms + 10_000
    assert (token.id.version, token.id.variant) == (7, "specified in RFC 4122")
    view = assignment.view()
    assert (view.experiment, view.variant, view.policy_version) == ("exp", f"v{token.variant}", 9)
    [exposure] = await recorded(valkey_url)
    assert AssignmentId.from_body(exposure.body) == token
    assert (exposure.unit, exposure.context) == ("unit", {"tier": "gold"})


async def test_propensities_logged_equal_the_frequencies_served(valkey_url: str):
    await publish(valkey_url, experiment(shares=[0.6, 0.3, 0.1]))
    n = 5_000
    async with running_server(valkey_url, seed=20261123) as server:
        tokens = [
            content(server, one)
            for one in await asyncio.gather(*(assign(server, f"unit-{number}") for number in range(n)))
        ]
    counts = Counter((token.variant, token.propensity) for token in tokens)
    assert len(counts) == 3
    statistic = sum((seen - n * share) ** 2 / (n * share) for (_, share), seen in counts.items())
    assert statistic < chi2.isf(1e-6, 2)
    assert len({token.id for token in tokens}) == n
    assert len(await recorded(valkey_url)) == n


@pytest.mark.parametrize(
    "changes",
    [
        {"state": Paused(START, START)},
        {"targeting": GOLD},
        {"overrides": {"unit": "v1"}},
    ],
)
async def test_assignments_without_a_draw_are_not_recorded(valkey_url: str, changes: dict):
    await publish(valkey_url, experiment(**changes))
    async with running_server(valkey_url) as server:
        assert content(server, await assign(server)).flags == Flag.UNRECORDED
    assert await recorded(valkey_url) == []


async def test_unknown_and_archived_experiments_are_not_found(valkey_url: str):
    await publish(valkey_url, experiment(state=Archived(START)))
    async with running_server(valkey_url) as server:
        for key in ("exp", "unknown"):
            with pytest.raises(NotFound, match=key):
                await server.assigner.experiment(key)


async def test_an_experiment_is_assigned_as_soon_as_it_is_published(valkey_url: str):
    await publish(valkey_url)
    async with running_server(valkey_url) as server:
        await publish(valkey_url, experiment(state=Draft()))
        assert (await assign(server)).decision.reason == "DISABLED"
        await publish(valkey_url, experiment(revision=2))
        assert (await assign(server)).decision.reason == "SPLIT"


async def test_without_a_signing_key_nothing_is_assigned(valkey_url: str):
    await publish(valkey_url, experiment(), access=None)
    async with running_server(valkey_url) as server:
        with pytest.raises(Unavailable, match="sign"):
            await assign(server)


async def test_all_running_experiments_are_assigned_when_none_is_named(valkey_url: str):
    await publish(
        valkey_url,
        experiment("one", id=1),
        experiment("two", id=2),
        experiment("draft", id=3, state=Draft()),
        access=ACCESS,
    )
    async with running_server(valkey_url) as server:
        found = await server.assigner.assign_all(None, "unit", None)
        assert [one.view().experiment for one in found] == ["one", "two"]
        found = await server.assigner.assign_all(["two", "draft", "two"], "unit", None)
        assert [one.view().experiment for one in found] == ["two", "draft", "two"]


async def test_a_thousand_first_assignments_of_a_unit_are_one(valkey_url: str):
    """Over two servers with different chance: one variant, one assignment id, one row in the log."""
    await publish(valkey_url, experiment(stickiness="strict", shares=[1.0] * 10))
    async with running_server(valkey_url, seed=1) as one, running_server(valkey_url, seed=2) as two:
        found = await asyncio.gather(*(assign(server) for _ in range(500) for server in (one, two)))
        assert len({assignment.id for assignment in found}) == 1
        assert Counter(assignment.decision.reason for assignment in found) == {
            "SPLIT": 1,
            "STICKY": 999,
        }
        assert len({exposure.body for exposure in await recorded(valkey_url)}) == 1


async def test_strict_stickiness_outlives_a_change_of_weights_and_ends_with_the_horizon(valkey_url: str):
    await publish(valkey_url, experiment(stickiness="strict", shares=[1.0, 0.0]))
    async with running_server(valkey_url) as server, create_client(valkey_url) as valkey:
        first = await assign(server)
        await publish(
            valkey_url, experiment(stickiness="strict", shares=[0.0, 1.0], policy_version=2, revision=2)
        )
        await eventually(lambda: server.keeper.snapshot.by_key["exp"].published.policy_version == 2)
        again = await assign(server)
        assert (again.id, again.decision.variant, again.decision.reason) == (first.id, 0, "STICKY")
        assert again.view().policy_version == 1
        assert (await assign(server, "another unit")).decision.variant == 1
        keys = await valkey.keys("wald:*:sticky")
        assert len(keys) == 2
        assert all([3_590 <= await valkey.ttl(key) <= 3_600 for key in keys])  # the horizon


async def test_without_valkey_answers_are_unrecorded_and_sticky_units_stay_by_hash():
    with tempfile.TemporaryDirectory(prefix="wald-service-") as path:
        folder = DataFolder(Path(path) / "data")
        assert folder.try_lock()
        valkey = ValkeyServer(folder)
        await valkey.start()
        await publish(valkey.url, experiment("none", id=1), experiment("strict", id=2, stickiness="strict"))
        async with running_server(valkey.url) as server:
            await valkey.stop()
            await eventually(lambda: not server.appender.connected)
            for key in ("none", "strict"):
                prepared = await server.assigner.experiment(key)
                found = [await server.assigner.assign(prepared, "unit", None) for _ in range(20)]
                assert all(content(server, one).flags == Flag.UNRECORDED for one in found)
            assert len({one.decision.variant for one in found}) == 1
            assert server.assigner.counter.counts[
                ("strict", f"v{found[0].decision.variant}", "SPLIT", "false")
            ]
        folder.unlock()


async def test_accepted_durability_does_not_wait_but_is_drained(valkey_url: str):
    await publish(valkey_url, experiment())
    async with running_server(valkey_url, durability=Durability.ACCEPTED) as server:
        prepared = await server.assigner.experiment("exp")
        coroutine = server.assigner.assign(prepared, "unit", None)
        with pytest.raises(StopIteration) as finished:
            coroutine.send(None)  # it ends without having waited for anything
        assert content(server, finished.value.value).flags == 0
    assert len(await recorded(valkey_url)) == 1


async def test_the_prepared_answer_equals_the_encoded_one(valkey_url: str):
    await publish(valkey_url, experiment(overrides={"forced": "v1"}))
    async with running_server(valkey_url) as server:
        random = Random(3)
        for number in range(30):
            assignment = await assign(server, random.choice(["forced", f"unit-{number}"]))
            assert assignment.json() == msgspec.json.encode(assignment.view())


LOWER, UPPER = LayerRange("answers", 0.0, 0.3), LayerRange("answers", 0.3, 1.0)
UNITS = 20_000


def takes_part(prepared: PreparedExperiment, unit: str) -> bool:
    number = bucketing.unit_hash(prepared.published.salt, unit)
    return decide(prepared, unit, number, {}, 0).reason == "SPLIT"


def test_experiments_of_a_layer_share_no_unit_and_together_have_all():
    """Their parts are what they hold: a right split fails this with probability below 1e-9."""
    lower, upper = [
        PreparedExperiment(experiment(str(one.start), id=n, layer=one, stickiness="unit"))
        for n, one in enumerate((LOWER, UPPER), 1)
    ]
    taken = [(takes_part(lower, str(n)), takes_part(upper, str(n))) for n in range(UNITS)]
    assert all(one != other for one, other in taken)
    in_lower = sum(one for one, _ in taken)
    assert binom.ppf(5e-10, UNITS, 0.3) <= in_lower <= binom.isf(5e-10, UNITS, 0.3)


def test_a_rollback_in_one_experiment_of_a_layer_moves_no_unit_of_the_other():
    before = PreparedExperiment(experiment("a", layer=LOWER, stickiness="unit", shares=[0.5, 0.5]))
    after = PreparedExperiment(experiment("a", layer=LOWER, stickiness="unit", shares=[1.0, 0.0]))
    other = PreparedExperiment(experiment("b", id=2, layer=UPPER, stickiness="unit"))
    for n in range(2_000):
        assert takes_part(before, str(n)) == takes_part(after, str(n)) != takes_part(other, str(n))


def test_within_its_range_a_variant_does_not_depend_on_the_layer():
    """The draw inside is independent of the point: each half of the range is split alike."""
    one = PreparedExperiment(experiment(layer=LOWER, stickiness="unit", shares=[0.5, 0.5]))
    seed, halves = bucketing.layer_seed("answers"), [[0, 0], [0, 0]]
    for n in range(UNITS):
        unit = str(n)
        decision = decide(one, unit, bucketing.unit_hash(one.published.salt, unit), {}, 0)
        if decision.reason == "SPLIT":
            halves[bucketing.layer_point(seed, unit) >= 0.15 * bucketing.WHOLE][decision.variant] += 1
    assert chi2_contingency(halves).pvalue > 1e-6


def test_units_outside_the_range_get_the_control_or_their_override():
    empty = LayerRange("answers", 0.9999, 1.0)
    prepared = PreparedExperiment(
        experiment(layer=empty, targeting=GOLD, overrides={"boss": "v1"}, shares=[0.0, 1.0])
    )
    assert decide(prepared, "unit", 1, {"tier": "gold"}, 0) == Decision(0, 1.0, "NOT_TARGETED")
    assert decide(prepared, "boss", 1, {}, 0) == Decision(1, 1.0, "FORCED")
    whole = PreparedExperiment(experiment(layer=LayerRange("answers"), targeting=GOLD, shares=[0.0, 1.0]))
    assert decide(whole, "unit", 1, {"tier": "gold"}, 0) == Decision(1, 1.0, "TARGETING_MATCH")
    assert decide(whole, "unit", 1, {}, 0) == Decision(0, 1.0, "NOT_TARGETED")
