"""The power calculator: units, power, effects and weeks; by query and by body; what it refuses."""

import numpy as np
import pytest

from app.access.model import Scope
from app.analysis.planning import PowerQuestion, answer
from app.analysis.planning_routes import ROUTES
from stats import mixture
from tests.support.api import KEYS, api, bearer, keyring_of_scopes


def ask(**given):
    return answer(PowerQuestion(**{"baseline": 0.1, "effect": 0.01, **given}))


def test_known_sizes():
    assert ask().per_variant == (14_751, 14_751)  # Fleiss, Levin & Paik (2003), eq. 4.14
    assert ask(kind="mean", baseline=None, sd=1.0, effect=0.01).per_variant[0] == 156_978
    assert ask(relative=True, effect=0.1).units == ask().units


@pytest.mark.parametrize(
    ("given", "inflation"),
    [
        ({"design": "group_sequential", "looks": 5}, 1.0247),  # rpact 4.1: asOF, kMax = 5
        ({"design": "group_sequential", "looks": 10}, 1.0376),  # rpact 4.1: asOF, kMax = 10
        ({"design": "group_sequential", "looks": 1}, 1.0),
        ({"design": "yeast"}, 1.057),
    ],
)
def test_what_looking_costs(given, inflation):
    assert ask(**given).inflation == pytest.approx(inflation, abs=2e-3)


def test_always_valid_intervals_have_the_power_they_are_planned_for():
    """Brownian motion with the planned drift, looked at 1,000 times."""
    found = ask(design="always_valid")
    drift = (1.959964 + 0.841621) * np.sqrt(found.inflation)
    t = np.arange(1, 1_001) / 1_000
    bound = mixture.boundary(t, alpha=0.05, rho=mixture.tuned(1.0, alpha=0.05))
    rng = np.random.default_rng(20260101)
    paths = np.cumsum(rng.normal(drift / 1_000, np.sqrt(1 / 1_000), (4_000, 1_000)), axis=1)
    crossed = np.abs(paths) >= bound
    assert 0.78 <= crossed.any(axis=1).mean() <= 0.84
    ends = np.where(crossed.any(axis=1), crossed.argmax(axis=1) / 1_000, 1.0)
    assert found.expected_units / found.units == pytest.approx(ends.mean(), abs=0.03)


def test_arms_shares_and_weeks_count():
    assert ask(arms=3).units > 1.5 * ask().units
    assert ask(allocation=(0.9, 0.1)).units > 2 * ask().units
    duration = ask(units_per_day=5_000, exposure_share=0.8).duration
    assert (duration.feasible, duration.weeks, duration.days) == (True, 2, 14)
    low = ask(units_per_day=300)
    assert not low.duration.feasible
    assert "traffic is too low" in low.sentence
    assert any("weekly batches" in line for line in low.duration.advice)
    assert low.detectable_by_day[-1].effect == pytest.approx(low.duration.detectable_in_time)


def test_what_is_left_out_is_the_answer():
    assert ask(units=29_502).power == pytest.approx(0.80, abs=1e-3)
    assert ask(effect=None, units=29_502).effect == pytest.approx(0.01, rel=1e-3)
    assert ask(effect=0.0, margin=0.01).sentence.startswith("A true effect of +0 is shown not to be inferior")


@pytest.fixture
async def client():
    async with api(ROUTES, {}, keyring_of_scopes()) as client:
        client.headers.update(bearer(KEYS[Scope.READ]))
        yield client


@pytest.mark.anyio
async def test_query_and_body_give_the_same_answer(client):
    query = {"baseline": ".1", "effect": "+.01", "allocation": ".6,.2,0.2", "relative": "false"}
    body = {"baseline": 0.1, "effect": 0.01, "allocation": [0.6, 0.2, 0.2]}
    by_query, by_body = await client.get("/power", params=query), await client.post("/power", json=body)
    assert by_query.status_code == by_body.status_code == 200, by_query.text
    assert by_query.json() == by_body.json()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "effect"),
        ({"effect": 0.01}, "baseline"),
        ({"effect": 0.01, "baseline": 1.5}, "baseline"),
        ({"effect": 0.95, "baseline": 0.1}, "effect"),
        ({"effect": 0, "baseline": 0.1}, "effect"),
        ({"effect": 0.01, "baseline": 0.1, "alpha": 1.5}, "alpha"),
        ({"effect": 0.01, "baseline": 0.1, "power": 0.01}, "power"),
        ({"effect": 0.01, "baseline": 0.1, "allocation": [0.5, 0.2]}, "allocation"),
        ({"effect": 0.01, "baseline": 0.1, "nonsense": 1}, "nonsense"),
        ({"effect": 0.01, "baseline": 0.1, "design": "speedseq"}, "design"),
        ({"effect": "much", "baseline": 0.1}, "effect"),
        ({"effect": 0.01, "kind": "mean"}, "sd"),
        ({"effect": 0.01, "kind": "ratio", "numerator_mean": 1}, "denominator_mean"),
        ({"units": 2, "baseline": 0.1}, "units"),
        ({"effect": 0.1, "relative": True, "kind": "mean", "sd": 1.0}, "baseline"),
        ({"effect": 0.01, "baseline": 0.1, "units_per_day": -3}, "units_per_day"),
    ],
)
async def test_what_is_wrong_is_named(client, given, field):
    text = {n: ",".join(map(str, v)) if isinstance(v, list) else str(v).lower() for n, v in given.items()}
    for reply in (await client.post("/power", json=given), await client.get("/power", params=text)):
        assert reply.status_code == 400, reply.text
        assert reply.headers["content-type"] == "application/problem+json"
        assert field in [error["field"].partition("[")[0] for error in reply.json()["errors"]]


@pytest.mark.anyio
async def test_only_readers_may_ask_and_nothing_is_a_500(client):
    assert (await client.get("/power", headers=bearer(KEYS[Scope.ASSIGN]))).status_code == 403
    assert (await client.get("/power", params="effect=1&effect=2")).status_code == 400
    for odd in ("nan", "inf", "1e400", "-0", "1e-300"):
        assert (await client.get("/power", params={"baseline": "0.1", "effect": odd})).status_code == 400
        assert (await client.get("/power", params={"baseline": odd, "effect": "0.01"})).status_code in {
            200,
            400,
        }
