"""Evaluation of a policy: estimates, overlap with the log, and warnings. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from app.allocation.model import NANO
from app.core.errors import UnprocessableInput
from app.evaluation.targets import FOLDS, Rows, features_of, shares, target, vectors
from app.experiments.model import Definition
from bandits import evaluation
from bandits.evaluation import Served, TooLittleOverlap, WeightTotals
from bandits.features import Feature
from bandits.totals import FloatArray
from stats.errors import InsufficientData

Method = Literal["ips", "self_normalised", "doubly_robust", "self_normalised_doubly_robust"]
_RARE_ROWS = 30


class EvaluationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request: the policy to evaluate, and the part of the log.

    `policy` is a name, or an object as in a definition; `fixed` alone is an even split. `features`
    are what predicts rewards for the doubly robust estimate; null: those of the policy. `since` and
    `until` limit the times of assignment.
    """

    policy: str | dict[str, Any]
    features: tuple[Feature, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    level: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.95


class Log(msgspec.Struct, frozen=True):
    """The log as read: rewarded rows, and how many assignments have no reward that counts.

    `sampled`: the log is too long, and the rows are those of a random part of the units.
    """

    rows: Rows
    pending: int
    censored: int
    sampled: bool


class Estimate(msgspec.Struct, frozen=True):
    """A mean reward per request with its standard error; the interval is for one look."""

    value: float
    standard_error: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, estimate: evaluation.Estimate) -> "Estimate":
        """Convert an estimate to its JSON form."""
        return cls(
            estimate.value, estimate.standard_error, (estimate.interval.lower, estimate.interval.upper)
        )


