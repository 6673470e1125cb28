"""Bucketing: shares are kept, units move only as far as they must, and the golden vectors hold."""

import json
from decimal import Decimal, localcontext
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import chi2

from app.assignment import bucketing
from app.assignment.bucketing import WHOLE, cumulative, draw, parts, rendezvous, unit_hash, variant_seed

GOLDEN = json.loads((Path(__file__).parent / "bucketing_golden.json").read_text())
SALT = b"salt of the test"
ALPHA = 1e-6

shares = st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1)), min_size=2, max_size=50).filter(any)


def seeds(n: int) -> list[int]:
    return [variant_seed(SALT, f"variant-{number}") for number in range(n)]


def hashes(n: int) -> list[int]:
    return [unit_hash(SALT, f"unit-{number}") for number in range(n)]


def chi_square(counts: list[int], weights: tuple[int, ...]) -> float:
    n = sum(counts)
    expected = [n * weight / WHOLE for weight in weights]
    return sum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True) if mean)


@given(shares)
@example([1.0, 1e-300])
@example([0.1] * 10)
def test_parts_are_whole_and_as_close_to_the_shares_as_possible(given: list[float]):
    whole = parts(given)
    total = sum(map(Fraction, given))
    assert sum(whole) == WHOLE
    for part, share in zip(whole, given, strict=True):
        assert (part == 0) == (share == 0)
        exact = Fraction(share) / total * WHOLE
        assert abs(part - exact) < len(given) + 1


@pytest.mark.parametrize("bad", [[], [0.0, 0.0], [-0.1, 1.1], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_invalid_shares_are_refused(bad: list[float]):
    with pytest.raises(ValueError, match="shares"):
        parts(bad)


@given(shares, st.integers(0, WHOLE - 1))
def test_a_draw_falls_on_the_variant_that_owns_its_number(given: list[float], number: int):
    weights = parts(given)
    index = draw(number, cumulative(weights))
    assert sum(weights[:index]) <= number < sum(weights[: index + 1])


@given(st.integers(1, 2**65 - 1).map(lambda number: number | 1))
def test_the_logarithm_is_as_exact_as_it_says(u: int):
    with localcontext() as context:
        context.prec = 50
        exact = -(Decimal(u) / 2**65).ln() * 2**72
    computed = bucketing._minus_ln(u)
    assert abs(computed - exact) <= max(exact * Decimal("1e-9"), 4)


@pytest.mark.parametrize(
    "given",
    [[0.5, 0.5], [0.9, 0.1], [0.7, 0.2, 0.1], [0.0, 0.3, 0.7], [1.0] * 10, [2.0**-n for n in range(12)]],
)
def test_the_split_of_units_equals_the_weights(given: list[float]):
    weights = parts(given)
    counts = [0] * len(given)
    for number in hashes(20_000):
        counts[rendezvous(number, seeds(len(given)), weights)] += 1
    assert all(count == 0 for count, weight in zip(counts, weights, strict=True) if not weight)
    freedom = sum(weight > 0 for weight in weights) - 1
    assert chi_square(counts, weights) < chi2.isf(ALPHA, freedom)


@pytest.mark.parametrize("given", [[0.5, 0.5], [0.98, 0.01, 0.01], [1.0, 0.0]])
def test_the_split_of_fresh_draws_equals_the_weights(given: list[float]):
    weights, random = parts(given), Random(20261101)
    counts = [0] * len(given)
    for _ in range(50_000):
        counts[draw(random.getrandbits(32), cumulative(weights))] += 1
    assert chi_square(counts, weights) < chi2.isf(ALPHA, max(1, sum(w > 0 for w in weights) - 1))


@given(st.data(), st.integers(2, 8))
def test_a_unit_moves_only_to_a_variant_that_grew_relative_to_its_own(data: st.DataObject, k: int):
    some = st.lists(st.one_of(st.just(0.0), st.floats(0.001, 1)), min_size=k, max_size=k).filter(any)
    before, after = parts(data.draw(some)), parts(data.draw(some))
    for number in hashes(50):
        i = rendezvous(number, seeds(k), before)
        j = rendezvous(number, seeds(k), after)
        assert i == j or after[j] * before[i] > before[j] * after[i]


def test_only_the_necessary_share_of_units_moves():
    """From 50:50 to 70:30 it is 20 % of the units, all in the same direction."""
    before, after = parts([0.5, 0.5]), parts([0.7, 0.3])
    n = 20_000
    moves = [
        (rendezvous(number, seeds(2), before), rendezvous(number, seeds(2), after)) for number in hashes(n)
    ]
    assert (0, 1) not in moves
    moved = moves.count((1, 0))
    assert (moved - 0.2 * n) ** 2 / (n * 0.2 * 0.8) < chi2.isf(ALPHA, 1)


def test_a_new_variant_takes_units_only_for_itself_and_order_does_not_matter():
    two, three = parts([0.5, 0.5]), parts([1, 1, 1])
    order = (2, 0, 1)
    seeds_reordered, weights_reordered = [seeds(3)[i] for i in order], [three[i] for i in order]
    for number in hashes(2_000):
        before, after = rendezvous(number, seeds(2), two), rendezvous(number, seeds(3), three)
        assert after in {before, 2}
        assert order[rendezvous(number, seeds_reordered, weights_reordered)] == after


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["unit"][:20])
def test_golden_vectors(case: dict):
    """For implementations in other languages; numbers were checked by an independent computation below."""
    salt = bytes.fromhex(case["salt"])
    number = unit_hash(salt, case["unit"])
    assert number == int(case["unit_hash"])
    own = [variant_seed(salt, key) for key in case["variants"]]
    assert own == [int(seed) for seed in case["seeds"]]
    assert rendezvous(number, own, case["weights"]) == case["winner"]
    assert draw(case["random32"], cumulative(case["weights"])) == case["drawn"]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["unit"][:20])
def test_golden_winners_have_the_earliest_clock_in_exact_arithmetic(case: dict):
    with localcontext() as context:
        context.prec = 60
        clocks = [
            -(Decimal(2 * bucketing._mix(int(case["unit_hash"]) % 2**64 ^ int(seed)) + 1) / 2**65).ln()
            / weight
            if weight
            else Decimal("Infinity")
            for seed, weight in zip(case["seeds"], case["weights"], strict=True)
        ]
    assert clocks.index(min(clocks)) == case["winner"]


def test_the_finaliser_equals_splitmix64():
    """The first outputs of SplitMix64 seeded with 1234567, as published with its reference code."""
    gamma = 0x9E3779B97F4A7C15
    states = [(1234567 + step * gamma) % 2**64 for step in range(1, 4)]
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [bucketing._mix(state) for state in states] == expected


@pytest.mark.parametrize("case", GOLDEN["layers"], ids=lambda case: case["unit"])
def test_golden_points_of_layers(case: dict):
    seed = blake2b(case["layer"].encode(), digest_size=32, person=b"layer").digest()
    point = blake2b(case["unit"].encode(), digest_size=4, key=seed, person=b"unit").hexdigest()
    assert bucketing.layer_point(bucketing.layer_seed(case["layer"]), case["unit"]) == int(point, 16)
    assert case["point"] == int(point, 16)
