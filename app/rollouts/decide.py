"""The decider: from a reading to one decision. Pure, and total.

The first rule that applies decides:

1. A draft and an ended rollout hold.
2. Proven harm, or a limit that tripped, rolls back, whatever else is true.
3. Data that cannot be trusted hold, with an alert.
4. A stage that is overdue without an answer does what its plan says.
5. Missing guardrail data hold, with an alert. So do, without an alert, a pause, a minimum that is not
   reached, a guardrail that is not safe yet, a primary metric that is not shown yet and a closed
   window.
6. A stage that needs approval asks for it.
7. Otherwise the rollout advances or completes.

So only harm, a limit, a deadline of the plan or a person rolls a canary back, never an integrity
failure. Nothing protects a canary whose harm is proven: no pause, no broken integrity and no
missing data of another guardrail.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, assert_never

import msgspec

from app.rollouts.model import (
    Advance,
    Ask,
    Complete,
    Completed,
    Decision,
    Draft,
    GuardrailReading,
    Hold,
    Paused,
    Reading,
    RollBack,
    RolledBack,
    RolloutPlan,
    Running,
    Stage,
    State,
    Window,
)


class _Look(msgspec.Struct, frozen=True):
    """The data of every rule: the plan, a rollout that has not ended, its reading and the time."""

    plan: RolloutPlan
    state: Running | Paused
    reading: Reading
    now: datetime

    @property
    def running(self) -> Running:
        """Stage and canaries of the rollout, also while it is paused."""
        return self.state.running

    @property
    def stage(self) -> Stage:
        """Present stage of the rollout."""
        return self.plan.stages[self.running.stage]

    @property
    def is_last(self) -> bool:
        """Whether nothing is measured after this stage: it is the last, or the next gets all traffic."""
        following = self.plan.stages[self.running.stage + 1 :]
        return not following or following[0].share >= 1

    @property
    def guardrails(self) -> tuple[GuardrailReading, ...]:
        """Readings of the canaries that were not rolled back."""
        canaries = self.running.canaries
        return tuple(reading for reading in self.reading.guardrails if reading.canary in canaries)

    @property
    def open_questions(self) -> str:
        """Guardrails that are not safe, in words; empty if all are."""
        return "; ".join(
            f"{reading.metric} of {reading.canary}: {reading.reason or reading.verdict}"
            for reading in self.guardrails
            if reading.missing or reading.verdict != "safe"
        )


def decide(plan: RolloutPlan, state: State, reading: Reading, now: datetime) -> Decision:
    """Return the decision of this look, from the data since the start; `now` is the time in UTC.

    Worked by hand: after an hour in the first of the default stages, with every guardrail safe, the
    rollout holds, because the stage lasts 24 hours. If latency is harmed instead, it rolls back,
    after an hour or after a second.
    """
    match state:
        case Draft():
            return Hold(reason="draft", detail="the rollout has not been started")
        case RolledBack() | Completed():
            return Hold(reason="ended", detail="the rollout has ended")
        case Running() | Paused():
            look = _Look(plan, state, reading, now)
            for rule in _RULES:
                if (decision := rule(look)) is not None:
                    return decision
            return Complete() if look.is_last else Advance(to_stage=look.running.stage + 1)
        case _:
            assert_never(state)


def _harm(look: _Look) -> RollBack | None:
    canaries = look.running.canaries
    harmed = [reading for reading in look.guardrails if reading.verdict == "harm"]
    tripped = [limit for limit in look.reading.limits if limit.tripped and limit.canary in canaries]
    hit = {reading.canary for reading in harmed} | {limit.canary for limit in tripped}
    if not hit:
        return None
    reasons = [f"{limit.metric} of {limit.canary} is beyond the limit {limit.beyond:g}" for limit in tripped]
    reasons += [
        f"{reading.metric} of {reading.canary} is {reading.reason or 'proven worse than the control'}"
        for reading in harmed
    ]
    return RollBack(
        canaries=tuple(canary for canary in canaries if canary in hit),
        reason="limit" if tripped else "harm",
        detail="; ".join(reasons),
    )


def _integrity(look: _Look) -> Hold | None:
    broken = [finding.detail for finding in look.reading.integrity if finding.severity == "broken"]
    return Hold(reason="integrity", detail="; ".join(broken), alert=True) if broken else None


def _overdue(look: _Look) -> Hold | Ask | RollBack | None:
    longest = look.stage.duration_max_s
    if longest is None or isinstance(look.state, Paused) or look.running.approved:
        return None
    unanswered = _unsafe(look) or _primary(look)
    if unanswered is None or look.now < look.running.entered_at + timedelta(seconds=longest):
        return None
    detail = f"no answer within {longest:g} s: {unanswered.detail}"
    match look.stage.then:
        case "hold":
            return Hold(reason="overdue", detail=detail, alert=True)
        case "ask":
            return Ask(reason="overdue", detail=detail)
        case "rollback":
            return RollBack(canaries=look.running.canaries, reason="overdue", detail=detail)
        case _:
            assert_never(look.stage.then)


def _missing(look: _Look) -> Hold | None:
    readings = {(reading.metric, reading.canary): reading for reading in look.guardrails}
    absent = [
        f"{metric} of {canary}: {reading.reason}"
        for (metric, canary), reading in readings.items()
        if reading.missing
    ]
    absent += [
        f"{guardrail.metric.key} of {canary}: not read"
        for guardrail in look.plan.guardrails
        for canary in look.running.canaries
        if (guardrail.metric.key, canary) not in readings
    ]
    age = look.reading.data_age_s
    if age is None or age > look.plan.data_age_max_s:
        absent.append("the age of the data is unknown" if age is None else f"the data are {age:g} s old")
    return Hold(reason="missing_data", detail="; ".join(absent), alert=True) if absent else None


def _pause(look: _Look) -> Hold | None:
    if not isinstance(look.state, Paused):
        return None
    return Hold(reason="paused", detail=f"paused at {look.state.paused_at:%Y-%m-%d %H:%M:%S} UTC")


def _minimum(look: _Look) -> Hold | None:
    earliest = look.running.entered_at + timedelta(seconds=look.stage.duration_s)
    if look.now < earliest:
        return Hold(reason="minimum_duration", detail=f"not before {earliest:%Y-%m-%d %H:%M:%S} UTC")
    fewest = min(look.reading.stage_units.get(canary, 0) for canary in look.running.canaries)
    if fewest < look.stage.units_min:
        return Hold(reason="minimum_units", detail=f"{fewest:,} of {look.stage.units_min:,} units")
    return None


def _unsafe(look: _Look) -> Hold | None:
    return Hold(reason="not_enough_data", detail=look.open_questions) if look.open_questions else None


def _primary(look: _Look) -> Hold | None:
    if look.plan.primary is None or not look.is_last:
        return None
    shown = {reading.canary for reading in look.reading.primary if reading.shown}
    missing = ", ".join(canary for canary in look.running.canaries if canary not in shown)
    test = look.plan.primary.test.replace("_", "-")
    detail = f"{look.plan.primary.metric.key} of {missing} is not yet proven to be {test}"
    return Hold(reason="primary", detail=detail) if missing else None


def _window(look: _Look) -> Hold | None:
    def is_open(window: Window) -> bool:
        return look.now.weekday() in window.weekdays and window.from_hour <= look.now.hour < window.to_hour

    if not look.plan.windows or any(is_open(window) for window in look.plan.windows):
        return None
    return Hold(reason="window", detail="outside of the hours in which the rollout may advance")


def _approval(look: _Look) -> Ask | None:
    if look.running.approved or not look.stage.approval:
        return None
    return Ask(reason="approval", detail="all guardrails are safe; waiting for approval")


_RULES: Final[tuple[Callable[[_Look], Decision | None], ...]] = (
    _harm,
    _integrity,
    _overdue,
    _missing,
    _pause,
    _minimum,
    _unsafe,
    _primary,
    _window,
    _approval,
)
"""The rules in the order of the module's list: the first that returns a decision decides."""


def held(plan: RolloutPlan, state: State) -> dict[str, float]:
    """Return the share of every canary of the plan, which the experiment must hold for the rollout.

    Canaries have equal parts of the share of their stage. The part of a canary that is rolled back
    goes to the other variants, not to the other canaries. At the end the remaining canaries share
    the whole.

    Worked by hand: two canaries at 5 % have 2.5 % each. When one is rolled back, it has 0 and the
    other keeps 2.5 %.
    """
    none = dict.fromkeys(plan.canaries, 0.0)
    match state:
        case Draft():
            return {}
        case RolledBack():
            return none
        case Completed(canaries=canaries):
            return none | dict.fromkeys(canaries, plan.stages[-1].share / len(canaries))
        case Running() | Paused():
            share = plan.stages[state.running.stage].share / len(plan.canaries)
            return none | dict.fromkeys(state.running.canaries, share)
        case _:
            assert_never(state)
