"""The power calculator: units, power, effects and weeks; by query and by body; what it refuses."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.access.model import Scope
from app.core.errors import InvalidInput
from app.planning.power import PowerQuestion, answer
from app.planning.power_routes import ROUTES
from stats import mixture
from stats.group_sequential import HwangShihDeCani
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


def test_a_relative_question_has_a_relative_answer():
    """20,000 units at a baseline of 10 % find 12.2 % of it, with power 0.8 again."""
    found = ask(effect=None, units=20_000, relative=True, units_per_day=500)
    absolute = ask(effect=None, units=20_000, units_per_day=500)
    assert found.effect == pytest.approx(0.122, abs=5e-4)
    assert found.effect == pytest.approx(absolute.effect / 0.1)
    assert ask(effect=found.effect, units=20_000, relative=True).power == pytest.approx(0.8, abs=1e-9)
    assert ask(effect=found.effect, relative=True).units == 20_000
    assert "12.2" in found.sentence
    assert "of the baseline" in found.sentence
    pairs = zip(found.detectable_by_day, absolute.detectable_by_day, strict=True)
    assert all(one.effect == pytest.approx(other.effect / 0.1) for one, other in pairs)
    low, low_absolute = (
        ask(relative=r, effect=e, units_per_day=300) for r, e in ((True, 0.1), (False, 0.01))
    )
    assert low.duration.detectable_in_time == pytest.approx(low_absolute.duration.detectable_in_time / 0.1)
    assert any("% of the baseline" in line for line in low.duration.advice)


def test_a_relative_effect_of_a_negative_mean_is_a_share_of_its_size():
    up, down = (
        ask(kind="mean", sd=3.0, baseline=baseline, effect=0.02, relative=True, margin=0.5)
        for baseline in (10.0, -10.0)
    )
    assert up.units == down.units
    assert ask(kind="mean", sd=3.0, baseline=-10.0, effect=None, units=9_000, relative=True).effect > 0


OUTCOMES = st.one_of(
    st.builds(
        lambda baseline: {"kind": "proportion", "baseline": baseline},
        st.sampled_from([1e-5, 0.001, 0.1, 0.5, 0.9, 0.999, 1 - 1e-5]),
    ),
    st.builds(
        lambda sd, baseline: {"kind": "mean", "sd": sd, "baseline": baseline},
        st.sampled_from([1e-6, 1.0, 1e6]),
        st.sampled_from([-40.0, 1e-3, 5.0]),
    ),
    st.just(
        {"kind": "ratio", "baseline": None, "numerator_mean": 2.0, "denominator_mean": 4.0}
        | {"numerator_sd": 1.0, "denominator_sd": 2.0, "correlation": 0.4}
    ),
)
DESIGNS = st.sampled_from(
    [
        {"design": "fixed"},
        {"design": "fixed", "alpha": 1e-4, "power": 0.999},
        {"design": "yeast"},
        {"design": "group_sequential", "looks": 3},
        {"design": "group_sequential", "looks": 4, "spending": "pocock", "power": 0.95},
        {"design": "group_sequential", "looks": 3, "spending": HwangShihDeCani(-2)},
        {"design": "always_valid", "power": 0.9},
    ]
)
ALLOCATIONS = st.sampled_from([(0.5, 0.5), (0.99, 0.01), (0.2, 0.3, 0.5)])


@settings(max_examples=40)
@given(
    outcome=OUTCOMES,
    design=DESIGNS,
    allocation=ALLOCATIONS,
    relative=st.booleans(),
    reduced=st.sampled_from([0.0, 0.4]),
    margin_sds=st.sampled_from([0.0, 0.0, 0.02]),
    units=st.sampled_from([2_000, 54_321, 10**7, 10**13]),
)
def test_effect_power_and_units_are_inverses_of_one_another(
    outcome, design, allocation, relative, reduced, margin_sds, units
):
    """In every design, absolute and relative, at the extremes too; units are whole, so up to rounding up."""
    baseline = outcome["baseline"]
    sd = {"proportion": lambda: (baseline * (1 - baseline)) ** 0.5, "mean": lambda: outcome["sd"]}
    margin = margin_sds * sd.get(outcome["kind"], lambda: 1.0)()
    assume(outcome["kind"] != "proportion" or margin < baseline / 2)
    common = outcome | design | {"allocation": allocation, "relative": relative, "margin": margin}
    common |= {"variance_reduction": reduced}
    wanted = common.get("power", 0.8)
    try:
        effect = ask(**common, effect=None, units=units).effect
    except InvalidInput:  # not even the largest possible effect is found
        assume(False)
    assert ask(**common, effect=effect, units=units).power == pytest.approx(wanted, abs=1e-6)
    assert ask(**common, effect=effect).units == pytest.approx(units, rel=1e-6, abs=len(allocation))
    smaller = effect - 0.2 * (abs(effect) + margin)
    power = ask(**common, effect=smaller, units=units).power
    if power > common.get("alpha", 0.05) + 1e-3 and power < 1 - 1e-6:
        again = common | {"power": power}
        assert ask(**again, effect=None, units=units).effect == pytest.approx(smaller, rel=1e-6)
        assert ask(**again, effect=smaller).units == pytest.approx(units, rel=1e-6, abs=len(allocation))


def test_pairs_are_counted_once_and_need_fewer_units_the_more_alike_their_outcomes_are():
    alone = ask(effect=0.05, baseline=0.3)
    pairs = [ask(effect=0.05, baseline=0.3, pair_correlation=r).units for r in (0.0, 0.4, 0.8)]
    assert pairs == sorted(pairs, reverse=True)
    assert pairs[0] == pytest.approx(alone.units / 2, rel=0.01)
    answer = ask(effect=0.05, baseline=0.3, pair_correlation=0.4)
    assert answer.per_variant == (answer.units, answer.units)
    assert answer.sentence.endswith(f"in {answer.units:,} pairs.")
    assert ask(effect=0.05, baseline=0.3, pair_correlation=0.4, units=answer.units).power >= 0.8


@pytest.mark.parametrize(("units", "allocation"), [(5, (0.5, 0.5)), (7, (0.2, 0.3, 0.5)), (10, (0.99, 0.01))])
def test_units_of_variants_add_up_to_the_units_that_were_given(units, allocation):
    found = ask(units=units, allocation=allocation)
    assert sum(found.per_variant) == units
    assert all(abs(n - units * share) < 1 for n, share in zip(found.per_variant, allocation, strict=True))


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
        ({"effect": 0.01, "baseline": 0.1, "sd": 2.0}, "sd"),
        ({"effect": 0.01, "baseline": 0.1, "correlation": 0.5}, "correlation"),
        ({"effect": 0.01, "baseline": 0.1, "looks": 3}, "looks"),
        ({"effect": 0.01, "baseline": 0.1, "spending": "pocock"}, "spending"),
        ({"effect": 0.01, "baseline": 0.1, "arms": 4, "allocation": [0.5, 0.5]}, "arms"),
        ({"effect": 0.01, "baseline": 0.1, "exposure_share": 0.5}, "exposure_share"),
        ({"effect": 0.01, "baseline": 0.1, "design": "group_sequential", "spending": "power:0"}, "spending"),
        ({"effect": 0.01, "baseline": 0.1, "pair_correlation": 1}, "pair_correlation"),
        ({"effect": 0.4, "baseline": 0.1, "pair_correlation": 0.9}, "pair_correlation"),
        (
            {"effect": 0.01, "baseline": 0.1, "pair_correlation": 0.3, "allocation": [0.6, 0.4]},
            "allocation",
        ),
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
