"""What `/metrics` shows of rollouts."""

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
    """Remembers which series there are: the first `LABEL_SETS_MAX` guardrails get one, later ones none."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str, str]] = set()

    def show(self, watched: Iterable[Rollout], counts: Mapping[str, int], now: datetime) -> None:
        """Set all from rollouts under way and those that have just ended, and from how many there are."""
        for state in _STATES:
            telemetry.ROLLOUTS.labels(state).set(counts.get(state, 0))
        oldest_s, verdicts = 0.0, dict.fromkeys(self._known, math.nan)
        for rollout in sorted(watched, key=lambda one: one.id):
            runs = isinstance(rollout.state, Running | Paused)
            if runs:
                seen = rollout.created_at if rollout.looked is None else rollout.looked.at
                oldest_s = max(oldest_s, (now - seen).total_seconds())
            for one in () if rollout.looked is None else rollout.looked.reading.guardrails:
                labels = rollout.experiment, one.canary, one.metric
                verdicts[labels] = _VALUES[one.verdict] if runs else math.nan
        telemetry.ROLLOUT_LOOK_AGE.set(oldest_s)
        for labels, value in verdicts.items():
            if labels in self._known or len(self._known) < limits.LABEL_SETS_MAX:
                self._known.add(labels)
                telemetry.GUARDRAIL_STATE.labels(*labels).set(value)