class Overlap(msgspec.Struct, frozen=True):
    """Measures of how much the log says about the policy.

    A row's weight is the policy's share of the served variant over its propensity. `effective_rows`
    rows of the policy itself would be as informative as this log. `largest_weight` is that of one
    row, and `largest_weight_share` its part of the sum. `mean_weight` is 1 in expectation.
    """

    rows: int
    effective_rows: float
    largest_weight: float
    largest_weight_share: float
    mean_weight: float


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The reward per request that the policy would have earned on the log, and what the log earned.

    `estimates` are four ways to the same number: read `doubly_robust`, and be careful if they
    disagree. `anytime_interval` holds at every look at a growing log, and is wider. `shares` is
    what the policy would have served on average. `fitted` says how learning was kept apart from
    judging. `pending` and `censored` assignments have no reward and are left out.
    """

    experiment: str
    policy: dict[str, Any]
    summary: str
    rows: int
    units: int
    pending: int
    censored: int
    sampled: bool
    logged: Estimate
    estimates: dict[Method, Estimate]
    anytime_interval: tuple[float, float]
    shares: dict[str, float]
    overlap: Overlap
    fitted: str
    warnings: list[str]


def evaluate(definition: Definition, request: EvaluationRequest, log: Log) -> Evaluation:
    """Evaluate the policy of the request on the log.

    Raises InvalidInput if the policy does not fit the experiment. Raises UnprocessableInput if the
    log cannot answer: no rewards, contexts that do not fit the features, too little overlap.
    """
    policy = target(request.policy, definition)
    rows = _first_of_units(log.rows) if definition.stickiness != "none" else log.rows
    if len(rows.arms) < FOLDS:
        missing = f"{len(rows.arms)} assignments have a reward that counts, {log.pending} wait for theirs"
        raise UnprocessableInput(f"needs at least {FOLDS} rewards: {missing}", field="experiment")
    policy_features = features_of(policy)
    contexts = vectors(policy_features, rows.contexts, field="policy.features")
    if request.features is not None and request.features != policy_features:
        contexts = vectors(request.features, rows.contexts, field="features")
    targets = shares(policy, definition, rows)
    served = Served(rows.arms, rows.rewards / NANO, rows.propensities, targets)
    even = WeightTotals.of_rows(np.ones(len(rows.arms)), served.rewards)
    try:
        estimates = _estimates(served, evaluation.cross_fitted(contexts, served, folds=FOLDS), request.level)
        logged = evaluation.ips(even, level=request.level)
    except TooLittleOverlap as error:
        raise UnprocessableInput(_with_reasons(str(error), served, definition), field="policy") from error
    except InsufficientData as error:
        raise UnprocessableInput(str(error), field="experiment") from error
    overlap, weights = estimates["ips"].overlap, served.weights
    anytime = evaluation.anytime_interval(served, level=request.level)
    spelled: dict[str, Any] = msgspec.to_builtins(policy)
    return Evaluation(
        experiment=definition.key,
        policy=spelled,
        summary=_summary(spelled["kind"], estimates["doubly_robust"], logged, request.level),
        rows=len(rows.arms),
        units=len(np.unique(rows.units)),
        pending=log.pending,
        censored=log.censored,
        sampled=log.sampled,
        logged=Estimate.of(logged),
        estimates={method: Estimate.of(estimate) for method, estimate in estimates.items()},
        anytime_interval=(anytime.lower, anytime.upper),
        shares=_mean_shares(targets, definition),
        overlap=Overlap(
            overlap.n,
            overlap.effective_rows,
            float(weights.max()),
            overlap.largest_share,
            overlap.mean_weight,
        ),
        fitted=_fitted(learns=policy.moves),
        warnings=[*overlap.warnings, *_warnings_of_log(log, definition)],
    )


def _summary(kind: str, estimate: evaluation.Estimate, logged: evaluation.Estimate, level: float) -> str:
    return (
        f"{kind} would have earned {estimate.value:.3f} per request on this traffic "
        f"({level:.0%} interval {estimate.interval.lower:.3f} to {estimate.interval.upper:.3f}); "
        f"what was served earned {logged.value:.3f}."
    )


def _estimates(served: Served, predictions: FloatArray, level: float) -> Mapping[Method, evaluation.Estimate]:
    totals = served.totals
    return {
        "ips": evaluation.ips(totals, level=level),
        "self_normalised": evaluation.self_normalised(totals, level=level),
        "doubly_robust": evaluation.doubly_robust(served, predictions, level=level),
        "self_normalised_doubly_robust": evaluation.self_normalised_doubly_robust(
            served, predictions, level=level
        ),
    }


def _fitted(*, learns: bool) -> str:
    model = f"rewards are predicted from {FOLDS - 1} of {FOLDS} parts of the log for the fifth"
    if not learns:
        return f"the policy is as given; for the doubly robust estimate {model}"
    return (
        f"the policy learns from {FOLDS - 1} of {FOLDS} parts of the log and is judged on the fifth; {model}"
    )


def _first_of_units(rows: Rows) -> Rows:
    """Keep the first row of each unit, whose rows are adjacent: a sticky unit was drawn once."""
    first = np.r_[True, rows.units[1:] != rows.units[:-1]] if len(rows.units) else np.zeros(0, bool)
    return Rows(
        rows.units[first],
        rows.arms[first],
        rows.rewards[first],
        rows.propensities[first],
        [rows.contexts[row] for row in np.flatnonzero(first).tolist()],
    )


def _warnings_of_log(log: Log, definition: Definition) -> list[str]:
    warnings = []
    n, units = len(log.rows.arms), len(np.unique(log.rows.units))
    if log.sampled:
        warnings.append("the log is too long to be read whole: this is a random part of its units")
    if log.pending:
        warnings.append(
            f"{log.pending:,} assignments still wait for their reward: those that came first may be different"
        )
    if log.censored > log.pending + n:
        warnings.append("most assignments ended without a signal and are left out: this is about the others")
    if definition.stickiness != "none" and units < n:
        warnings.append(f"units are sticky, so only the first of each counts: {units:,} of {n:,} assignments")
    elif n > 1.05 * units:
        warnings.append(
            f"{n:,} assignments are of {units:,} units: intervals take them as independent, and are too "
            "narrow where rewards of one unit are alike"
        )
    return warnings


def _with_reasons(refusal: str, served: Served, definition: Definition) -> str:
    """Add the variants that the policy would serve and the log hardly served."""
    counts = np.bincount(served.arms, minlength=len(definition.variants))
    wanted = served.targets.mean(axis=0)
    rare = [
        f"{variant.key} would get {share:.0%} and was served {count} times"
        for variant, share, count in zip(definition.variants, wanted, counts, strict=True)
        if share >= 0.01 and count < max(_RARE_ROWS, share * len(served.arms) / 2)
    ]
    return "; ".join([refusal, *rare])


def _mean_shares(targets: FloatArray, definition: Definition) -> dict[str, float]:
    keys = [variant.key for variant in definition.variants]
    return dict(zip(keys, targets.mean(axis=0).tolist(), strict=True))
