"""From totals to verdicts: harm, safe, or not enough data, per guardrail and canary. Pure.

Two proofs run beside each other, each valid at all looks together (Ville's inequality):

* *harm*, against "no worse than the control". `alpha` is divided among guardrails and canaries. Evidence may
  start at every epoch of the rollout anew, so that weeks of health do not hide a canary that breaks now: the
  first start has `FIRST_START` of a guardrail's level, the k-th `(1 - FIRST_START) / (k (k - 1))`, which sum
  to no more than all of it. So the chance that canaries that are no worse are ever rolled back is at most
  `alpha`, over the whole ramp and however often one looks.
* *safe*, against "worse by the margin or more", at `beta`, from the data of the stage alone. A canary that
  breaks a margin passes a stage only if *all* guardrails fail to see it, so beta needs no correction.

Where both proofs are made from the same data the canary is worse, but surely by less than the margin: that is
safe. A canary in between may be called either.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Final

import msgspec

from app.analysis.integrity import Finding
from app.analysis.observed import Observed
from app.analysis.readout.analyze import analyze
from app.analysis.readout.record import MetricReadout
from app.experiments.metrics import Margin, Metric, QuantileOf
from app.experiments.plan import AnalysisPlan
from app.rollouts import limits
from app.rollouts.model import (
    Guardrail,
    GuardrailReading,
    Limit,
    LimitReading,
    Paused,
    Plan,
    Primary,
    PrimaryReading,
    Reading,
    Running,
)
from app.rollouts.proofs import Compared, Question, answer, unit_moments
from stats.errors import InsufficientData
from stats.quantiles import QuantileSketch, quantile

FIRST_START: Final = 0.8
"""The share of a guardrail's level that belongs to evidence from the beginning: most regressions are there
from the first request on."""
MISSING_UNITS_MIN: Final = 100
"""Units that came, from which on a metric without a value is missing rather than late."""
COVERAGE_MIN: Final = 0.5
"""A canary whose outcomes are known less than half as often as the control's hides something."""

HARM: Final = "proven worse than the control"
OPEN: Final = "the data still allow for a worsening by the margin"


def start_level(level: float, position: int) -> float:
    """The part of a guardrail's level that evidence has which begins at the start of this position, from 1.

    Worked by hand: of 0.01, 0.008 for the first, 0.001 for the second, 0.00033 for the third.
    """
    if position == 1:
        return FIRST_START * level
    return (1 - FIRST_START) * level / (position * (position - 1))


def read(
    plan: Plan,
    state: Running | Paused,
    observed: Observed,
    *,
    findings: Sequence[Finding],
    now: datetime,
    as_of: datetime | None,
) -> Reading:
    """What the data of the rollout say now, on every guardrail, limit and the primary metric.

    `observed` holds the epochs since the rollout began and no others: each epoch is a period of constant
    shares, and evidence of harm may start at any of them. `findings` are those of integrity (of
    `analysis.integrity.findings`, and of A/A checks). `as_of`: everything acknowledged before is in the
    totals; None if that is not known, which is missing data.
    """
    running = state.running if isinstance(state, Paused) else state
    look = _Look(plan, running, observed, (now - running.entered_at).total_seconds())
    return Reading(
        guardrails=tuple(
            _guardrail(look, guardrail, canary)
            for guardrail in plan.guardrails
            for canary in running.canaries
        ),
        limits=tuple(_limit(look, limit, canary) for limit in plan.limits for canary in running.canaries),
        primary=()
        if plan.primary is None
        else tuple(_primary(look, plan.primary, canary) for canary in running.canaries),
        secondary=_secondary(look),
        integrity=tuple(findings),
        stage_units={canary: look.units(canary) for canary in running.canaries},
        data_age_s=None if as_of is None else max((now - as_of).total_seconds(), 0.0),
    )


