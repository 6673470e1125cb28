"""Changes of the metrics of a running experiment: which are allowed, and their history. Pure.

Metrics are functions of the log, so that the ledger can measure them later. But a metric that is
chosen with the data in view proves less: it is exploratory, unless a person re-opens the plan.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise

import msgspec
from msgspec.structs import replace

from app.core.errors import Conflict, FieldError
from app.experiments.metrics import REWARD, Metric
from app.experiments.model import Definition, Experiment
from app.experiments.plan import Segments
from app.experiments.policies.constrained_thompson import ConstrainedThompsonPolicy
from app.experiments.reward import Reward


class MetricChange(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics from `at` on, with the author and the reason of the change.

    `by` is null if no person is known. `reopened`: the change re-opened the plan. The first change
    is the start.
    """

    number: int
    at: datetime
    by: str | None
    reason: str
    reopened: bool
    metrics: tuple[Metric, ...]
    segments: Segments | None
    reward: Reward


class MetricEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A change in words: the keys of the metrics that it added, corrected and removed.

    `reward` and `segments`: it changed these too.
    """

    number: int
    at: datetime
    by: str | None
    reason: str
    reopened: bool
    added: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    reward: bool = False
    segments: bool = False


class MetricVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A metric as it is now.

    `version` counts its definitions from 1. `since` is when the present one came into force; null:
    it was there at the start. `exploratory`: it is not part of the plan. `complete`: every unit is
    measured.
    """

    key: str
    version: int
    since: datetime | None
    exploratory: bool
    complete: bool
    metric: Metric


class Backfill(msgspec.Struct, frozen=True, kw_only=True):
    """The pass over the log that measures what has changed. `share` of it is done.

    `metrics` are those that it measures; until it has finished they show no figures. `error` is why
    its last attempt failed; it is tried again.
    """

    share: float
    done: int
    expected: int | None
    started_at: datetime
    finished_at: datetime | None
    error: str | None
    metrics: tuple[str, ...] = ()


class MetricHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of an experiment, every change after the start, and the latest backfill."""

    key: str
    metrics: tuple[MetricVersion, ...]
    changes: tuple[MetricEvent, ...]
    backfill: Backfill | None


def metric_history_of(
    experiment: Experiment, changes: Sequence[MetricChange], backfill: Backfill | None
) -> MetricHistory:
    """Return the history of an experiment from its stored changes, oldest first."""
    unfinished = unfinished_metrics(experiment)
    return MetricHistory(
        key=experiment.key,
        metrics=tuple(
            _version(metric, changes, exploratory=experiment.exploratory, unfinished=unfinished)
            for metric in experiment.definition.metrics
        ),
        changes=tuple(_event(before, after) for before, after in pairwise(changes)),
        backfill=None if backfill is None else replace(backfill, metrics=tuple(sorted(unfinished))),
    )


def unfinished_metrics(experiment: Experiment) -> frozenset[str]:
    """Return the keys of the metrics, the reward among them, that a backfill has yet to measure."""
    earlier = experiment.layouts.earlier
    metrics = experiment.definition.metrics
    unfinished = {
        metric.key
        for metric in metrics
        if not all(_measures(layout.metrics, metric) and layout.measured for layout in earlier)
    }
    if not all(layout.reward and layout.measured for layout in earlier):
        unfinished.add(REWARD)
    return frozenset(unfinished)


def _measures(metrics: Sequence[Metric], metric: Metric) -> bool:
    return any((other.key, other.measure) == (metric.key, metric.measure) for other in metrics)


def _version(
    metric: Metric,
    changes: Sequence[MetricChange],
    *,
    exploratory: frozenset[str],
    unfinished: frozenset[str],
) -> MetricVersion:
    version, since, last = 0, None, None
    for change in changes:
        present = next((other for other in change.metrics if other.key == metric.key), None)
        if present is not None and present != last:
            version, since = version + 1, None if change.number == 1 else change.at
            last = present
    return MetricVersion(
        key=metric.key,
        version=max(version, 1),
        since=since,
        exploratory=metric.key in exploratory,
        complete=metric.key not in unfinished,
        metric=metric,
    )


def _event(before: MetricChange, after: MetricChange) -> MetricEvent:
    old = {metric.key: metric for metric in before.metrics}
    new = {metric.key: metric for metric in after.metrics}
    return MetricEvent(
        number=after.number,
        at=after.at,
        by=after.by,
        reason=after.reason,
        reopened=after.reopened,
        added=tuple(key for key in new if key not in old),
        corrected=tuple(key for key in new if key in old and new[key] != old[key]),
        removed=tuple(key for key in old if key not in new),
        reward=before.reward != after.reward,
        segments=before.segments != after.segments,
    )


# Changes


def check_change(experiment: Experiment, after: Definition, *, reopen: bool) -> None:
    """Refuse changes of what decides, and of what the log no longer determines.

    Raises Conflict naming each field.
    """
    before = experiment.definition
    errors = [
        *_plan_errors(before, after),
        *_reward_errors(before, after, reopen=reopen),
        *_policy_errors(before, after),
        *([] if reopen else _primary_errors(experiment, after)),
    ]
    if errors:
        raise Conflict("; ".join(f"{error.field}: {error.reason}" for error in errors), errors=tuple(errors))


def check_readers(before: Experiment, after: Experiment, readers: Mapping[str, str]) -> None:
    """Raise Conflict if a metric that a rollout reads is removed or measured differently.

    `readers` names the rollout that reads each metric, by key.
    """
    kept = {metric.key: metric.measure for metric in after.definition.metrics}
    lost = [
        (metric.key, readers[metric.key])
        for metric in before.definition.metrics
        if metric.key in readers and kept.get(metric.key) != metric.measure
    ]
    if lost:
        errors = tuple(
            FieldError(
                "metrics",
                f"{key!r} decides in {reader}: complete it or roll it back before {key!r} changes",
            )
            for key, reader in lost
        )
        raise Conflict("; ".join(error.reason for error in errors), errors=errors)


def planned_after(experiment: Experiment, *, reopen: bool) -> tuple[Metric, ...] | None:
    """Return the metrics of the plan after a change of the definition."""
    if reopen:
        return None
    return experiment.definition.metrics if experiment.planned is None else experiment.planned


def _plan_errors(before: Definition, after: Definition) -> Iterator[FieldError]:
    if replace(before.plan, segments=after.plan.segments) != after.plan:
        reason = "only segments can change after the start: stop it and create a new experiment"
        yield FieldError("plan", reason)


def _reward_errors(before: Definition, after: Definition, *, reopen: bool) -> Iterator[FieldError]:
    if before.reward == after.reward:
        return
    if before.reward.horizon_s != after.reward.horizon_s:
        reason = (
            f"cannot change after the start, because it is the deadline of assignments in the log; "
            f"it is {before.reward.horizon_s:g}"
        )
        yield FieldError("reward.horizon_s", reason)
    if not reopen:
        reason = (
            'decides what the policy learns: send "reopen_plan": true and a "reason",'
            " or create a new experiment"
        )
        yield FieldError("reward", reason)


def _policy_errors(before: Definition, after: Definition) -> Iterator[FieldError]:
    """Yield metrics whose figures steer the allocation: they must not be half-filled."""
    policy = before.policy
    if not isinstance(policy, ConstrainedThompsonPolicy) or after.policy != before.policy:
        return
    for metric in before.metrics:
        if metric.key in policy.metrics and not _measures(after.metrics, metric):
            reason = f"the policy reads {metric.key!r}: add the new one under another key, then name it there"
            yield FieldError("metrics", reason)


def _primary_errors(experiment: Experiment, after: Definition) -> Iterator[FieldError]:
    """Yield changes of primary metrics. Only a re-opened plan may change what decides."""
    hint = 'decides what is better: send "reopen_plan": true and a "reason" to change that'
    before = {metric.key: metric for metric in experiment.definition.metrics if metric.role == "primary"}
    now = {metric.key: metric for metric in after.metrics}
    for key, metric in before.items():
        if key not in now:
            yield FieldError("metrics", f"the primary metric {key!r} {hint}")
        elif now[key] != metric:
            yield FieldError(f"metrics[{list(now).index(key)}]", f"the primary metric {key!r} {hint}")
    for index, metric in enumerate(after.metrics):
        if metric.role == "primary" and metric.key not in before:
            yield FieldError(f"metrics[{index}].role", f"a primary metric {hint}, or add it as secondary")
