"""The readout of an experiment. Pure: definition, totals and allocations in, numbers out; missing is null."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec import UNSET, UnsetType

from app.allocation.model import AllocationPoint, VariantTotals, best_arm, posteriors
from app.experiments.model import Experiment, StateKind, Stopped, kind_of
from bandits.best import expected_loss, probability_best
from bandits.identification import Winner
from stats.interval import beta_interval


class VariantStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One variant now.

    `rewards` are resolved, `pending` wait for their signals or horizon, `censored` ended in silence that the
    definition does not count. `interval` holds the mean reward with a posterior probability of 95 %.
    `probability_best` and `expected_loss` (of choosing it for good, in units of reward) are the posteriors',
    whatever the policy. `allocation` is its propensity while the experiment runs; null before the first.
    """

    key: str
    control: bool
    assignments: int
    rewards: int
    pending: int
    censored: int
    mean: float | None
    interval: tuple[float, float] | None
    probability_best: float
    expected_loss: float
    allocation: float | None


class AllocationAt(msgspec.Struct, frozen=True):
    """The shares from `at` on, in the order of the variants."""

    at: datetime
    policy_version: int
    epoch: int
    shares: tuple[float, ...]


class BestArmStatus(msgspec.Struct, frozen=True):
    """How far `best_arm` is: the variant that leads or, `decided`, has won.

    It wins once `log_evidence`, the least against a rival, reaches `log_threshold`.
    """

    variant: str
    decided: bool
    log_evidence: float
    log_threshold: float


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment now: its totals up to the last commit of the ledger, and what follows from them.

    `lag_events` counts acknowledged events, of all experiments, that are not in the totals yet; null when
    Valkey cannot be asked, which `warnings` then says. Everything acknowledged before `totals_as_of` is in
    them. `updated_at` is when the allocation in force was computed.
    """

    key: str
    state: StateKind
    winner: str | None
    revision: int
    epoch: int
    policy_version: int | None
    updated_at: datetime | None
    totals_as_of: datetime | None
    lag_events: int | None
    warnings: list[str]
    best_arm: BestArmStatus | UnsetType = UNSET  # left out for other policies
    variants: list[VariantStatus]
    allocation_history: list[AllocationAt]


class Readout(msgspec.Struct, frozen=True):
    """What PostgreSQL knows about an experiment at one moment."""

    totals: Sequence[VariantTotals]
    totals_as_of: datetime | None
    latest: AllocationPoint | None
    history: Sequence[AllocationPoint]

    def status(self, experiment: Experiment, *, lag_events: int | None, warnings: list[str]) -> Status:
        """The readout for people and programs."""
        n_variants = len(experiment.definition.variants)
        state = experiment.state
        return Status(
            key=experiment.key,
            state=kind_of(state),
            winner=state.winner if isinstance(state, Stopped) else None,
            revision=experiment.revision,
            epoch=experiment.epoch,
            policy_version=None if self.latest is None else self.latest.version,
            updated_at=None if self.latest is None else self.latest.at,
            totals_as_of=self.totals_as_of,
            lag_events=lag_events,
            warnings=warnings,
            best_arm=self._best_arm(experiment),
            variants=self._variants(experiment),
            allocation_history=[
                AllocationAt(point.at, point.version, point.epoch, point.shares)
                for point in self.history
                if len(point.weights) == n_variants  # a draft may have had other variants
            ],
        )

    def _best_arm(self, experiment: Experiment) -> BestArmStatus | UnsetType:
        decision = best_arm(experiment, self.totals, self.latest)
        if decision is None:
            return UNSET
        ahead = decision.arm if isinstance(decision, Winner) else decision.leader
        return BestArmStatus(
            experiment.definition.variants[ahead].key,
            isinstance(decision, Winner),
            decision.log_evidence,
            decision.log_threshold,
        )

    def _variants(self, experiment: Experiment) -> list[VariantStatus]:
        variants = experiment.definition.variants
        arms = posteriors(experiment.definition, self.totals)
        intervals = [beta_interval(alpha, beta) for alpha, beta in zip(arms.alpha, arms.beta, strict=True)]
        best, loss = probability_best(arms).tolist(), expected_loss(arms).tolist()
        shares = [None] * len(variants) if self.latest is None else self.latest.shares
        return [
            VariantStatus(
                key=variant.key,
                control=variant.control,
                assignments=total.assignments,
                rewards=total.rewards,
                pending=total.pending,
                censored=total.censored,
                mean=total.reward_totals.mean,
                interval=(interval.lower, interval.upper) if total.rewards else None,
                probability_best=probability,
                expected_loss=cost,
                allocation=share,
            )
            for variant, total, interval, probability, cost, share in zip(
                variants, self.totals, intervals, best, loss, shares, strict=True
            )
        ]
