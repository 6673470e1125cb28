"""Freezes: a policy stops learning while the data of its experiment cannot be trusted. Pure.

A freeze holds the allocation in force. It begins with causes from a check of the data, and ends by
an override with a reason. An overridden cause does not freeze again while it stays about as large:
an override says "I know of this", not "never look again".
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec

from app.allocation import limits

GROWTH: Final = 2.0
"""An overridden cause freezes again once it is this many times as large as when it was overridden.
"""

Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.REASON_LENGTH_MAX)]


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of the data: the check, the variant (empty: none in particular), and how much.

    `size` is in the check's own unit, and grows as things get worse. A `passing` cause is over once
    its check is good again; any other one remains a fact about the data behind the totals.
    """

    kind: str
    variant: str = ""
    size: float
    detail: str
    passing: bool = False

    def excuses(self, other: "Cause") -> bool:
        """Return whether an override of this cause overrides the other one as well.

        Worked by hand: a leak of 100 assignments excuses one of 199 of the same variant, and none
        of 200.
        """
        same = (self.kind, self.variant) == (other.kind, other.variant)
        return same and other.size < GROWTH * self.size


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which a policy did not learn.

    `lifted_at`, `lifted_by`, `reason`: null while it lasts.

    `lifted_by` is the name of the API key, or null where all causes had passed.
    """

    since: datetime
    causes: tuple[Cause, ...]
    lifted_at: datetime | None = None
    lifted_by: str | None = None
    reason: str | None = None


def unexcused(causes: Sequence[Cause], lifted: Sequence[Freeze]) -> tuple[Cause, ...]:
    """Return the causes that were not overridden.

    A cause that passed by itself was never overridden.
    """
    overridden = [cause for freeze in lifted if freeze.lifted_by is not None for cause in freeze.causes]
    return tuple(cause for cause in causes if not any(known.excuses(cause) for known in overridden))


def merged(present: Sequence[Cause], checked: Sequence[Cause]) -> tuple[Cause, ...]:
    """Merge the causes of a freeze with another check.

    Drop passing causes that have ended. All other causes keep their worst value.
    """
    worst = {(cause.kind, cause.variant): cause for cause in present if not cause.passing}
    for cause in checked:
        key = cause.kind, cause.variant
        if key not in worst or cause.size > worst[key].size:
            worst[key] = cause
    return tuple(worst[key] for key in sorted(worst))
