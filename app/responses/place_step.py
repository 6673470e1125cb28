"""The step that finds the assignments of responses that named a unit."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from psycopg import AsyncCursor

from app.assignment import assignment_id
from app.assignment.assignment_id import AssignmentId
from app.feedback.limits import CLOCK_TOLERANCE_US
from app.ledger.session import sql
from app.responses import limits
from app.responses.insert_step import NewResponse

_READ_WAITING: Final = sql(__package__, "read_waiting")
_FIND_ASSIGNMENTS: Final = sql(__package__, "find_assignments")
_PLACE_WAITING: Final = sql(__package__, "place_waiting")
_FIRST: Final = UUID(int=0)
_KEY_ID: Final = 1
"""Key of the bodies made here, which no one signs."""


async def place_waiting(cursor: AsyncCursor, after: UUID | None) -> tuple[list[NewResponse], UUID | None]:
    """Place up to `PLACED_MAX` waiting responses whose units have assignments by now.

    `after` is the key from which to go on. Return the placed responses and the next key; None at
    the end. The exposures that were acknowledged before a response are in the log before it is
    placed, so that a response never gets an earlier assignment than its own.
    """
    await cursor.execute(_READ_WAITING, {"after": after or _FIRST, "limit": limits.PLACED_MAX})
    waiting = [NewResponse(*row) for row in await cursor.fetchall()]
    if not waiting:
        return [], None
    placed = await _assigned(cursor, waiting)
    if placed:
        known = [AssignmentId.from_body(response.assignment or b"") for response in placed]
        await cursor.execute(
            _PLACE_WAITING,
            {
                "keys": [response.response_key for response in placed],
                "days": [response.expires_on for response in placed],
                "bodies": [response.assignment for response in placed],
                "assignments": [assigned.id for assigned in known],
                "epochs": [assigned.epoch for assigned in known],
                "variants": [assigned.variant for assigned in known],
            },
        )
    return placed, waiting[-1].response_key if len(waiting) == limits.PLACED_MAX else None


async def _assigned(cursor: AsyncCursor, waiting: Sequence[NewResponse]) -> list[NewResponse]:
    """Return the responses whose units have an assignment, with its body."""
    await cursor.execute(
        _FIND_ASSIGNMENTS,
        {
            "experiment_ids": [response.experiment_id for response in waiting],
            "unit_hashes": [response.unit_hash for response in waiting],
            "times": [response.at for response in waiting],
            "tolerance_us": CLOCK_TOLERANCE_US,
        },
    )
    placed = []
    for number, identity, epoch, policy_version, variant, propensity in await cursor.fetchall():
        response = waiting[number - 1]
        body = assignment_id.body(
            key_id=_KEY_ID,
            flags=0,
            variant=variant,
            experiment_id=response.experiment_id,
            epoch=epoch,
            policy_version=policy_version,
            id=identity.bytes,
            propensity=propensity,
            unit_hash=response.unit_hash,
        )
        placed.append(response._replace(assignment=body))
    return placed
