"""The state of one item: who has labelled, skipped or leased it. Pure.

    claim    → a lease, if a place is free
    answer   → a label or a skip; the lease ends
    release  → the lease ends

An item has `wanted` places. A label and a lease take one place each; a skip takes none, so another
reviewer can have the place. A reviewer answers an item once. A later answer is a correction, which
keeps the place.
"""

import msgspec

from app.core.errors import Conflict
from app.reviews import limits
from app.reviews.model import ItemState

Names = frozenset[str]


class Item(msgspec.Struct, frozen=True):
    """An item and its reviewers. A reviewer is in at most one of the three sets."""

    wanted: int
    labelled: Names = frozenset()
    skipped: Names = frozenset()
    leased: Names = frozenset()

    @property
    def taken(self) -> int:
        """Number of places that are taken."""
        return len(self.labelled) + len(self.leased)

    @property
    def state(self) -> ItemState:
        """State that follows from the answers."""
        if len(self.labelled) >= self.wanted:
            return ItemState.DONE
        if len(self.skipped) > self.wanted + limits.REVIEW_SPARE_SKIPS:
            return ItemState.GIVEN_UP
        return ItemState.OPEN

    def answered_by(self, reviewer: str) -> bool:
        """Return whether a reviewer has labelled or skipped the item."""
        return reviewer in self.labelled or reviewer in self.skipped

    def claimable_by(self, reviewer: str) -> bool:
        """Return whether a reviewer may get a new lease."""
        new = not self.answered_by(reviewer) and reviewer not in self.leased
        return new and self.state is ItemState.OPEN and self.taken < self.wanted

    def claimed(self, reviewer: str) -> "Item":
        """Return the item with a lease of this reviewer. Raises Conflict if no place is free."""
        if not self.claimable_by(reviewer):
            raise Conflict("this item has no free place for this reviewer")
        return msgspec.structs.replace(self, leased=self.leased | {reviewer})

    def labelled_by(self, reviewer: str) -> "Item":
        """Return the item with a label of this reviewer.

        A reviewer without a lease, whose lease has ended, or who skipped the item, gets a place if
        one is free. Raises Conflict if none is.
        """
        if reviewer in self.labelled:
            return self
        if reviewer not in self.leased and self.taken >= self.wanted:
            raise Conflict(
                "the lease has ended and other reviewers have taken this item: "
                "the label was not stored; claim another item"
            )
        mine = {reviewer}
        return Item(self.wanted, self.labelled | mine, self.skipped - mine, self.leased - mine)

    def skipped_by(self, reviewer: str) -> "Item":
        """Return the item with a skip of this reviewer instead of a lease or label."""
        mine = {reviewer}
        return Item(self.wanted, self.labelled - mine, self.skipped | mine, self.leased - mine)

    def released_by(self, reviewer: str) -> "Item":
        """Return the item without a lease of this reviewer."""
        return msgspec.structs.replace(self, leased=self.leased - {reviewer})
