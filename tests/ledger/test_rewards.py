"""The ledger's arithmetic, apart from any database."""

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from app.experiments.reward import Reward
from app.ledger.rewards.model import (
    ASSIGNMENT,
    CENSORED,
    GIVEN,
    NONE,
    PENDING,
    REWARDED,
    SILENT,
    Difference,
    Given,
    Rule,
    differences,
    resolve,
)

NAMES = ["up", "down", "latency"]
DEADLINE_US = 1_000


def assignments(n=1, **fields):
    made = np.zeros(n, ASSIGNMENT)
    made["experiment_id"] = made["epoch"] = 1
    made["deadline_us"], made["reward"], made["exposed"] = DEADLINE_US, NONE, True
    for name, values in fields.items():
        made[name] = values
    return made


def said(*signals):
    """(owner, name, source, at, value)."""
    rows = [(owner, NAMES.index(name), source, at, value) for owner, name, source, at, value in signals]
    return Given(np.array(rows, GIVEN), NAMES)


def resolved(given, *, until=-np.inf, stored=None, **rule):
    rule = Rule.of(Reward(**{"signals": {"up": 1.0, "down": 0.0}, **rule}), by_unit=False)
    after = resolve(assignments() if stored is None else stored, given, {1: rule}, silent_until_us=until)
    return int(after["outcome"][0]), int(after["reward"][0])


def test_the_newest_signal_in_time_is_the_reward():
    given = said((0, "up", 1, 10, 1.0), (0, "down", 1, 20, 0.25), (0, "up", 1, 1_001, 1.0))
    assert resolved(given) == (REWARDED, 250_000_000)


def test_what_is_not_in_the_catalogue_does_not_count():
    assert resolved(said((0, "latency", 2, 10, 0.7))) == (PENDING, NONE)


def test_sums_take_the_current_value_of_each_source_and_are_clipped_to_the_range():
    given = said((0, "up", 0, 1, 3.0), (0, "up", 0, 2, 1.0), (0, "up", 1, 1, 0.5), (0, "down", 1, 1, -1.0))
    assert resolved(given, combine="sum", range=(-1.0, 1.0)) == (REWARDED, 750_000_000)
    assert resolved(said((0, "up", 0, 1, 9.0)), combine="sum", range=(-1.0, 1.0)) == (REWARDED, 10**9)


def test_the_greatest_of_the_current_values_counts_for_max():
    given = said((0, "up", 0, 1, 0.9), (0, "down", 0, 2, 0.3), (0, "up", 0, 3, 0.2))
    assert resolved(given, combine="max") == (REWARDED, 300_000_000)


@pytest.mark.parametrize(
    ("until", "silence", "expected"),
    [
        (DEADLINE_US - 1, 0.5, (PENDING, NONE)),
        (DEADLINE_US, 0.5, (SILENT, 500_000_000)),
        (DEADLINE_US, None, (CENSORED, NONE)),
    ],
)
def test_silence_means_nothing_before_the_deadline(until, silence, expected):
    assert resolved(said(), until=until, silence=silence) == expected


def test_resolved_silence_stays_until_a_signal_that_was_in_time_arrives():
    stored = assignments(outcome=CENSORED)
    assert resolved(said(), stored=stored) == (CENSORED, NONE)
    assert resolved(said((0, "up", 1, 5, 1.0)), stored=stored) == (REWARDED, 10**9)


def test_sums_of_huge_values_are_exact():
    """1e9 widths of 1e-9 cancel to the last nano, which 64 bits could not hold."""
    tiny = 1e-9
    given = said((0, "up", 0, 1, 1e9), (0, "up", 1, 1, -1e9), (0, "down", 0, 1, tiny / 4))
    assert resolved(given, combine="sum", range=(0.0, tiny)) == (REWARDED, 250_000_000)


signals = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(NAMES),
        st.integers(0, 3),
        st.integers(0, 1_200),
        st.floats(-1e9, 1e9),
    ),
    max_size=12,
)


@examples(signals, st.randoms(use_true_random=False), st.sampled_from(["last", "sum", "max"]))
def test_neither_order_nor_repetition_matters(history, random, combine):
    rule = {1: Rule.of(Reward(signals={"up": 1.0, "down": 0.0}, combine=combine), by_unit=False)}
    shuffled = [*history, *random.sample(history, len(history) // 2)]
    random.shuffle(shuffled)
    once, again = (
        resolve(assignments(3), said(*order), rule, silent_until_us=-np.inf) for order in (history, shuffled)
    )
    assert (once == again).all()


@examples(
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(0, 49), st.integers(0, 10**9)))
)
def test_differences_add_up_to_exact_totals(rewarded):
    after = assignments(len(rewarded), outcome=REWARDED)
    for row, (experiment, epoch, variant, reward) in zip(after, rewarded, strict=True):
        row["experiment_id"], row["epoch"], row["variant"], row["reward"] = experiment, epoch, variant, reward
    before = assignments(len(rewarded))
    for name in ("experiment_id", "epoch", "variant"):
        before[name] = after[name]

    expected = {}
    for *key, reward in rewarded:
        total = expected.setdefault(tuple(key), [0, 0, 0, 0, 0])
        for place, amount in enumerate((1, 1, 0, reward, reward**2)):
            total[place] += amount
    found = differences(before, after)
    assert found == [Difference(*key, *total) for key, total in sorted(expected.items())]


def test_a_revision_moves_totals_by_the_difference_and_what_is_not_exposed_by_nothing():
    before = assignments(3, outcome=[REWARDED, CENSORED, PENDING], reward=[10, NONE, NONE])
    before["counted"], before["exposed"][2] = [True, True, False], False
    after = before.copy()
    after["outcome"], after["reward"] = REWARDED, [4, 7, 9]
    assert differences(before, after) == [Difference(1, 1, 0, 0, 1, -1, 1, 16 - 100 + 49)]
