"""Verdicts from totals: harm, safe or not enough data, per guardrail and canary. Pure.

Two proofs run in parallel, each valid at all looks together (Ville's inequality):

* *harm*, against "no worse than the control". `alpha` is divided among guardrails and canaries. Evidence
  starts again at every epoch of the rollout, so that weeks of health do not hide a canary that breaks now.
  The first start has `FIRST_START` of a guardrail's level, the k-th `(1 - FIRST_START) / (k (k - 1))`;
  these sum to at most the level. So the probability that canaries that are no worse are ever rolled back
  is at most `alpha`, over the whole ramp and all looks.
* *safe*, against "worse by the margin or more", at `beta`, from the data of the stage alone. A canary that
  breaks a margin passes a stage only if *all* guardrails miss it, so beta needs no correction.

`analysis.harm.verdict` defines the verdict of both proofs. A canary that is worse by less than the
margin may get either.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from app.analysis.harm.answer import answer
from app.analysis.harm.question import Answer, Question
from app.analysis.integrity import Finding
from app.analysis.observed import Observed
from app.analysis.readout.analyze import metric_readouts
from app.analysis.readout.record import MetricReadout
from app.experiments.metrics import Direction, Margin, Metric, QuantileOf
from app.experiments.plan import AnalysisPlan
from app.ledger.units.metric_totals import MetricTotals, moments_of
from app.rollouts import limits
from app.rollouts.model import (
    Guardrail,
    GuardrailReading,
    Limit,
    LimitReading,
    Paused,
    Primary,
    PrimaryReading,
    Reading,
    RolloutPlan,
    Running,
)
from stats.errors import InsufficientData
from stats.quantiles import QuantileSketch, quantile

FIRST_START: Final = 0.8
"""Share of a guardrail's level for evidence from the beginning, where most regressions are."""
MISSING_UNITS_MIN: Final = 100
"""From this number of units on, a metric without a value is missing rather than late."""
COVERAGE_MIN: Final = 0.5
"""A canary with less than this part of the control's rate of known outcomes hides something."""

HARM: Final = "proven worse than the control"
OPEN: Final = "the data still allow for a worsening by the margin"


def start_level(level: float, position: int) -> float:
    """Return the part of a guardrail's level for evidence from this start; positions count from 1.

    Worked by hand: of 0.01, 0.008 for the first, 0.001 for the second, 0.00033 for the third.
    """
    if position == 1:
        return FIRST_START * level
    return (1 - FIRST_START) * level / (position * (position - 1))


def read(
    plan: RolloutPlan,
    state: Running | Paused,
    observed: Observed,
    *,
    findings: Sequence[Finding],
    now: datetime,
    as_of: datetime | None,
) -> Reading:
    """Return the readings of every guardrail, limit and the primary metric.

    `observed` holds only the epochs since the rollout began. Each is a period of constant shares,
    and evidence of harm may start at any of them. `findings` are those of integrity. Everything
    acknowledged before `as_of` is in the totals; None if that is unknown, which counts as missing
    data.
    """
    running = state.running
    look = _Look(plan, running, observed, (now - running.entered_at).total_seconds())
    canaries = running.canaries
    primaries = () if plan.primary is None else (plan.primary,)
    return Reading(
        guardrails=tuple(
            _guardrail(look, guardrail, canary) for guardrail in plan.guardrails for canary in canaries
        ),
        limits=tuple(_limit(look, limit, canary) for limit in plan.limits for canary in canaries),
        primary=tuple(_primary(look, primary, canary) for primary in primaries for canary in canaries),
        secondary=_secondary(look),
        integrity=tuple(findings),
        stage_units={canary: look.units(canary) for canary in canaries},
        data_age_s=None if as_of is None else max((now - as_of).total_seconds(), 0.0),
    )


