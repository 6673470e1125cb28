"""Leases of reviewers, and which of them have been silent for too long. Pure."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple
from uuid import UUID


class Lease(NamedTuple):
    """The right of a reviewer to answer an item. `renewals` counts the signs of life."""

    item_id: int
    reviewer: str
    token: UUID
    renewals: int
    ended: bool
    claimed_at: datetime
    lease_s: int

    @property
    def sign(self) -> tuple[UUID, int]:
        """The last sign of life: it differs after each renewal."""
        return self.token, self.renewals


class LeaseWatch:
    """Counter readings at which this process first saw the present sign of each lease."""

    def __init__(self) -> None:
        self._seen: dict[tuple[UUID, int], float] = {}

    def silent(self, active: Iterable[Lease], counter_s: float) -> list[Lease]:
        """Return the active leases without a new sign for their whole length.

        `counter_s` is a reading of a counter that no one can set. Leases that are not active are
        forgotten.
        """
        leases = {lease.sign: lease for lease in active}
        self._seen = {sign: self._seen.get(sign, counter_s) for sign in leases}
        return [lease for sign, lease in leases.items() if counter_s - self._seen[sign] >= lease.lease_s]
