"""The decider: from what was read to what happens, and to the state after it. Pure, and total.

In this order, the first that applies:

1. a draft and an ended rollout hold;
2. proven harm, or a limit that tripped, rolls back: whatever else is the case;
3. data that cannot be trusted hold, and call somebody;
4. a stage that is overdue without an answer does as its plan says;
5. missing guardrail data hold, and call somebody; a pause, a minimum that is not reached, a guardrail that is
   not safe yet, a primary metric that is not shown yet and a closed window hold;
6. a stage that needs approval asks for it;
7. otherwise it advances, or completes.

So nothing but harm, a limit, a plan's own deadline or a person takes a canary back: never an integrity
failure. And nothing protects a canary whose harm is proven: neither a pause nor broken integrity nor missing
data of another guardrail.
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
    Plan,
    Reading,
    RollBack,
    RolledBack,
    Running,
    Stage,
    State,
    Window,
)


class _Look(msgspec.Struct, frozen=True):
    """What every rule may ask: the plan, a rollout that has not ended, what was read of it, and the time."""

    plan: Plan
    state: Running | Paused
    reading: Reading
    now: datetime

    @property
    def running(self) -> Running:
        """Where it is, also while it is paused."""
        return self.state.running if isinstance(self.state, Paused) else self.state

    @property
    def stage(self) -> Stage:
        """The stage that it is in."""
        return self.plan.stages[self.running.stage]

    @property
    def is_last(self) -> bool:
        """Whether nothing is measured after this stage: it is the last, or before one of all traffic."""
        following = self.plan.stages[self.running.stage + 1 :]
        return not following or following[0].share >= 1

    @property
    def guardrails(self) -> tuple[GuardrailReading, ...]:
        """Of the canaries that are left."""
        return tuple(one for one in self.reading.guardrails if one.canary in self.running.canaries)

    @property
    def open_questions(self) -> str:
        """Guardrails that are not safe, in words; empty if all are."""
        return "; ".join(
            f"{one.metric} of {one.canary}: {one.reason or one.verdict}"
            for one in self.guardrails
            if one.missing or one.verdict != "safe"
        )


def decide(plan: Plan, state: State, reading: Reading, now: datetime) -> Decision:
    """What to do at this look. `reading` is of the data since the rollout began, `now` the time in UTC.

    Worked by hand: in the first of the default stages, after an hour, with every guardrail safe: it holds,
    because the stage lasts 24 hours. With latency harm instead it rolls back, after an hour or a second.
    """
    match state:
        case Draft():
            return Hold(reason="draft", detail="it has not been started")
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
    harmed = [one for one in look.guardrails if one.verdict == "harm"]
    tripped = [one for one in look.reading.limits if one.tripped and one.canary in look.running.canaries]
    hit = {one.canary for one in harmed} | {one.canary for one in tripped}
    if not hit:
        return None
    reasons = [f"{one.metric} of {one.canary} is beyond the limit {one.beyond:g}" for one in tripped]
    reasons += [
        f"{one.metric} of {one.canary} is {one.reason or 'proven worse than the control'}" for one in harmed
    ]
    return RollBack(
        canaries=tuple(canary for canary in look.running.canaries if canary in hit),
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
    absent = [f"{one.metric} of {one.canary}: {one.reason}" for one in look.guardrails if one.missing]
    read = {(one.metric, one.canary) for one in look.guardrails}
    absent += [
        f"{guardrail.metric.key} of {canary}: not read"
        for guardrail in look.plan.guardrails
        for canary in look.running.canaries
        if (guardrail.metric.key, canary) not in read
    ]
    age = look.reading.data_age_s
    if age is None or age > look.plan.data_age_max_s:
        absent.append("nobody knows how old the data are" if age is None else f"the data are {age:g} s old")
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
    shown = {one.canary for one in look.reading.primary if one.shown}
    missing = [canary for canary in look.running.canaries if canary not in shown]
    what = f"{look.plan.primary.metric.key} of {', '.join(missing)} is not shown {look.plan.primary.test}"
    return Hold(reason="primary", detail=what) if missing else None


def _window(look: _Look) -> Hold | None:
    def is_open(window: Window) -> bool:
        return look.now.weekday() in window.weekdays and window.from_hour <= look.now.hour < window.to_hour

    if not look.plan.windows or any(is_open(window) for window in look.plan.windows):
        return None
    return Hold(reason="window", detail="outside of the hours in which it may advance")


def _approval(look: _Look) -> Ask | None:
    if look.running.approved or not look.stage.approval:
        return None
    return Ask(reason="approval", detail="all is safe; a person has to agree")


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
"""In the order of the module's list: the first that has something to say decides."""


def held(plan: Plan, state: State) -> dict[str, float]:
    """The share of every canary of the plan: what the experiment has to hold for it.

    Canaries have equal parts of the share of their stage. What one of them loses by being rolled back goes to
    the other variants, not to the other canaries. At the end those that are left share the whole.

    Worked by hand: two canaries at 5 % have 2.5 % each; when one was rolled back it has 0, the other 2.5 %.
    """
    shares: dict[str, float]
    match state:
        case Draft():
            shares = {}
        case RolledBack():
            shares = dict.fromkeys(plan.canaries, 0.0)
        case Completed(canaries=left):
            shares = dict.fromkeys(plan.canaries, 0.0)
            shares |= dict.fromkeys(left, plan.stages[-1].share / len(left))
        case Running() | Paused():
            running = state.running if isinstance(state, Paused) else state
            each = plan.stages[running.stage].share / len(plan.canaries)
            shares = {canary: each if canary in running.canaries else 0.0 for canary in plan.canaries}
        case _:
            assert_never(state)
    return shares
