"""Simulated products: how much each arm earns, and when. Pure.

Times are counted in rounds, one pull each. A request gives them in days, and `in_rounds` converts
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Final, NamedTuple, Protocol, Self

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.random import Generator

from bandits.totals import FloatArray
from stats.errors import InvalidInput

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

_VALUES_MAX: Final = 999
"""Number of different logged rewards; more are rounded to steps of 1 / 999."""


@dataclass(frozen=True, slots=True, eq=False)
class Rewards:
    """Sums and sums of squares of one batch, each of shape (runs, n_arms)."""

    sum: FloatArray
    sum_squares: FloatArray


class Environment(Protocol):
    """A simulated product: it gives expected rewards and draws rewards."""

    @property
    def n_arms(self) -> int:
        """Number of arms."""

    def mean_rewards(self, rounds: FloatArray) -> FloatArray:
        """Return the expected rewards in these rounds, shape (rounds, n_arms)."""

    def draw_rewards(
        self, rng: Generator, mean: FloatArray, pulls: FloatArray, before: FloatArray
    ) -> Rewards:
        """Draw the rewards of a batch of pulls, shape (runs, n_arms), after `before` earlier ones.

        `mean` holds the expected rewards of the batch, averaged over its rounds, shape (n_arms,).
        """


class _Bernoulli(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Arms with rewards of 0 and 1.

    If the mean moves within a batch, pulls fall on its rounds at random.
    """

    means: tuple[Share, ...]

    def __post_init__(self) -> None:
        _check_means(self.means, "means")

    @property
    def n_arms(self) -> int:
        """Number of arms."""
        return len(self.means)

    def in_rounds(self, rounds_per_day: float) -> Self:
        """Return the environment with days as rounds."""
        del rounds_per_day
        return self

    def draw_rewards(
        self, rng: Generator, mean: FloatArray, pulls: FloatArray, before: FloatArray
    ) -> Rewards:
        """Draw binomial counts with the mean of the batch."""
        del before
        wins = rng.binomial(pulls.astype(np.int64), mean).astype(np.float64)
        return Rewards(wins, wins)


class Stationary(_Bernoulli, frozen=True, tag="stationary"):
    """Means that stay: `means` has one for each arm."""

    def mean_rewards(self, rounds: FloatArray) -> FloatArray:
        """Return the same means in every round."""
        return np.broadcast_to(np.array(self.means), (len(rounds), self.n_arms))


class Drifting(_Bernoulli, frozen=True, tag="drifting"):
    """Means that move on a line from `means` to `last_means` within `days`, and then stay."""

    last_means: tuple[Share, ...]
    duration: float = msgspec.field(name="days")

    def __post_init__(self) -> None:
        _check_means(self.means, "means")
        _check_means(self.last_means, "last_means", self.n_arms)
        _check_positive(self.duration, "days")

    def in_rounds(self, rounds_per_day: float) -> Self:
        """Return the environment with days as rounds, at least one."""
        return replace(self, duration=max(1, round(self.duration * rounds_per_day)))

    def mean_rewards(self, rounds: FloatArray) -> FloatArray:
        """Return the means on the line."""
        way = np.minimum(rounds / self.duration, 1.0)[:, None]
        means: FloatArray = (1 - way) * np.array(self.means) + way * np.array(self.last_means)
        return means


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """New means from the start of `day` on; the first day is 0."""

    start: float = msgspec.field(name="day")
    means: tuple[Share, ...]


class Changing(_Bernoulli, frozen=True, tag="changing"):
    """Means that jump: `means` at first, then those of each change, in the order of the days."""

    changes: tuple[Change, ...]

    def __post_init__(self) -> None:
        _check_means(self.means, "means")
        previous = 0.0
        for number, change in enumerate(self.changes):
            _check_means(change.means, f"changes[{number}].means", self.n_arms)
            if not change.start >= previous:
                raise InvalidInput(
                    f"changes[{number}].day must be at least {previous:g}, got {change.start:g}"
                )
            previous = change.start

    def in_rounds(self, rounds_per_day: float) -> Self:
        """Return the environment with days as rounds.

        Of changes within one round the last counts.
        """
        changes = [replace(change, start=round(change.start * rounds_per_day)) for change in self.changes]
        return replace(self, changes=tuple(changes))

    def mean_rewards(self, rounds: FloatArray) -> FloatArray:
        """Return the means of the latest change."""
        starts = [change.start for change in self.changes]
        means = np.array([self.means, *(change.means for change in self.changes)])
        latest: FloatArray = means[np.searchsorted(starts, rounds, side="right")]
        return latest


