"""States of trust of a judge version, as a table of transitions. Pure.

| state | calibrate | promote | drift | demote | supersede |
|---|---|---|---|---|---|
| shadow | calibrated | | | | |
| calibrated | calibrated | promoted | shadow | shadow | |
| promoted | | promoted | shadow | shadow | calibrated |

Only the scores of a promoted version become signals. Every version starts in shadow. `calibrate` is
possible only if the calibration gate passes; `supersede` happens to the promoted version when
another version of the same judge is promoted.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from app.core.errors import Conflict


class Trust(StrEnum):
    """State of a judge version."""

    SHADOW = "shadow"  # scores are shown, and act on nothing
    CALIBRATED = "calibrated"  # passed the gate, acts on nothing yet
    PROMOTED = "promoted"  # its scores become signals


class Event(StrEnum):
    """Cause of a change of the trust in a version."""

    CALIBRATE = "calibrate"  # the gate passed
    PROMOTE = "promote"  # an administrator asks for it
    DRIFT = "drift"  # agreement with people fell
    DEMOTE = "demote"  # an administrator asks for it
    SUPERSEDE = "supersede"  # another version was promoted


TRANSITIONS: Final[Mapping[tuple[Trust, Event], Trust]] = {
    (Trust.SHADOW, Event.CALIBRATE): Trust.CALIBRATED,
    (Trust.CALIBRATED, Event.CALIBRATE): Trust.CALIBRATED,
    (Trust.CALIBRATED, Event.PROMOTE): Trust.PROMOTED,
    (Trust.CALIBRATED, Event.DRIFT): Trust.SHADOW,
    (Trust.CALIBRATED, Event.DEMOTE): Trust.SHADOW,
    (Trust.PROMOTED, Event.PROMOTE): Trust.PROMOTED,
    (Trust.PROMOTED, Event.DRIFT): Trust.SHADOW,
    (Trust.PROMOTED, Event.DEMOTE): Trust.SHADOW,
    (Trust.PROMOTED, Event.SUPERSEDE): Trust.CALIBRATED,
}


def after(state: Trust, event: Event) -> Trust:
    """Return the state after an event. Raises Conflict if the table has no such transition."""
    following = TRANSITIONS.get((state, event))
    if following is None:
        raise Conflict(f"a version that is {state} cannot {event}")
    return following


def feeds(state: Trust) -> bool:
    """Return whether the scores of a version in this state become signals."""
    return state is Trust.PROMOTED
