"""Gauges of rollouts on `/metrics`."""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, get_args

from app.analysis.harm.verdict import Verdict
from app.core import limits, telemetry
from app.rollouts.life import Rollout
from app.rollouts.model import Paused, Running, State

_VALUES: Final[Mapping[Verdict, int]] = {"safe": 1, "not_enough_data": 0, "harm": -1}
_STATES: Final = tuple(str(state.__struct_config__.tag) for state in get_args(State))


class Gauges:
    """The gauges. The first `LABEL_SETS_MAX` guardrails get a series each, later ones none."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str, str]] = set()

    def show(self, watched: Iterable[Rollout], counts: Mapping[str, int], now: datetime) -> None:
        """Set all gauges from the rollouts under way or just ended, and from the counts by state."""
        for state in _STATES:
            telemetry.ROLLOUTS.labels(state).set(counts.get(state, 0))
        oldest_s, verdicts = 0.0, dict.fromkeys(self._known, math.nan)
        for rollout in sorted(watched, key=lambda rollout: rollout.id):
            runs = isinstance(rollout.state, Running | Paused)
            if runs:
                seen = rollout.created_at if rollout.looked is None else rollout.looked.at
                oldest_s = max(oldest_s, (now - seen).total_seconds())
            for reading in () if rollout.looked is None else rollout.looked.reading.guardrails:
                labels = rollout.experiment, reading.canary, reading.metric
                verdicts[labels] = _VALUES[reading.verdict] if runs else math.nan
        telemetry.ROLLOUT_LOOK_AGE.set(oldest_s)
        for labels, value in verdicts.items():
            if labels in self._known or len(self._known) < limits.LABEL_SETS_MAX:
                self._known.add(labels)
                telemetry.GUARDRAIL_STATE.labels(*labels).set(value)
