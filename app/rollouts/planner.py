"""Before a rollout: units and time per stage, and how large the control has to be. Pure."""

from collections.abc import Mapping

import msgspec

from app.rollouts.model import Plan


class StagePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What one measured stage needs.

    `canary_units` of each canary, `units` of all traffic for that; `days` at the traffic given; the share the
    control has to keep, and the guardrail that takes longest.
    """

    share: float
    control_share: float
    canary_units: int
    units: int
    days: float | None
    slowest: str


def stages(plan: Plan, *, units_per_day: float | None = None) -> tuple[StagePlan, ...]:
    """What every measured stage needs, so that a canary like the control reaches the end with 95 %."""
    raise NotImplementedError(plan, units_per_day)


def control_share(plan: Plan, stage: int) -> float:
    """The least share that the control has to keep during a stage, under whatever policy."""
    raise NotImplementedError(plan, stage)


def minimum_units(plan: Plan) -> Mapping[str, int]:
    """Units of a canary, per guardrail, at which a canary like the control is shown to be safe."""
    raise NotImplementedError(plan)