class _Look(msgspec.Struct, frozen=True):
    """A running rollout and its totals, `elapsed_s` after the stage began."""

    plan: Plan
    running: Running
    observed: Observed
    elapsed_s: float

    @property
    def stage_epochs(self) -> tuple[int, ...]:
        """Those of the stage; empty before its first unit."""
        return tuple(epoch for epoch in self.observed.epochs if epoch >= self.running.epoch)

    @property
    def constant_epochs(self) -> tuple[int, ...]:
        """Those of the stage in which the control had the share that it has now.

        It got more when another canary was taken back, whose last units came in the epoch before.
        """
        gone = set(self.plan.canaries) - set(self.running.canaries)
        before = max((cell.epoch for cell in self.observed.cells if cell.variant in gone), default=0)
        return tuple(epoch for epoch in self.stage_epochs if epoch > before)

    @property
    def level(self) -> float:
        """Of harm, for one guardrail and canary."""
        return self.plan.alpha / (len(self.plan.guardrails) * len(self.plan.canaries))

    def starts(self) -> tuple[int, ...]:
        """Positions, from 1, of the epochs at which evidence starts.

        The first, that of the stage, and the newest up to a bound.
        """
        positions = range(1, len(self.observed.epochs) + 1)
        stage = (
            position for position in positions if self.observed.epochs[position - 1] >= self.running.epoch
        )
        first = {*positions[:1], *islice(stage, 1)}
        return tuple(sorted(first | set(positions[-limits.ROLLOUT_EPOCHS_MAX + 2 :])))

    def units(self, variant: str) -> int:
        """That came in the stage, with or without a known outcome."""
        return sum(
            cell.units
            for cell in self.observed.cells
            if cell.variant == variant and cell.epoch in self.stage_epochs
        )

    def known(self, metric: Metric, variant: str) -> int:
        """Units of the stage whose metric is known."""
        totals = [self.observed.totals(metric.key, variant, epoch=epoch) for epoch in self.stage_epochs]
        return sum(one.n for one in totals if one is not None)

    def answer(self, guardrail: Guardrail, canary: str, position: int) -> Compared | str:
        """From the data since the start of this position; or why there is none.

        What cannot be stratified is compared in the newest epochs with constant shares: also whether harm
        that began earlier is harmless now. Only a quantile has no other evidence of harm: a start before
        these is that of its own epoch alone.
        """
        epochs = self.observed.epochs[position - 1 :]
        pooled = tuple(epoch for epoch in epochs if epoch in self.constant_epochs)
        if isinstance(guardrail.metric.measure, QuantileOf) and len(pooled) < len(epochs):
            pooled = epochs[:1]
        question = Question(
            metric=guardrail.metric,
            margin=guardrail.margin,
            baseline=guardrail.baseline,
            test=guardrail.test,
            canary=canary,
            epochs=epochs,
            pooled=pooled,
            worse_level=start_level(self.level, position),
            within_level=self.plan.beta,
        )
        try:
            return answer(question, self.observed)
        except InsufficientData as lacking:
            return str(lacking)


# Guardrails


def _guardrail(look: _Look, guardrail: Guardrail, canary: str) -> GuardrailReading:
    metric = guardrail.metric
    reading = GuardrailReading(
        metric=metric.key,
        canary=canary,
        verdict="not_enough_data",
        control_units=look.known(metric, look.observed.control),
        canary_units=look.known(metric, canary),
        relative=guardrail.margin.relative,
    )
    answers = {position: look.answer(guardrail, canary, position) for position in look.starts()}
    stage = answers.get(_safe_position(look, metric), "the stage has no unit yet")
    harm = _harm(answers.values())
    if harm is not None:
        shown = _filled(look, reading, harm, None if isinstance(stage, str) else stage)
        return msgspec.structs.replace(shown, verdict="harm", reason=_noted(HARM, harm))
    if not isinstance(stage, str):
        reading = _filled(look, reading, stage, stage)
    if (absent := _absent(look, metric, canary)) is not None:
        return msgspec.structs.replace(reading, missing=True, reason=absent)
    if isinstance(stage, str) or not stage.within.proven:
        reason = stage if isinstance(stage, str) else _noted(OPEN, stage)
        return msgspec.structs.replace(reading, reason=reason)
    return msgspec.structs.replace(reading, verdict="safe", units_left=0, seconds_left=0.0)


def _noted(reason: str, found: Compared) -> str:
    """The reason, and which test decides in place of the usual one."""
    return f"{reason} ({found.note})" if found.note else reason


def _safe_position(look: _Look, metric: Metric) -> int:
    """Where the data start that can show safety; 0 if there are none.

    They are those of the stage; of a quantile, those since its shares are what they are.
    """
    epochs = look.constant_epochs if isinstance(metric.measure, QuantileOf) else look.stage_epochs
    return look.observed.epochs.index(epochs[0]) + 1 if epochs else 0


def _harm(answers: Iterable[Compared | str]) -> Compared | None:
    """The strongest proof over all starts, of those that their own data do not show to be harmless."""
    proven = [
        found
        for found in answers
        if not isinstance(found, str) and found.worse.proven and not found.within.proven
    ]
    return max(proven, key=_strength, default=None)


def _strength(found: Compared) -> float:
    return found.worse.statistic - found.worse.threshold


