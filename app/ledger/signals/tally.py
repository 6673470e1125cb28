"""Signals in the log by what has become of them: what one transaction adds to their totals. Pure.

The totals are a function of the log: each row of it is in one state, rows move between states when exposures
arrive, and the totals move by the difference. So a repeat, a retry or another order changes nothing.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.experiments.signals import SignalUse
from app.feedback.model import COUNTED, SIGNAL_STATES, WAITING
from app.ledger.log.batch import StagedSignals, UnitSignals
from app.ledger.rewards.model import Integers

SignalKey = tuple[int, str]
"""Experiment and name of a signal."""

Uses = Callable[[int, str], SignalUse | None]
"""What an experiment expects of a signal; null: it does not read it."""

_N_STATES = len(SIGNAL_STATES)
Flags = NDArray[np.bool_]


class SignalMove(NamedTuple):
    """What is added to the totals of one signal. `states` by `SIGNAL_STATES`.

    `lowest`, `highest` and `last_us` (microseconds since the epoch) are of new values; null: there are none.
    """

    states: tuple[int, ...] = (0,) * _N_STATES
    out_of_range: int = 0
    lowest: float | None = None
    highest: float | None = None
    last_us: int | None = None

    def __add__(self, other: "SignalMove") -> "SignalMove":  # type: ignore[override]
        lows = [one for one in (self.lowest, other.lowest) if one is not None]
        highs = [one for one in (self.highest, other.highest) if one is not None]
        times = [one for one in (self.last_us, other.last_us) if one is not None]
        return SignalMove(
            tuple(a + b for a, b in zip(self.states, other.states, strict=True)),
            self.out_of_range + other.out_of_range,
            min(lows, default=None),
            max(highs, default=None),
            max(times, default=None),
        )

    @property
    def empty(self) -> bool:
        """Whether it adds nothing."""
        return self == SignalMove()


def of_state(state: int, n: int) -> SignalMove:
    """`n` signals more in one state; fewer if it is negative."""
    return SignalMove(tuple(n if place == state else 0 for place in range(_N_STATES)))


def exposed(n: int) -> SignalMove:
    """`n` signals that waited for an exposure which has now arrived."""
    return of_state(COUNTED, n) + of_state(WAITING, -n)


class SignalTally:
    """What a transaction adds to the totals of signals, and what has become of the events in it."""

    def __init__(self, uses: Uses) -> None:
        self.uses = uses
        self.moves: dict[SignalKey, SignalMove] = {}
        self.results: Counter[str] = Counter()
        """Events by what became of them, for the metric."""

    def add(self, key: SignalKey, move: SignalMove) -> None:
        """Add to the totals of one signal."""
        self.moves[key] = self.moves[key] + move if key in self.moves else move

    def logged(self, key: SignalKey, state: int, n: int) -> None:
        """Count `n` events of this transaction as new in the log."""
        known = self.uses(*key) is not None
        self.results[SIGNAL_STATES[state].value if known else "unknown_signal"] += n

    def add_signals(self, staged: StagedSignals, fresh: Flags) -> None:
        """Add the staged signals by assignment id that are new in the log (`fresh`)."""
        if not fresh.any():
            return
        n_names = len(staged.names)
        codes = staged.experiment_id[fresh] * n_names + staged.name[fresh]
        groups, group_of = np.unique(codes, return_inverse=True)
        states = np.bincount(
            group_of * _N_STATES + staged.state[fresh], minlength=len(groups) * _N_STATES
        ).reshape(-1, _N_STATES)
        keys = [(group // n_names, staged.names[group % n_names]) for group in groups.tolist()]
        values = staged.value[fresh]
        lowest, highest = _extremes(group_of, values, len(groups))
        _, last_us = _extremes(group_of, staged.received_us[fresh], len(groups))
        outside = _outside(keys, group_of, values, self.uses)
        for number, (key, counts) in enumerate(zip(keys, states.tolist(), strict=True)):
            move = SignalMove(
                tuple(counts), int(outside[number]), lowest[number], highest[number], last_us[number]
            )
            self.add(key, move)
            for state, n in enumerate(counts):
                if n:
                    self.logged(key, state, n)

    def add_unit_values(self, units: UnitSignals, fresh: Flags) -> None:
        """Add the values of signals by unit that are new in the log; their states come from the log."""
        for one, received_us, new in zip(units.signals, units.received_us, fresh.tolist(), strict=True):
            if new:
                self.add_value((one.experiment_id, one.signal), one.value, received_us)

    def add_value(
        self, key: SignalKey, value: float, received_us: int, *, before: float | None = None
    ) -> None:
        """Add a new value, or one that replaces another."""
        use = self.uses(*key)
        outside = 0 if use is None else use.excludes(value) - (before is not None and use.excludes(before))
        self.add(key, SignalMove(out_of_range=outside, lowest=value, highest=value, last_us=received_us))


def uses_of(signals: Mapping[int, Mapping[str, SignalUse]]) -> Uses:
    """Look up what experiments expect of signals."""

    def find(experiment_id: int, name: str) -> SignalUse | None:
        return signals.get(experiment_id, {}).get(name)

    return find


def _extremes(group_of: Integers, values: NDArray[Any], n: int) -> tuple[list[Any], list[Any]]:
    """The least and the greatest value of each group."""
    order = np.lexsort((values, group_of))
    ordered, groups = values[order], np.arange(n)
    starts = np.searchsorted(group_of[order], groups)
    ends = np.searchsorted(group_of[order], groups, side="right") - 1
    return ordered[starts].tolist(), ordered[ends].tolist()


def _outside(
    keys: Sequence[SignalKey], group_of: Integers, values: NDArray[np.float64], uses: Uses
) -> Integers:
    """How many values of each group are outside of the declared range."""
    found = [uses(*key) or SignalUse() for key in keys]
    if all(use.low is None and use.high is None for use in found):
        return np.zeros(len(keys), np.int64)
    low = np.array([-np.inf if use.low is None else use.low for use in found])[group_of]
    high = np.array([np.inf if use.high is None else use.high for use in found])[group_of]
    return np.bincount(group_of, (values < low) | (values > high), minlength=len(keys)).astype(np.int64)
