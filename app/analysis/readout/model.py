"""The status of an experiment from definition, totals and allocations. Pure; missing is null."""

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from app.allocation.forgetting import Learned
from app.allocation.freezes import Freeze
from app.allocation.model import AllocationPoint, VariantTotals, posteriors, shadow_weights, standing_winner
from app.analysis.descriptive import MetricFigures, figures_of, measuring
from app.analysis.observed import Observed
from app.analysis.readout.analyze import analyze, metric_readouts
from app.analysis.readout.beliefs import (
    DriftBelief,
    ModelBelief,
    SegmentBelief,
    drift_belief,
    model_belief,
    segment_beliefs,
)
from app.analysis.readout.conclusion import Beliefs, conclusion_of
from app.analysis.readout.forecast import Serving
from app.analysis.readout.record import MetricReadout, Readout, Sensitivity, VariantReadout
from app.analysis.readout.stopping import stopping
from app.analysis.signals import SignalTotals, warnings_of
from app.analysis.stored import StoredTotals, padded
from app.assignment import bucketing
from app.experiments.metric_history import Backfill, MetricChange, metric_history_of
from app.experiments.model import Experiment, Paused, StateKind, Stopped, kind_of
from app.experiments.policies import BestArmPolicy, FixedPolicy, Policy
from app.experiments.policies.rule import AdaptivePolicy
from app.experiments.reward_text import reward_in_words
from app.ledger.units.measures import Measures, measures_of
from bandits.allocation import Allocation, compare
from bandits.arms import BetaArms
from bandits.best import expected_loss, probability_best
from bandits.identification import Decision, Winner
from stats.interval import beta_interval


class VariantStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One variant now.

    `rewards` are resolved, `pending` wait for their signals or horizon, `censored` ended in silence that the
    definition does not count. `interval` holds the mean reward with a posterior probability of 95 %.
    `probability_best` and `expected_loss` (of choosing it for good, in units of reward) are the posteriors',
    whatever the policy. `allocation` is its propensity while the experiment runs; null before the first.
    A `retired` variant is not compared by posteriors: `probability_best` and `expected_loss` are null.
    """

    key: str
    control: bool
    assignments: int
    rewards: int
    pending: int
    censored: int
    mean: float | None
    interval: tuple[float, float] | None
    probability_best: float | None
    expected_loss: float | None
    allocation: float | None
    retired: bool = False


class AllocationAt(msgspec.Struct, frozen=True):
    """The shares from `at` on, in the order of the variants."""

    at: datetime
    policy_version: int
    epoch: int
    shares: tuple[float, ...]


class BestArmStatus(msgspec.Struct, frozen=True):
    """The progress of `best_arm`: the variant that leads or, if `decided`, has won.

    It wins once `log_evidence`, the least against a rival, reaches `log_threshold`. The evidence is
    that of the intervals of the readout, so it holds at every look and under any drift.
    """

    variant: str
    decided: bool
    log_evidence: float
    log_threshold: float


class ShadowPolicyStatus(msgspec.Struct, frozen=True):
    """The shares that the shadow policy would serve from the same totals now.

    `shares` by variant; `moved` is the part of traffic that would go to another variant.
    `expected_reward` is that of an assignment by the shadow policy, `served_expected_reward` by the
    shares in force, both at the posterior means: estimates from what the policy in force has
    gathered.
    """

    kind: str
    shares: dict[str, float]
    moved: float
    expected_reward: float
    served_expected_reward: float


class RolloutStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout of the experiment: where it is, or how it ended.

    `state` is draft, running, paused, completed or rolled_back. `stage` is the position of its
    stage, null of a draft and once it is completed; `share` is the part of the traffic that its
    canaries hold together. `reason` is the result of the last look or decision in words. `ended_at`
    is null until it ends.
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

    `lag_events` counts acknowledged events, of all experiments, that are not in the totals yet;
    null when Valkey cannot be asked, which `warnings` then says. They also say what of the feedback
    does not count. `conclusion` says in words what to do, which number decides, why the others
    differ, and what is missing. `analysis` compares the mean rewards by a method that is valid at
    every look under this policy, and `assumptions` says what it takes for granted. Everything
    acknowledged before `totals_as_of` is in them. `updated_at` is when the allocation in force was
    computed. `frozen`: the policy holds that allocation, because the data are broken. All is as of
    `read_at`. `descriptive` has the raw figures of every metric, which prove nothing by themselves.
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
    shadow_policy: ShadowPolicyStatus | UnsetType = UNSET  # left out where there is none
    learned_epochs: list[int] | UnsetType = UNSET  # of policies that learn more than the totals
    models: ModelBelief | UnsetType = UNSET  # of policies that model the context
    segments: list[SegmentBelief] | UnsetType = UNSET  # of segmented_thompson
    drift: DriftBelief | UnsetType = UNSET  # of policies that forget
    variants: list[VariantStatus]
    allocation_history: list[AllocationAt]
    conclusion: str = ""
    analysis: Readout | None = None
    descriptive: list[MetricFigures] = []
    backfill: Backfill | None = None  # the last one, after a change of what is measured
    assumptions: list[str] = []
    rollouts: list[RolloutStatus] | UnsetType = UNSET  # the newest first; left out of statuses that are kept
    reward_in_words: str = ""


class Stored(StoredTotals, frozen=True, kw_only=True):
    """All stored data of an experiment at one moment.

    `earlier` are the totals that a warm start began with. `learned` is what the policy learned in
    addition to the totals, in `learned_epochs`.
    """

    totals: Sequence[VariantTotals]
    wanted: int
    latest: AllocationPoint | None
    history: Sequence[AllocationPoint]
    earlier: Sequence[VariantTotals] = ()
    learned: Learned = MappingProxyType({})
    frozen: Freeze | None = None
    learned_epochs: Sequence[int] = ()
    signals: Sequence[SignalTotals] = ()
    metric_changes: Sequence[MetricChange] = ()
    backfill: Backfill | None = None

    def status(self, experiment: Experiment, *, lag_events: int | None, warnings: list[str]) -> Status:
        """Return the status for people and programs."""
        definition, state = experiment.definition, experiment.state
        policy = definition.policy
        keys = [variant.key for variant in definition.variants]
        observed = self.observed(experiment)
        readout, variants = self._readout(experiment, observed), self._variants(experiment)
        best_arm = self._best_arm(experiment, observed)
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
            warnings=[*warnings, *warnings_of(definition, self.signals, self._n_resolved)],
            frozen=self.frozen,
            best_arm=best_arm,
            shadow_policy=self._shadow_policy(experiment, observed),
            learned_epochs=list(self.learned_epochs) or UNSET,
            models=model_belief(policy, self.learned, keys),
            segments=segment_beliefs(policy, self.learned, keys, definition.active),
            drift=drift_belief(policy, self.learned, keys),
            variants=variants,
            allocation_history=history_of(self.history, len(keys)),
            conclusion=_of_state(experiment) + conclusion_of(readout, _beliefs(policy, variants, best_arm)),
            analysis=readout,
            descriptive=self._descriptive(experiment, readout, observed),
            backfill=metric_history_of(experiment, self.metric_changes, self.backfill).backfill,
            reward_in_words=reward_in_words(definition.reward),
            assumptions=self._assumptions(experiment),
        )

    @property
    def _n_resolved(self) -> int:
        """Number of assignments whose outcome is known."""
        return sum(total.rewards + total.censored for total in self.totals)

    def _readout(self, experiment: Experiment, observed: Observed) -> Readout:
        """Analyze by the plan; with crossovers also by their other treatment."""
        definition, metrics = experiment.definition, measured_of(experiment).metrics
        exploratory = experiment.exploratory
        metrics = tuple(metric for metric in metrics if metric.key not in exploratory)
        serving = self._serving(experiment)
        analyzed = analyze(definition.plan, metrics, observed, serving)
        planned = self._with_exploratory(experiment, analyzed, observed)
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
                    variant=variant.variant,
                    crossovers=other,
                    effect=variant.effect,
                    interval=variant.interval,
                    verdict=variant.verdict,
                )
                for metric in otherwise.metrics
                for variant in metric.variants
                if not variant.control
            ),
        )

    def _with_exploratory(self, experiment: Experiment, readout: Readout, observed: Observed) -> Readout:
        """Add the exploratory metrics, and the reason where a metric is still being measured."""
        measures, exploratory = measured_of(experiment), experiment.exploratory
        added = [metric for metric in measures.metrics if metric.key in exploratory]
        plan = experiment.definition.plan
        others = [replace(metric, exploratory=True) for metric in metric_readouts(plan, added, observed)]
        share = 0.0 if self.backfill is None else self.backfill.share
        shown = [
            _unmeasured(metric, share) if metric.key in measures.unfinished else metric
            for metric in (*readout.metrics, *others)
        ]
        return replace(readout, metrics=tuple(shown))

    def _descriptive(
        self, experiment: Experiment, readout: Readout, observed: Observed
    ) -> list[MetricFigures]:
        measures = measured_of(experiment)
        history = metric_history_of(experiment, self.metric_changes, self.backfill)
        reasons = {
            metric.key: next((variant.reason for variant in metric.variants if variant.reason), "")
            for metric in readout.metrics
            if metric.method is None
        }
        return figures_of(
            measures.metrics,
            observed,
            versions={version.key: version for version in history.metrics},
            unfinished=measures.unfinished,
            backfill=history.backfill,
            reasons=reasons,
            has_covariates=bool(experiment.definition.plan.covariates),
        )

    def _serving(self, experiment: Experiment) -> Serving | None:
        """Return the shares in force; None if a request or a rollout decides about them."""
        definition, latest = experiment.definition, self.latest
        if latest is None or definition.policy.reads == "contexts" or experiment.held:
            return None
        variants, policy = definition.variants, definition.policy
        served = padded(latest.shares, len(variants))
        shares = {variants[index].key: served[index] for index in definition.active}
        return Serving(shares, policy.exploration_floor if isinstance(policy, AdaptivePolicy) else None)

    @staticmethod
    def _decision(experiment: Experiment, policy: Policy, observed: Observed) -> Decision | None:
        """Return whether this policy would know the best variant; None: it decides nothing."""
        if not isinstance(policy, BestArmPolicy):
            return None
        decision = stopping(policy, experiment.definition.plan, observed)
        if decision is None:
            return None
        keys = [variant.key for variant in experiment.definition.variants]
        if isinstance(decision, Winner):
            return dataclasses.replace(decision, arm=keys.index(observed.variants[decision.arm]))
        return dataclasses.replace(decision, leader=keys.index(observed.variants[decision.leader]))

    def _assumptions(self, experiment: Experiment) -> list[str]:
        assumed = []
        if experiment.definition.stickiness != "none" and len(self.epoch_shares) > 1:
            assumed.append("a unit that returns in a later epoch counts as another unit")
        if not isinstance(experiment.definition.policy, FixedPolicy):
            assumed.append(
                "probability_best and expected_loss assume that mean rewards do not drift; "
                "comparisons do not assume it"
            )
        return assumed

    def _best_arm(self, experiment: Experiment, observed: Observed) -> BestArmStatus | UnsetType:
        policy = experiment.definition.policy
        decision = standing_winner(experiment, self.latest) or self._decision(experiment, policy, observed)
        if not policy.decides or decision is None:
            return UNSET
        ahead = decision.arm if isinstance(decision, Winner) else decision.leader
        return BestArmStatus(
            experiment.definition.variants[ahead].key,
            isinstance(decision, Winner),
            decision.log_evidence,
            decision.log_threshold,
        )

    def _shadow_policy(self, experiment: Experiment, observed: Observed) -> ShadowPolicyStatus | UnsetType:
        definition = experiment.definition
        if definition.shadow_policy is None or self.latest is None:
            return UNSET
        decision = self._decision(experiment, definition.shadow_policy, observed)
        winner = decision if isinstance(decision, Winner) else None
        weights = shadow_weights(experiment, self.totals, winner)
        served = Allocation(np.array(self.latest.shares))
        shadow = Allocation(np.array(weights) / bucketing.WHOLE)
        mean = posteriors(definition, self.totals, self.earlier).mean
        found = compare(served, shadow, mean)
        earned = float(served.shares @ mean)
        keys = (variant.key for variant in definition.variants)
        return ShadowPolicyStatus(
            definition.shadow_policy.kind,
            dict(zip(keys, shadow.shares.tolist(), strict=True)),
            found.moved,
            earned + found.gain,
            earned,
        )

    def _variants(self, experiment: Experiment) -> list[VariantStatus]:
        variants = experiment.definition.variants
        arms = posteriors(experiment.definition, self.totals, self.earlier)
        intervals = [beta_interval(alpha, beta) for alpha, beta in zip(arms.alpha, arms.beta, strict=True)]
        active = experiment.definition.active
        served = BetaArms(arms.alpha[list(active)], arms.beta[list(active)])
        best = dict(zip(active, probability_best(served).tolist(), strict=True))
        loss = dict(zip(active, expected_loss(served).tolist(), strict=True))
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
                probability_best=best.get(index),
                expected_loss=loss.get(index),
                allocation=share,
                retired=variant.retired,
            )
            for index, (variant, total, interval, share) in enumerate(
                zip(variants, self.totals, intervals, shares, strict=True)
            )
        ]


def _of_state(experiment: Experiment) -> str:
    """Say that no unit is drawn at present, if so."""
    definition, state = experiment.definition, experiment.state
    if isinstance(state, Stopped):
        return f"Stopped: {state.winner or definition.control_key} gets all traffic. "
    if isinstance(state, Paused):
        return "Paused: the control gets all traffic, so no unit comes. "
    return "Killed: the control gets all traffic, so no unit comes. " if experiment.killed else ""


def _beliefs(
    policy: Policy, variants: Sequence[VariantStatus], best_arm: BestArmStatus | UnsetType
) -> Beliefs:
    """Return what the conclusion has to reconcile with the readout."""
    served = [variant for variant in variants if not variant.retired]
    ahead = None if isinstance(best_arm, UnsetType) else best_arm
    return Beliefs(
        probability_best=[
            (variant.key, variant.probability_best)
            for variant in served
            if variant.probability_best is not None
        ],
        rewards=sum(variant.rewards for variant in served),
        shares=[(variant.key, variant.allocation) for variant in served if variant.allocation is not None],
        adaptive=policy.moves,
        stopped=ahead.variant if ahead is not None and ahead.decided else None,
        leads=ahead.variant if ahead is not None and not ahead.decided else None,
    )


def history_of(points: Sequence[AllocationPoint], n_variants: int) -> list[AllocationAt]:
    """Return allocations as they are shown, with 0 for variants that were added later.

    A draft may have had more variants: those points are left out.
    """
    return [
        AllocationAt(point.at, point.version, point.epoch, padded(point.shares, n_variants))
        for point in points
        if len(point.weights) <= n_variants
    ]


def _unmeasured(metric: MetricReadout, share: float) -> MetricReadout:
    """Return the readout of a metric whose figures are not complete: there are none."""
    reason = measuring(share)
    variants = tuple(
        VariantReadout(
            variant=variant.variant,
            control=variant.control,
            units=0,
            missing=0,
            verdict=None if variant.control else "not_enough_data",
            reason="" if variant.control else reason,
        )
        for variant in metric.variants
    )
    return replace(metric, variants=variants)


def measured_of(experiment: Experiment) -> Measures:
    """Return the measures that the readout shows: at least the reward."""
    definition, layouts = experiment.definition, experiment.layouts
    measures = measures_of(definition.metrics, definition.plan, definition.stickiness, layouts)
    return Measures.of((), definition.plan) if measures is None else measures