def _filled(
    look: _Look, reading: GuardrailReading, shown: Compared, stage: Compared | None
) -> GuardrailReading:
    left = None if shown.factor is None else max(round((shown.factor - 1) * shown.units[1]), 0)
    known = reading.canary_units
    return msgspec.structs.replace(
        reading,
        method=shown.method,
        control_estimate=shown.means[0],
        canary_estimate=shown.means[1],
        relative=shown.relative,
        effect=shown.effect,
        interval=shown.interval,
        harm=shown.worse,
        safe=None if stage is None else stage.within,
        units_left=left,
        seconds_left=None if left is None or not known else left / known * look.elapsed_s,
    )


def _absent(look: _Look, metric: Metric, canary: str) -> str | None:
    """What should be known by now and is not, in words."""
    came, control_came = look.units(canary), look.units(look.observed.control)
    known, control_known = look.known(metric, canary), look.known(metric, look.observed.control)
    waited = look.elapsed_s >= look.plan.stages[look.running.stage].duration_s
    for variant, n, of in ((canary, known, came), (look.observed.control, control_known, control_came)):
        other = control_known if variant == canary else known
        if not n and of >= MISSING_UNITS_MIN and (waited or other >= MISSING_UNITS_MIN):
            return f"{of:,} units of {variant} came, the metric of none is known"
    expected = came * control_known / control_came if control_came else 0.0
    if min(expected, control_known) >= MISSING_UNITS_MIN and known < COVERAGE_MIN * expected:
        return f"the metric of {known:,} units is known, of as many as the control's it were {expected:,.0f}"
    return None


# Limits


def _limit(look: _Look, limit: Limit, canary: str) -> LimitReading:
    """In the newest epoch: a catastrophe is now."""
    metric = next(one.metric for one in look.plan.guardrails if one.metric.key == limit.metric)
    epoch = look.stage_epochs[-1] if look.stage_epochs else None
    (_, theirs), (units, ours) = (
        _level(look.observed, metric, arm, epoch) for arm in (look.observed.control, canary)
    )

    def beyond(value: float | None) -> bool:
        if value is None:
            return False
        return value > limit.beyond if metric.direction == "lower" else value < limit.beyond

    return LimitReading(
        metric=limit.metric,
        canary=canary,
        beyond=limit.beyond,
        canary_units=units,
        canary_estimate=ours,
        control_estimate=theirs,
        tripped=units >= limit.units_min and beyond(ours) and not beyond(theirs),
    )


def _level(observed: Observed, metric: Metric, variant: str, epoch: int | None) -> tuple[int, float | None]:
    """Units with a value, and the metric of them; None without any."""
    totals = None if epoch is None else observed.totals(metric.key, variant, epoch=epoch)
    if totals is None or not totals.n:
        return 0, None
    if isinstance(totals, QuantileSketch):
        assert isinstance(metric.measure, QuantileOf)
        return totals.n, quantile(totals, metric.measure.q)
    try:
        return totals.n, unit_moments(metric, totals).mean
    except InsufficientData:
        return totals.n, None


# Primary and secondary metrics


def _primary(look: _Look, primary: Primary, canary: str) -> PrimaryReading:
    """From all data of the rollout. Superior: the control is proven worse than the canary."""
    metric = primary.metric
    superior = primary.test == "superior"
    if superior:
        opposite = msgspec.structs.replace(
            metric, direction="lower" if metric.direction == "higher" else "higher"
        )
        metric, margin = opposite, metric.margin or Margin(size=1.0)
    else:
        assert metric.margin is not None
        margin = metric.margin
    reading = PrimaryReading(metric=metric.key, canary=canary, test=primary.test, shown=False)
    question = Question(
        metric=metric,
        margin=margin,
        baseline=primary.baseline,
        test="sequence",
        canary=canary,
        epochs=look.observed.epochs,
        pooled=look.constant_epochs,
        worse_level=look.plan.beta,
        within_level=look.plan.beta,
    )
    try:
        found = answer(question, look.observed)
    except InsufficientData as lacking:
        return msgspec.structs.replace(reading, reason=str(lacking))
    proof = found.worse if superior else found.within
    return msgspec.structs.replace(
        reading,
        shown=proof.proven,
        method=found.method,
        effect=found.effect,
        interval=found.interval,
    )


def _secondary(look: _Look) -> tuple[MetricReadout, ...]:
    """For information: intervals that hold at every look, findings corrected for their number."""
    if not look.plan.secondary or not look.observed.cells:
        return ()
    metrics = [msgspec.structs.replace(metric, role="secondary") for metric in look.plan.secondary]
    return analyze(AnalysisPlan(alpha=look.plan.beta), metrics, look.observed).metrics
