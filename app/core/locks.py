"""Keys of all advisory locks in PostgreSQL.

PostgreSQL keeps two separate key spaces: one 64-bit number, or two 32-bit numbers (a class and a
member). The session holds the lock of a migration; every other lock ends with its transaction.
"""

from typing import Any, Final, LiteralString

from sqlalchemy import Select, func, select

# One number
MIGRATION: Final = 0x57414C44  # "WALD": processes that start together migrate one at a time
EXPERIMENT_CREATION: Final = 0x57414C45  # creations take turns, so that their number is exact
ENDPOINT_CREATION: Final = 0x57414C57  # the same for endpoints of webhooks

JUDGE_CREATION: Final = 0x57414C4A  # registrations of judge versions take turns
RULE_CREATION: Final = 0x57414C52  # creations of judging rules take turns
JUDGING_BUDGETS: Final = 0x57414C42  # workers that use up the budgets of judging rules take turns

# A class; the comment names the member
LAYER: Final = 0x57414C4C  # hash of a layer's key: experiments of one layer start one at a time
UNIT_SIGNALS: Final = 0x57414C44  # group of experiments: signals by unit exclude new exposures
FIRST_EXPOSURES: Final = 0x44524157  # "DRAW", an experiment: batches take turns
REVIEWER: Final = 0x57524556  # "WREV", a reviewer: its requests take turns
SIGNAL_NAMES: Final = 0x57534947  # "WSIG", an experiment: batches take turns

LAYOUTS: Final = 0x574C4159  # "WLAY", group of experiments: a change of metrics excludes the ledger

LOCK_MEMBER: Final[LiteralString] = "SELECT pg_advisory_xact_lock(%s, %s)"
LOCK_MEMBER_SHARED: Final[LiteralString] = "SELECT pg_advisory_xact_lock_shared(%s, %s)"
LOCK_MEMBERS_SHARED: Final[LiteralString] = (
    "SELECT pg_advisory_xact_lock_shared(%s, member) FROM unnest(%s::integer[]) AS member"
)
LAYOUT_GROUPS: Final = 64
LAYOUT_NONE: Final = -1
"""The member for transactions that read which experiments there are before they know their own."""


def layout_group(experiment_id: int) -> int:
    """Return the member of `LAYOUTS` that an experiment belongs to."""
    return experiment_id % LAYOUT_GROUPS


def member_lock(lock: int, member: int) -> Select[Any]:
    """Return the statement that takes a member of a lock for the transaction."""
    return select(func.pg_advisory_xact_lock(lock, member))


def transaction_lock(lock: int, name: str | None = None) -> Select[Any]:
    """Return the statement that takes a lock, or its member `name`, for the transaction."""
    key = (lock,) if name is None else (lock, func.hashtext(name))
    return select(func.pg_advisory_xact_lock(*key))
