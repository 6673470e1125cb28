"""What a simulated product answers: where the rewards of its variants come from. Pure.

`build` turns what a request says in days into what `bandits.simulation` counts in rounds, one per request.
"""

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
import numpy as np

from app.core.errors import FieldError
from app.core.limits import VARIANTS_MAX, VARIANTS_MIN
from app.experiments.model import Share
from app.planning import limits
from bandits import simulation

_STEPS: Final = 999  # with both ends, as many different rewards as a simulation takes

Means = Annotated[tuple[Share, ...], msgspec.Meta(min_length=VARIANTS_MIN, max_length=VARIANTS_MAX)]
"""The mean reward of each variant, in [0, 1]."""
Days = Annotated[float, msgspec.Meta(gt=0, le=limits.SIMULATION_DAYS_MAX)]


class Stationary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="stationary"):
    """Means that stay: `means` has one for each variant."""

    means: Means

    @property
    def n_variants(self) -> int:
        """The number of variants."""
        return len(self.means)

    def errors(self) -> Iterator[FieldError]:
        """Nothing can be wrong beyond what the types say."""
        yield from ()

    def build(self, requests_per_day: float) -> simulation.Environment:
        """In rounds."""
        del requests_per_day
        return simulation.Stationary(self.means)


class Drifting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="drifting"):
    """Means that move in a straight line from `means` to `last_means` within `days`, and then stay."""

    means: Means
    last_means: Means
    days: Days

    @property
    def n_variants(self) -> int:
        """The number of variants."""
        return len(self.means)

    def errors(self) -> Iterator[FieldError]:
        """Both sets of means have to speak of the same variants."""
        if len(self.last_means) != self.n_variants:
            reason = f"needs a mean for each of {self.n_variants} variants, got {len(self.last_means)}"
            yield FieldError("environment.last_means", reason)

    def build(self, requests_per_day: float) -> simulation.Environment:
        """In rounds."""
        rounds = max(1, round(self.days * requests_per_day))
        return simulation.Drifting(self.means, self.last_means, rounds)


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """New means from the start of `day` on; the first day is 0."""

    day: Days
    means: Means


class Changing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="changing"):
    """Means that jump: `means` at first, then those of each of `changes`, in the order of their days."""

    means: Means
    changes: Annotated[
        tuple[Change, ...], msgspec.Meta(min_length=1, max_length=limits.SIMULATION_CHANGES_MAX)
    ]

    @property
    def n_variants(self) -> int:
        """The number of variants."""
        return len(self.means)

    def errors(self) -> Iterator[FieldError]:
        """Days ascend, and every set of means speaks of the same variants."""
        previous = 0.0
        for number, change in enumerate(self.changes):
            field = f"environment.changes[{number}]"
            if change.day <= previous:
                yield FieldError(f"{field}.day", f"must be above {previous:g}, got {change.day:g}")
            if len(change.means) != self.n_variants:
                reason = f"needs a mean for each of {self.n_variants} variants, got {len(change.means)}"
                yield FieldError(f"{field}.means", reason)
            previous = change.day

    def build(self, requests_per_day: float) -> simulation.Environment:
        """In rounds. Of changes within one request the last counts."""
        means = {0: self.means} | {
            round(change.day * requests_per_day): change.means for change in self.changes
        }
        return simulation.Changing(tuple(means), tuple(means.values()))


class Seasonal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="seasonal"):
    """Means that swing by `amplitude` once in `period_days`, kept within [0, 1].

    `phases` are the parts of a period by which each variant is ahead, even by default: so that the lead
    passes from one to the next where `amplitude` exceeds their distance. All alike, the lead stays.
    """

    means: Means
    amplitude: Share
    period_days: Days = 1.0
    phases: Means | None = None

    @property
    def n_variants(self) -> int:
        """The number of variants."""
        return len(self.means)

    def errors(self) -> Iterator[FieldError]:
        """A phase belongs to each variant."""
        if self.phases is not None and len(self.phases) != self.n_variants:
            reason = f"needs one for each of {self.n_variants} variants, got {len(self.phases)}"
            yield FieldError("environment.phases", reason)

    def build(self, requests_per_day: float) -> simulation.Environment:
        """In rounds."""
        phases = self.phases or tuple(arm / self.n_variants for arm in range(self.n_variants))
        period = max(1, round(self.period_days * requests_per_day))
        return simulation.Seasonal(self.means, self.amplitude, period, phases)


class Logged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="logged"):
    """Rewards in [0, 1] that were logged of each variant; simulated ones are drawn from them.

    They stand for what a variant would earn if variants were assigned at random, or all of them answered the
    same tasks. More than 999 different rewards are rounded to steps of 1/999.
    """

    rewards: Annotated[
        dict[str, Annotated[tuple[Share, ...], msgspec.Meta(min_length=1)]],
        msgspec.Meta(min_length=VARIANTS_MIN, max_length=VARIANTS_MAX),
    ]

    @property
    def n_variants(self) -> int:
        """The number of variants."""
        return len(self.rewards)

    def errors(self) -> Iterator[FieldError]:
        """Nothing can be wrong beyond what the types say."""
        yield from ()

    def build(self, requests_per_day: float) -> simulation.Environment:
        """In rounds."""
        del requests_per_day
        rewards = [np.array(of_one) for of_one in self.rewards.values()]
        if len(np.unique(np.concatenate(rewards))) > _STEPS:
            rewards = [np.rint(of_one * _STEPS) / _STEPS for of_one in rewards]
        return simulation.Logged(rewards)


Environment = Stationary | Drifting | Changing | Seasonal | Logged