class _Look(msgspec.Struct, frozen=True):
    """A running rollout and its totals, `elapsed_s` after the stage began."""

    plan: RolloutPlan
    running: Running
    observed: Observed
    elapsed_s: float

    @property
    def stage_epochs(self) -> tuple[int, ...]:
        """Epochs of the stage; empty before its first unit."""
        return tuple(epoch for epoch in self.observed.epochs if epoch >= self.running.epoch)

    @property
    def constant_epochs(self) -> tuple[int, ...]:
        """Epochs of the stage in which the control had its present share.

        Its share grew when another canary was rolled back; the last units of that one came in the
        epoch before.
        """
        rolled_back = set(self.plan.canaries) - set(self.running.canaries)
        last = max((cell.epoch for cell in self.observed.cells if cell.variant in rolled_back), default=0)
        return tuple(epoch for epoch in self.stage_epochs if epoch > last)

    @property
    def level(self) -> float:
        """Level of harm for one guardrail and canary."""
        return self.plan.alpha / (len(self.plan.guardrails) * len(self.plan.canaries))

    def starts(self) -> tuple[int, ...]:
        """Return the positions, from 1, of the epochs at which evidence starts.

        They are the first epoch, the first of the stage, and the newest ones up to a bound.
        """
        n = len(self.observed.epochs)
        first_of_stage = n - len(self.stage_epochs) + 1
        newest = range(max(n - limits.ROLLOUT_EPOCHS_MAX + 3, 1), n + 1)
        return tuple(sorted({1, first_of_stage, *newest} & set(range(1, n + 1))))

    def units(self, variant: str) -> int:
        """Return how many units a variant got in the stage, with or without a known outcome."""
        cells = (cell for cell in self.observed.cells if cell.epoch in self.stage_epochs)
        return sum(cell.units for cell in cells if cell.variant == variant)

    def known(self, metric: Metric, variant: str) -> int:
        """Return how many units of the stage have a value of the metric."""
        totals = self.observed.pooled(metric.key, variant, self.stage_epochs)
        return 0 if totals is None else totals.n

    def answer(self, guardrail: Guardrail, canary: str, position: int) -> Answer | str:
        """Return what the data since this start prove, or the reason why there is no answer.

        What cannot be stratified is compared in the newest epochs with constant shares. That also
        decides whether harm that began earlier is harmless now. Only a quantile has no other
        evidence of harm: from a start before these epochs it uses its own epoch alone.
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
            treatment=canary,
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
    proven = None if isinstance(stage, str) else stage
    harm = _harm(answers.values())
    if harm is not None:
        reading = _filled(look, reading, harm, proven)
        return msgspec.structs.replace(reading, verdict="harm", reason=_with_note(HARM, harm))
    if proven is not None:
        reading = _filled(look, reading, proven, proven)
    if (missing := _missing(look, metric, canary)) is not None:
        return msgspec.structs.replace(reading, missing=True, reason=missing)
    if isinstance(stage, str):
        return msgspec.structs.replace(reading, reason=stage)
    if not stage.within.proven:
        return msgspec.structs.replace(reading, reason=_with_note(OPEN, stage))
    return msgspec.structs.replace(reading, verdict="safe", units_left=0, seconds_left=0.0)


def _with_note(reason: str, shown: Answer) -> str:
    """Return the reason, with the test that decides instead of the usual one."""
    return f"{reason} ({shown.note})" if shown.note else reason


def _safe_position(look: _Look, metric: Metric) -> int:
    """Return where the data start that can prove safety; 0 if there are none.

    They are the data of the stage; of a quantile, those since its shares have their present values.
    """
    epochs = look.constant_epochs if isinstance(metric.measure, QuantileOf) else look.stage_epochs
    return look.observed.epochs.index(epochs[0]) + 1 if epochs else 0


def _harm(answers: Iterable[Answer | str]) -> Answer | None:
    """Return the strongest proof of harm over all starts; None if there is none."""
    harmful = [shown for shown in answers if not isinstance(shown, str) and shown.verdict == "harm"]
    return max(harmful, key=lambda shown: shown.worse.statistic - shown.worse.threshold, default=None)


def _filled(look: _Look, reading: GuardrailReading, shown: Answer, stage: Answer | None) -> GuardrailReading:
    units_left = None if shown.factor is None else max(round((shown.factor - 1) * shown.units[1]), 0)
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
        units_left=units_left,
        seconds_left=None if units_left is None or not known else units_left / known * look.elapsed_s,
    )


def _missing(look: _Look, metric: Metric, canary: str) -> str | None:
    """Return in words what should be known by now and is not; None if nothing is missing."""
    came, control_came = look.units(canary), look.units(look.observed.control)
    known, control_known = look.known(metric, canary), look.known(metric, look.observed.control)
    waited = look.elapsed_s >= look.plan.stages[look.running.stage].duration_s
    for variant, n, n_came, other in (
        (canary, known, came, control_known),
        (look.observed.control, control_known, control_came, known),
    ):
        if not n and n_came >= MISSING_UNITS_MIN and (waited or other >= MISSING_UNITS_MIN):
            return f"{n_came:,} units of {variant} came, and none of them has a value of the metric"
    expected = came * control_known / control_came if control_came else 0.0
    if min(expected, control_known) >= MISSING_UNITS_MIN and known < COVERAGE_MIN * expected:
        return (
            f"{known:,} units of {canary} have a value of the metric; "
            f"{expected:,.0f} were expected at the control's rate"
        )
    return None


# Limits


def _limit(look: _Look, limit: Limit, canary: str) -> LimitReading:
    """Return the reading of a limit in the newest epoch, because a catastrophe is now."""
    metrics = {guardrail.metric.key: guardrail.metric for guardrail in look.plan.guardrails}
    metric, epochs = metrics[limit.metric], look.stage_epochs[-1:]
    control, treatment = (
        look.observed.pooled(metric.key, arm, epochs) for arm in (look.observed.control, canary)
    )
    control_value, value = _value(metric, control), _value(metric, treatment)
    units = 0 if treatment is None else treatment.n

    def is_beyond(estimate: float | None) -> bool:
        if estimate is None:
            return False
        return estimate > limit.beyond if metric.direction == "lower" else estimate < limit.beyond

    return LimitReading(
        metric=limit.metric,
        canary=canary,
        beyond=limit.beyond,
        canary_units=units,
        canary_estimate=value,
        control_estimate=control_value,
        tripped=units >= limit.units_min and is_beyond(value) and not is_beyond(control_value),
    )


def _value(metric: Metric, totals: MetricTotals | None) -> float | None:
    """Return the metric of these totals; None if it is unknown."""
    if totals is None or not totals.n:
        return None
    if isinstance(totals, QuantileSketch):
        assert isinstance(metric.measure, QuantileOf)
        return quantile(totals, metric.measure.q)
    try:
        return moments_of(metric, totals).mean
    except InsufficientData:
        return None


# Primary and secondary metrics


def _primary(look: _Look, primary: Primary, canary: str) -> PrimaryReading:
    """Return the reading from all data of the rollout.

    Superior is the mirrored question: the control is proven to be worse than the canary.
    """
    metric = primary.metric
    superior = primary.test == "superior"
    if superior:
        mirrored: Direction = "lower" if metric.direction == "higher" else "higher"
        margin = metric.margin or Margin(size=1.0)
        metric = msgspec.structs.replace(metric, direction=mirrored, margin=margin)
    assert metric.margin is not None, "non-inferiority has a margin"
    reading = PrimaryReading(metric=metric.key, canary=canary, test=primary.test, shown=False)
    question = Question(
        metric=metric,
        margin=metric.margin,
        baseline=primary.baseline,
        treatment=canary,
        epochs=look.observed.epochs,
        pooled=look.constant_epochs,
        worse_level=look.plan.beta,
        within_level=look.plan.beta,
    )
    try:
        shown = answer(question, look.observed)
    except InsufficientData as lacking:
        return msgspec.structs.replace(reading, reason=str(lacking))
    proof = shown.worse if superior else shown.within
    return msgspec.structs.replace(
        reading, shown=proof.proven, method=shown.method, effect=shown.effect, interval=shown.interval
    )


def _secondary(look: _Look) -> tuple[MetricReadout, ...]:
    """Return the readout of secondary metrics, which decide nothing, at the level `beta`."""
    if not look.plan.secondary or not look.observed.cells:
        return ()
    metrics = [msgspec.structs.replace(metric, role="secondary") for metric in look.plan.secondary]
    return metric_readouts(AnalysisPlan(alpha=look.plan.beta), metrics, look.observed)
