"""The tally of one transaction: what it adds to the totals of signals by state. Pure.

The totals are a function of the log. Each row of the log is in one state, an exposure may move it to
another state, and the totals move by the difference. So repeats, retries and order change nothing.
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
"""Look-up of what an experiment expects of a signal; None: the experiment does not read it."""

_N_STATES = len(SIGNAL_STATES)
Flags = NDArray[np.bool_]


class SignalMove(NamedTuple):
    """Amounts to add to the totals of one signal; `states` in the order of `SIGNAL_STATES`.

    `lowest`, `highest` and `last_us` (microseconds since the epoch) are of new values; None without any.
    """

    states: tuple[int, ...] = (0,) * _N_STATES
    out_of_range: int = 0
    lowest: float | None = None
    highest: float | None = None
    last_us: int | None = None

    def __add__(self, other: "SignalMove") -> "SignalMove":  # type: ignore[override]
        lows = [low for low in (self.lowest, other.lowest) if low is not None]
        highs = [high for high in (self.highest, other.highest) if high is not None]
        times = [time for time in (self.last_us, other.last_us) if time is not None]
        return SignalMove(
            tuple(a + b for a, b in zip(self.states, other.states, strict=True)),
            self.out_of_range + other.out_of_range,
            min(lows, default=None),
            max(highs, default=None),
            max(times, default=None),
        )

    @property
    def empty(self) -> bool:
        """Whether the move adds nothing."""
        return self == SignalMove()


def of_state(state: int, n: int) -> SignalMove:
    """Return a move of `n` more signals in one state; fewer if `n` is negative."""
    return SignalMove(tuple(n if place == state else 0 for place in range(_N_STATES)))


def exposed(n: int) -> SignalMove:
    """Return the move of `n` waiting signals whose exposure has arrived."""
    return of_state(COUNTED, n) + of_state(WAITING, -n)


class SignalTally:
    """Sums of what a transaction adds to the totals of signals, and the results of its events."""

    def __init__(self, uses: Uses) -> None:
        self.uses = uses
        self.moves: dict[SignalKey, SignalMove] = {}
        self.results: Counter[str] = Counter()
        """Number of events by result, for the metric."""

    def add(self, key: SignalKey, move: SignalMove) -> None:
        """Add a move to the totals of one signal."""
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
        """Add the values of signals by unit that are new in the log; their states are read from the log."""
        for signal, received_us, new in zip(units.signals, units.received_us, fresh.tolist(), strict=True):
            if new:
                self.add_value((signal.experiment_id, signal.signal), signal.value, received_us)

    def add_value(
        self, key: SignalKey, value: float, received_us: int, *, before: float | None = None
    ) -> None:
        """Add a new value, or a value that replaces the value `before`."""
        use = self.uses(*key)
        outside = 0 if use is None else use.excludes(value) - (before is not None and use.excludes(before))
        self.add(key, SignalMove(out_of_range=outside, lowest=value, highest=value, last_us=received_us))


def uses_of(signals: Mapping[int, Mapping[str, SignalUse]]) -> Uses:
    """Return a look-up of what experiments expect of signals."""

    def find(experiment_id: int, name: str) -> SignalUse | None:
        return signals.get(experiment_id, {}).get(name)

    return find


def _extremes(group_of: Integers, values: NDArray[Any], n: int) -> tuple[list[Any], list[Any]]:
    """Return the smallest and the largest value of each group."""
    order = np.lexsort((values, group_of))
    ordered, groups = values[order], np.arange(n)
    starts = np.searchsorted(group_of[order], groups)
    ends = np.searchsorted(group_of[order], groups, side="right") - 1
    return ordered[starts].tolist(), ordered[ends].tolist()


def _outside(
    keys: Sequence[SignalKey], group_of: Integers, values: NDArray[np.float64], uses: Uses
) -> Integers:
    """Count the values of each group that are outside the declared range."""
    ranges = [uses(*key) or SignalUse() for key in keys]
    if all(use.low is None and use.high is None for use in ranges):
        return np.zeros(len(keys), np.int64)
    low = np.array([-np.inf if use.low is None else use.low for use in ranges])[group_of]
    high = np.array([np.inf if use.high is None else use.high for use in ranges])[group_of]
    return np.bincount(group_of, (values < low) | (values > high), minlength=len(keys)).astype(np.int64)