class Seasonal(_Bernoulli, frozen=True, tag="seasonal"):
    """Means that swing by `amplitude` once in `period_days`, kept within [0, 1].

    `phases` are the parts of a period by which each arm is ahead. By default they are spread
    evenly, so that the lead passes from one arm to the next if `amplitude` exceeds their distance.
    With equal phases the same arm stays ahead.
    """

    amplitude: Share
    period: float = msgspec.field(name="period_days", default=1.0)
    phases: tuple[Share, ...] | None = None

    def __post_init__(self) -> None:
        _check_means(self.means, "means")
        _check_means((self.amplitude,), "amplitude", 1)
        _check_positive(self.period, "period_days")
        if self.phases is not None:
            _check_means(self.phases, "phases", self.n_arms)

    def in_rounds(self, rounds_per_day: float) -> Self:
        """Return the environment with days as rounds, at least one in a period."""
        return replace(self, period=max(1, round(self.period * rounds_per_day)))

    def mean_rewards(self, rounds: FloatArray) -> FloatArray:
        """Return sine waves around the arms' means."""
        phases = self.phases or tuple(arm / self.n_arms for arm in range(self.n_arms))
        turn = rounds[:, None] / self.period + np.array(phases)
        means: FloatArray = np.array(self.means) + self.amplitude * np.sin(2 * np.pi * turn)
        return np.clip(means, 0.0, 1.0)


class Logged(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="logged", dict=True
):
    """Rewards in [0, 1] that were logged of each arm.

    Simulated ones are drawn from them, with replacement.

    They stand for what an arm would earn if arms were assigned at random, or if all of them
    answered the same tasks. More than 999 different rewards are rounded to steps of 1/999.
    """

    rewards: dict[str, tuple[Share, ...]]

    def __post_init__(self) -> None:
        if len(self.rewards) < 2 or not all(self.rewards.values()):
            raise InvalidInput("rewards must have at least one reward for each of at least 2 arms")
        if not all(0 <= reward <= 1 for rewards in self.rewards.values() for reward in rewards):
            raise InvalidInput("rewards must be in [0, 1]")

    @property
    def n_arms(self) -> int:
        """Number of arms."""
        return len(self.rewards)

    def in_rounds(self, rounds_per_day: float) -> Self:
        """Return the environment, which has no times."""
        del rounds_per_day
        return self

    def mean_rewards(self, rounds: FloatArray) -> FloatArray:
        """Return the averages of the log."""
        values, shares = self._frequencies
        return np.broadcast_to(shares @ values, (len(rounds), self.n_arms))

    def draw_rewards(
        self, rng: Generator, mean: FloatArray, pulls: FloatArray, before: FloatArray
    ) -> Rewards:
        """Draw how often each logged value comes up, and sum the values."""
        del mean, before
        values, shares = self._frequencies
        counts = rng.multinomial(pulls.astype(np.int64), shares)
        return Rewards(counts @ values, counts @ values**2)

    @cached_property
    def _frequencies(self) -> "_Frequencies":
        arms = [np.array(rewards, dtype=np.float64) for rewards in self.rewards.values()]
        if len(np.unique(np.concatenate(arms))) > _VALUES_MAX:
            arms = [np.rint(rewards * _VALUES_MAX) / _VALUES_MAX for rewards in arms]
        values = np.unique(np.concatenate(arms))
        counts = [np.bincount(np.searchsorted(values, rewards), minlength=len(values)) for rewards in arms]
        return _Frequencies(values, np.array([of_arm / of_arm.sum() for of_arm in counts]))


class _Frequencies(NamedTuple):
    """Rewards that occur, shape (values,), and their shares by arm, shape (n_arms, values)."""

    values: FloatArray
    shares: FloatArray


AnyEnvironment = Stationary | Drifting | Changing | Seasonal | Logged
"""An environment as a request gives it, by its `kind`."""


def _check_means(means: Sequence[float], field: str, n: int | None = None) -> None:
    if n is None and len(means) < 2:
        raise InvalidInput(f"{field} must have at least 2 numbers, got {len(means)}")
    if n is not None and len(means) != n:
        raise InvalidInput(f"{field} must have a number for each of {n} arms, got {len(means)}")
    for mean in means:
        if not 0 <= mean <= 1:
            raise InvalidInput(f"{field} must be within [0, 1], got {mean:g}")


def _check_positive(value: float, field: str) -> None:
    if not value > 0:
        raise InvalidInput(f"{field} must be above 0, got {value:g}")
