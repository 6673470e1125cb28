"""The readout of an experiment. Pure: definition, totals and allocations in, numbers out; missing is null."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from types import MappingProxyType
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from app.allocation.forgetting import Learned
from app.allocation.freezes import Freeze
from app.allocation.model import NANO, AllocationPoint, VariantTotals, apprentice, best_arm, posteriors
from app.analysis.observed import Cell, DrawnUnits, Observed
from app.analysis.readout.analyze import analyze
from app.analysis.readout.beliefs import (
    DriftBelief,
    ModelBelief,
    SegmentBelief,
    drift_belief,
    model_belief,
    segment_beliefs,
)
from app.analysis.readout.record import Readout, Sensitivity
from app.analysis.signals import SignalTotals, warnings_of
from app.assignment import bucketing
from app.experiments.metrics import REWARD, QuantileOf, Ratio
from app.experiments.model import (
    Definition,
    Experiment,
    FixedPolicy,
    Running,
    StateKind,
    Stopped,
    kind_of,
    kind_of_policy,
)
from app.ledger.units.measures import CellTotals, Measures, measures_of
from app.ledger.units.metric_totals import totals_of
from bandits.allocation import Allocation, compare
from bandits.best import expected_loss, probability_best
from bandits.identification import Winner
from stats.interval import beta_interval
from stats.srm import ArmCounts
from stats.totals import JointTotals, MeanTotals


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


class EpochTotals(msgspec.Struct, frozen=True):
    """The totals of one variant (by its position) in one epoch."""

    epoch: int
    variant: int
    totals: VariantTotals


class UnitCell(msgspec.Struct, frozen=True):
    """The totals of the units of one cell; `crossed`: of those that came to other variants as well."""

    epoch: int
    variant: int
    segment: str
    crossed: bool
    totals: CellTotals


class Drawn(msgspec.Struct, frozen=True):
    """How often a variant was drawn in an epoch, and the sum of its probability over all draws there.

    The sum is in parts of 2**32.
    """

    epoch: int
    variant: int
    assignments: int
    probability_sum: int


class StratumCell(NamedTuple):
    """The totals of one variant in a stratum of shares, with 1 / propensity in nanos beside each outcome."""

    epoch: int
    stratum: int
    variant: int
    totals: CellTotals


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


class ApprenticeStatus(msgspec.Struct, frozen=True):
    """What the apprentice would serve from the same totals now, beside the shares in force.

    `shares` by variant; `moved` is the part of traffic that would go to another variant. `expected_reward` is
    that of an assignment by the apprentice, `served_expected_reward` by the shares in force, both at the
    posterior means: estimates from what the policy in force has gathered.
    """

    kind: str
    shares: dict[str, float]
    moved: float
    expected_reward: float
    served_expected_reward: float


class RolloutStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout of the experiment: where it is, or how it ended.

    `state` is draft, running, paused, completed or rolled_back. `stage` is the position of its stage, null of
    a draft and once it is completed; `share` is the part of the traffic that its canaries hold together.
    `reason` says in words what the last look or decision came to. `ended_at` is null until it ends.
    """

    id: int
    state: str
    canaries: tuple[str, ...]
    stage: int | None
    stages: int
    share: float
    reason: str
    created_at: datetime
    ended_at: datetime | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment now: its totals up to the last commit of the ledger, and what follows from them.

    `lag_events` counts acknowledged events, of all experiments, that are not in the totals yet; null when
    Valkey cannot be asked, which `warnings` then says. They also say what of the feedback does not count.
    `analysis` compares the mean rewards by a method that is valid at every look under this policy, and
    `assumptions` says what it takes for granted. Everything acknowledged before `totals_as_of` is in them.
    `updated_at` is when the allocation in force was computed. `frozen`: the policy holds that allocation,
    because the data are broken. All is as of `read_at`.
    """

    key: str
    state: StateKind
    winner: str | None
    revision: int
    epoch: int
    policy_version: int | None
    updated_at: datetime | None
    totals_as_of: datetime | None
    read_at: datetime
    lag_events: int | None
    warnings: list[str]
    frozen: Freeze | None = None
    best_arm: BestArmStatus | UnsetType = UNSET  # left out for other policies
    apprentice: ApprenticeStatus | UnsetType = UNSET  # left out where there is none
    learned_epochs: list[int] | UnsetType = UNSET  # of policies that learn more than the totals
    models: ModelBelief | UnsetType = UNSET  # of policies that model the context
    segments: list[SegmentBelief] | UnsetType = UNSET  # of segmented_thompson
    drift: DriftBelief | UnsetType = UNSET  # of policies that forget
    variants: list[VariantStatus]
    allocation_history: list[AllocationAt]
    analysis: Readout | None = None
    assumptions: list[str] = []
    rollouts: list[RolloutStatus] | UnsetType = UNSET  # the newest first; left out of statuses that are kept


class Stored(msgspec.Struct, frozen=True):
    """What PostgreSQL knows about an experiment at one moment.

    `epoch_shares` holds the shares of each epoch in which they never moved; None where they did.
    `earlier` are the totals that a warm start began with, `learned` what the policy learns besides, in
    `learned_epochs`.
    """

    totals: Sequence[VariantTotals]
    by_epoch: Sequence[EpochTotals]
    units: Sequence[UnitCell]
    draws: Sequence[Drawn]
    totals_as_of: datetime | None
    read_at: datetime
    wanted: int
    latest: AllocationPoint | None
    history: Sequence[AllocationPoint]
    epoch_shares: Mapping[int, tuple[float, ...] | None]
    earlier: Sequence[VariantTotals] = ()
    learned: Learned = MappingProxyType({})
    frozen: Freeze | None = None
    learned_epochs: Sequence[int] = ()
    signals: Sequence[SignalTotals] = ()
    strata: Sequence[StratumCell] = ()

    def status(self, experiment: Experiment, *, lag_events: int | None, warnings: list[str]) -> Status:
        """The readout for people and programs."""
        definition, state = experiment.definition, experiment.state
        policy = definition.policy
        keys = [variant.key for variant in definition.variants]
        return Status(
            key=experiment.key,
            state=kind_of(state),
            winner=state.winner if isinstance(state, Stopped) else None,
            revision=experiment.revision,
            epoch=experiment.epoch,
            policy_version=None if self.latest is None else self.latest.version,
            updated_at=None if self.latest is None else self.latest.at,
            totals_as_of=self.totals_as_of,
            read_at=self.read_at,
            lag_events=lag_events,
            warnings=[*warnings, *warnings_of(definition, self.signals)],
            frozen=self.frozen,
            best_arm=self._best_arm(experiment),
            apprentice=self._apprentice(experiment),
            learned_epochs=list(self.learned_epochs) or UNSET,
            models=model_belief(policy, self.learned, keys),
            segments=segment_beliefs(policy, self.learned, keys),
            drift=drift_belief(policy, self.learned, keys),
            variants=self._variants(experiment),
            allocation_history=history_of(self.history, len(keys)),
            analysis=self._readout(experiment),
            assumptions=self._assumptions(experiment),
        )

    def _readout(self, experiment: Experiment) -> Readout:
        """By the plan, and where units crossed over, the primary comparisons with these treated otherwise."""
        definition, metrics = experiment.definition, measured_of(experiment.definition).metrics
        planned = analyze(definition.plan, metrics, self.observed(experiment))
        if not any(cell.crossed for cell in self.units):
            return planned
        other: Literal["exclude", "first"] = "first" if definition.plan.crossovers == "exclude" else "exclude"
        plan = replace(definition.plan, crossovers=other)
        turned = replace(experiment, definition=replace(definition, plan=plan))
        primary = [metric for metric in metrics if metric.role == "primary"]
        otherwise = analyze(plan, primary, self.observed(turned))
        return replace(
            planned,
            sensitivity=tuple(
                Sensitivity(
                    metric=metric.key,
                    variant=one.variant,
                    crossovers=other,
                    effect=one.effect,
                    interval=one.interval,
                    verdict=one.verdict,
                )
                for metric in otherwise.metrics
                for one in metric.variants
                if not one.control
            ),
        )

    def observed(self, experiment: Experiment) -> Observed:
        """Rewards and metrics as an analysis reads them."""
        definition = experiment.definition
        keys = [variant.key for variant in definition.variants]
        control = definition.control_index
        measures = measures_of(definition.metrics, definition.plan, definition.stickiness)
        cells = self._reward_cells(keys) if measures is None else self._unit_cells(keys, measures)
        adaptive = any(shares is None for shares in self.epoch_shares.values())
        adaptive = adaptive or not isinstance(experiment.definition.policy, FixedPolicy)
        return Observed(
            variants=tuple(keys),
            control=keys[control],
            cells=cells,
            adaptive=adaptive,
            drawn=self._drawn(keys, measured_of(definition)) if adaptive else (),
            fixed_epochs=tuple(epoch for epoch, shares in self.epoch_shares.items() if shares is not None),
            assignments=self._assignments(experiment),
            crossovers=sum(
                cell.totals.units for cell in self.units if cell.crossed and cell.variant < len(keys)
            ),
            crossovers_counted=definition.plan.crossovers == "first",
            days=self._days(experiment),
            covariates=_covariates(measures),
            totals_age_s=self._totals_age_s(experiment),
        )

    def _reward_cells(self, keys: Sequence[str]) -> list[Cell]:
        return [
            Cell(part.epoch, keys[part.variant], part.totals.assignments, {REWARD: _moments(part.totals)})
            for part in self.by_epoch
            if part.variant < len(keys)
        ]

    def _unit_cells(self, keys: Sequence[str], measures: Measures) -> list[Cell]:
        """Units that crossed over left out, or counted for their first variant, as the plan says."""
        cells = []
        fullest = _fullest(self.units, measures)
        for cell in self.units:
            if cell.variant >= len(keys) or (cell.crossed and measures.plan.crossovers == "exclude"):
                continue
            found = {
                metric.key: totals
                for metric, sums in zip(measures.metrics, cell.totals.metrics, strict=True)
                if (totals := totals_of(metric, sums)) is not None
            }
            joint = None if fullest is None else found.get(fullest)
            before = None
            if isinstance(joint, JointTotals) and joint.dimension > 1:
                before = joint.select(*range(1, joint.dimension))
            cells.append(Cell(cell.epoch, keys[cell.variant], cell.totals.units, found, cell.segment, before))
        return _alike(cells, measures)

    def _drawn(self, keys: Sequence[str], measures: Measures) -> list[DrawnUnits]:
        """Units by the shares that they were drawn with."""
        found = []
        for cell in self.strata:
            pairs = zip(measures.metrics, cell.totals.metrics, strict=True)
            known = {
                metric.key: totals
                for metric, sums in pairs
                if isinstance(totals := totals_of(metric, sums), JointTotals)
            }
            if cell.variant < len(keys):
                found.append(DrawnUnits(cell.epoch, cell.stratum, keys[cell.variant], known))
        return found

    def _assignments(self, experiment: Experiment) -> list[ArmCounts]:
        """Draws beside what was logged of their probabilities, by epoch.

        Without stickiness each assignment is a draw, else each unit is. Where shares moved, the sums that the
        ledger keeps stand for them: with stickiness those of each unit's first exposure in the experiment,
        for it comes back to where it was. For the same reason only the latest epoch tells of a fixed split of
        sticky units. Nothing is kept of shares by context.
        """
        definition = experiment.definition
        n_variants = len(definition.variants)
        if not isinstance(definition.policy, FixedPolicy):
            return _summed(self.draws, n_variants)
        drawn: dict[int, list[int]] = {}
        if definition.stickiness == "none":
            draws = [(part.epoch, part.variant, part.totals.assignments) for part in self.by_epoch]
        else:
            latest = max((cell.epoch for cell in self.units), default=0)
            draws = [
                (cell.epoch, cell.variant, cell.totals.units) for cell in self.units if cell.epoch == latest
            ]
        for epoch, variant, count in draws:
            shares = self.epoch_shares.get(epoch)
            if shares is not None and len(shares) == n_variants and variant < n_variants:
                drawn.setdefault(epoch, [0] * n_variants)[variant] += count
        known = {epoch: self.epoch_shares[epoch] for epoch in drawn}
        constant = [ArmCounts(tuple(drawn[epoch]), shares) for epoch, shares in known.items() if shares]
        if definition.stickiness != "none":
            return constant
        return constant + _summed([one for one in self.draws if one.epoch not in drawn], n_variants)

    def _days(self, experiment: Experiment) -> float | None:
        """Since the start, as of the totals."""
        started = getattr(experiment.state, "started_at", None)
        if started is None or self.totals_as_of is None or self.totals_as_of <= started:
            return None
        return float((self.totals_as_of - started).total_seconds() / 86_400)

    def _totals_age_s(self, experiment: Experiment) -> float | None:
        """Since when events may be missing, of an experiment to which events come."""
        if self.totals_as_of is None or not isinstance(experiment.state, Running):
            return None
        return float((self.read_at - self.totals_as_of).total_seconds())

    def _assumptions(self, experiment: Experiment) -> list[str]:
        assumed = []
        if experiment.definition.stickiness != "none" and len(self.epoch_shares) > 1:
            assumed.append("a unit that comes back in a later epoch is taken as another one")
        if not isinstance(experiment.definition.policy, FixedPolicy):
            assumed.append("the mean reward of a variant is taken not to drift over time")
        return assumed

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

    def _apprentice(self, experiment: Experiment) -> ApprenticeStatus | UnsetType:
        definition = experiment.definition
        weights = apprentice(experiment, self.totals)
        if definition.apprentice is None or weights is None or self.latest is None:
            return UNSET
        served = Allocation(np.array(self.latest.shares))
        shadow = Allocation(np.array(weights) / bucketing.WHOLE)
        mean = posteriors(definition, self.totals, self.earlier).mean
        found = compare(served, shadow, mean)
        earned = float(served.shares @ mean)
        keys = (variant.key for variant in definition.variants)
        return ApprenticeStatus(
            kind_of_policy(definition.apprentice),
            dict(zip(keys, shadow.shares.tolist(), strict=True)),
            found.moved,
            earned + found.gain,
            earned,
        )

    def _variants(self, experiment: Experiment) -> list[VariantStatus]:
        variants = experiment.definition.variants
        arms = posteriors(experiment.definition, self.totals, self.earlier)
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


def history_of(points: Sequence[AllocationPoint], n_variants: int) -> list[AllocationAt]:
    """Allocations as they are shown. A draft may have had other variants: those points are left out."""
    return [
        AllocationAt(point.at, point.version, point.epoch, point.shares)
        for point in points
        if len(point.weights) == n_variants
    ]


def _summed(draws: Sequence[Drawn], n_variants: int) -> list[ArmCounts]:
    """Of each epoch; a draft may have had other variants."""
    epochs: defaultdict[int, list[Drawn]] = defaultdict(list)
    for one in draws:
        epochs[one.epoch].append(one)
    return [
        ArmCounts.from_sums(
            [one.assignments for one in found],
            [Fraction(one.probability_sum, bucketing.WHOLE) for one in found],
        )
        for found in epochs.values()
        if [one.variant for one in found] == list(range(n_variants)) and any(one.assignments for one in found)
    ]


def measured_of(definition: Definition) -> Measures:
    """What the readout shows: at least the reward."""
    measures = measures_of(definition.metrics, definition.plan, definition.stickiness)
    return Measures.of((), definition.plan) if measures is None else measures


def _alike(cells: list[Cell], measures: Measures) -> list[Cell]:
    """With covariates beside a ratio in all cells or none: totals begun without them do not add to others."""
    ratios = [metric.key for metric in measures.metrics if isinstance(metric.measure, Ratio)]
    for key in ratios:
        known = [cell.metrics[key] for cell in cells if key in cell.metrics]
        sizes = {one.dimension for one in known if isinstance(one, JointTotals)}
        if len(sizes) > 1:
            cells = [
                replace(cell, metrics={**cell.metrics, key: totals.select(0, 1)})
                if isinstance(totals := cell.metrics.get(key), JointTotals)
                else cell
                for cell in cells
            ]
    return cells


def _covariates(measures: Measures | None) -> tuple[str, ...]:
    """In the order in which totals hold them: values, then whether each is missing."""
    names = () if measures is None else measures.plan.covariates
    return (*names, *(f"{name} (missing)" for name in names))


def _fullest(cells: Sequence[UnitCell], measures: Measures) -> str | None:
    """The mean or proportion that most units have a value of: it knows most of their covariates."""
    if not measures.plan.covariates:
        return None
    units = {
        metric.key: sum(sums[0] for cell in cells if not isinstance(sums := cell.totals.metrics[place], dict))
        for place, metric in enumerate(measures.metrics)
        if not isinstance(metric.measure, Ratio | QuantileOf)
    }
    return max(units, key=lambda key: units[key], default=None)


def _moments(total: VariantTotals) -> MeanTotals:
    """Exact until the last rounding: sums are whole nanos."""
    return MeanTotals.from_sums(
        total.rewards, Fraction(total.reward_sum, NANO), Fraction(total.reward_square_sum, NANO**2)
    )
