"""Claims and answers in PostgreSQL: the row of an item is locked while its reviewers change.

All transactions take locks in one order: the reviewer, then the item.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Row, delete, insert, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core import locks
from app.experiments.tables import experiments
from app.responses.store import hold, release
from app.reviews.item import Item
from app.reviews.lease import Lease
from app.reviews.model import Answer, ItemState, Queue, Review, StoredSettings
from app.reviews.store import holder_of, newest_settings, settings_of
from app.reviews.tables import review_items, review_leases, review_settings, reviews

_CLAIM: Final = text(files(__package__).joinpath("sql/claim.sql").read_text())
_ITEM_IDS: Final = range(1, 2**63)


class LockedItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item as a transaction holds it: no other transaction changes its reviewers meanwhile."""

    id: int
    experiment_id: int
    experiment: str
    response_key: UUID
    queue: Queue
    state: ItemState
    item: Item
    settings: StoredSettings
    leases: Mapping[str, Lease]

    @property
    def untouched(self) -> bool:
        """Whether no reviewer has seen it, so that newer settings may apply to it."""
        return not (self.item.labelled or self.item.skipped or self.leases)


class ClaimStore:
    """SQL of claims and answers. Methods with a connection are parts of a transaction of `turn`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def turn(self, reviewer: str) -> AsyncIterator[AsyncConnection]:
        """Open a transaction of a reviewer. The transactions of one reviewer take turns."""
        async with self._engine.begin() as connection:
            await connection.execute(locks.transaction_lock(locks.REVIEWER, reviewer))
            yield connection

    async def held(
        self, connection: AsyncConnection, reviewer: str, experiment_id: int | None, queue: Queue | None
    ) -> int | None:
        """Return the item that a reviewer has claimed and not answered, if any."""
        statement = (
            select(review_leases.c.item_id)
            .join(review_items, review_items.c.id == review_leases.c.item_id)
            .where(review_leases.c.reviewer == reviewer, ~review_leases.c.ended)
            .order_by(review_leases.c.claimed_at, review_leases.c.item_id)
            .limit(1)
        )
        if experiment_id is not None:
            statement = statement.where(review_leases.c.experiment_id == experiment_id)
        if queue is not None:
            statement = statement.where(review_items.c.queue == queue)
        item_id: int | None = await connection.scalar(statement)
        return item_id

    async def pick(
        self, connection: AsyncConnection, reviewer: str, experiment_id: int | None, queue: Queue | None
    ) -> int | None:
        """Lock the next item that a reviewer may claim, and return its id; None without one."""
        parameters = {"reviewer": reviewer, "experiment_id": experiment_id, "queue": queue}
        item_id: int | None = await connection.scalar(_CLAIM, parameters)
        return item_id

    async def lock(self, connection: AsyncConnection, item_id: int) -> LockedItem | None:
        """Lock an item against all changes, and return it; None if no item has this id."""
        if item_id not in _ITEM_IDS:
            return None
        statement = (
            select(review_items, experiments.c.key)
            .join(experiments, experiments.c.id == review_items.c.experiment_id)
            .where(review_items.c.id == item_id)
            .with_for_update(of=review_items)
        )
        row = (await connection.execute(statement)).one_or_none()
        return None if row is None else await _locked(connection, row)

    async def lease(
        self, connection: AsyncConnection, locked: LockedItem, reviewer: str, token: UUID, at: datetime
    ) -> LockedItem:
        """Give a reviewer a place in an item, and return the item. Raises Conflict if none is free.

        An item that no reviewer has seen takes the settings in force.
        """
        settings = locked.settings
        if locked.untouched:
            settings = await newest_settings(connection, locked.experiment_id) or settings
        item = msgspec.structs.replace(
            locked.item, wanted=settings.reviewers if locked.untouched else locked.item.wanted
        ).claimed(reviewer)
        values = {"token": token, "renewals": 0, "ended": False, "claimed_at": at}
        statement = postgresql.insert(review_leases).values(
            item_id=locked.id, experiment_id=locked.experiment_id, reviewer=reviewer, **values
        )
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=[review_leases.c.item_id, review_leases.c.reviewer], set_=values
            )
        )
        await self._write(connection, locked.id, item, wanted=item.wanted, revision=settings.revision)
        lease = Lease(locked.id, reviewer, token, 0, ended=False, claimed_at=at, lease_s=settings.lease_s)
        leases = {**locked.leases, reviewer: lease}
        return msgspec.structs.replace(locked, item=item, settings=settings, leases=leases)

    async def renew(self, connection: AsyncConnection, item_id: int, reviewer: str) -> None:
        """Store a sign of life of a reviewer who holds an item."""
        statement = update(review_leases).where(
            review_leases.c.item_id == item_id, review_leases.c.reviewer == reviewer
        )
        await connection.execute(statement.values(renewals=review_leases.c.renewals + 1))

    async def newest(self, connection: AsyncConnection, item_id: int, reviewer: str) -> Review | None:
        """Return a reviewer's newest answer to an item; None without one."""
        statement = (
            select(reviews)
            .where(reviews.c.item_id == item_id, reviews.c.reviewer == reviewer)
            .order_by(reviews.c.revision.desc())
            .limit(1)
        )
        row = (await connection.execute(statement)).one_or_none()
        return None if row is None else review_of(row)

    async def answer(
        self,
        connection: AsyncConnection,
        locked: LockedItem,
        reviewer: str,
        answer: Answer,
        *,
        revision: int,
        at: datetime,
    ) -> tuple[Review, ItemState]:
        """Store an answer with its consequences for the item. Return it with the state of the item.

        Raises Conflict if the reviewer has no place and none is free.
        """
        change = Item.skipped_by if answer.label is None else Item.labelled_by
        item = change(locked.item, reviewer)
        review = Review(
            item=locked.id, reviewer=reviewer, revision=revision, at=at, **msgspec.structs.asdict(answer)
        )
        row = msgspec.structs.asdict(review)
        await connection.execute(insert(reviews).values(item_id=row.pop("item"), **row))
        await self._delete_leases(connection, locked.id, None if item.state is ItemState.DONE else reviewer)
        await self._write(connection, locked.id, item, answers=review_items.c.answers + 1, changed_at=at)
        await _hold_while_open(connection, locked, item.state)
        return review, item.state

    async def resize(self, connection: AsyncConnection, locked: LockedItem, wanted: int) -> LockedItem:
        """Change the number of places of an item, and return it."""
        statement = update(review_items).where(review_items.c.id == locked.id)
        await connection.execute(statement.values(wanted=wanted))
        return msgspec.structs.replace(locked, item=msgspec.structs.replace(locked.item, wanted=wanted))

    async def release(self, connection: AsyncConnection, locked: LockedItem, reviewer: str) -> None:
        """Free the place of a reviewer who gives an item back."""
        await self._delete_leases(connection, locked.id, reviewer)
        await self._write(connection, locked.id, locked.item.released_by(reviewer))

    async def give_up(self, connection: AsyncConnection, locked: LockedItem) -> None:
        """Close an item whose response is gone, and end its leases."""
        await self._delete_leases(connection, locked.id, None)
        item = msgspec.structs.replace(locked.item, leased=frozenset())
        await self._write(connection, locked.id, item, state=ItemState.GIVEN_UP)
        await release(connection, [locked.response_key], holder_of(locked.queue))

    async def active_leases(self) -> list[Lease]:
        """Return all leases that have not ended."""
        statement = (
            select(review_leases, review_settings.c.lease_s)
            .join(review_items, review_items.c.id == review_leases.c.item_id)
            .join(
                review_settings,
                (review_settings.c.experiment_id == review_items.c.experiment_id)
                & (review_settings.c.revision == review_items.c.revision),
            )
            .where(~review_leases.c.ended)
        )
        async with self._engine.connect() as connection:
            return [_lease(row, row.lease_s) for row in await connection.execute(statement)]

    async def end(self, lease: Lease) -> bool:
        """End a lease without a sign of life since it was read, and return whether it ended now."""
        async with self._engine.begin() as connection:
            locked = await self.lock(connection, lease.item_id)
            held = None if locked is None else locked.leases.get(lease.reviewer)
            if locked is None or held is None or held.ended or held.sign != lease.sign:
                return False
            statement = update(review_leases).where(_of(lease.item_id, lease.reviewer))
            await connection.execute(statement.values(ended=True))
            await self._write(connection, locked.id, locked.item.released_by(lease.reviewer))
            return True

    async def _delete_leases(self, connection: AsyncConnection, item_id: int, reviewer: str | None) -> None:
        await connection.execute(delete(review_leases).where(_of(item_id, reviewer)))

    async def _write(self, connection: AsyncConnection, item_id: int, item: Item, **others: Any) -> None:
        values: dict[str, Any] = {
            "labelled": len(item.labelled),
            "skipped": len(item.skipped),
            "taken": item.taken,
            "state": item.state,
        }
        statement = update(review_items).where(review_items.c.id == item_id)
        await connection.execute(statement.values(values | others))


async def _locked(connection: AsyncConnection, row: Row[Any]) -> LockedItem:
    """Read the reviewers and settings of an item whose row is locked."""
    of_settings = select(review_settings).where(
        review_settings.c.experiment_id == row.experiment_id, review_settings.c.revision == row.revision
    )
    settings = settings_of((await connection.execute(of_settings)).one())
    of_answers = (
        select(reviews.c.reviewer, reviews.c.label)
        .where(reviews.c.item_id == row.id)
        .ext(postgresql.distinct_on(reviews.c.reviewer))
        .order_by(reviews.c.reviewer, reviews.c.revision.desc())
    )
    labels = {answer.reviewer: answer.label for answer in await connection.execute(of_answers)}
    rows = await connection.execute(select(review_leases).where(review_leases.c.item_id == row.id))
    leases = {lease.reviewer: _lease(lease, settings.lease_s) for lease in rows}
    item = Item(
        row.wanted,
        frozenset(reviewer for reviewer, label in labels.items() if label is not None),
        frozenset(reviewer for reviewer, label in labels.items() if label is None),
        frozenset(reviewer for reviewer, lease in leases.items() if not lease.ended),
    )
    return LockedItem(
        id=row.id,
        experiment_id=row.experiment_id,
        experiment=row.key,
        response_key=row.response_key,
        queue=Queue(row.queue),
        state=ItemState(row.state),
        item=item,
        settings=settings,
        leases=leases,
    )


async def _hold_while_open(connection: AsyncConnection, locked: LockedItem, state: ItemState) -> None:
    """Keep the response of an item from expiring while the item is open."""
    if state is not locked.state:
        change = hold if state is ItemState.OPEN else release
        await change(connection, [locked.response_key], holder_of(locked.queue))


def _of(item_id: int, reviewer: str | None) -> ColumnElement[bool]:
    """Return the condition for the lease of a reviewer on an item; None: of all reviewers."""
    of_item = review_leases.c.item_id == item_id
    return of_item if reviewer is None else of_item & (review_leases.c.reviewer == reviewer)


def review_of(row: Row[Any]) -> Review:
    """Return the answer in a row of the table of reviews."""
    return Review(
        item=row.item_id,
        reviewer=row.reviewer,
        revision=row.revision,
        label=row.label,
        reason=row.reason,
        comment=row.comment,
        seconds=row.seconds,
        at=row.at,
    )


def _lease(row: Row[Any], lease_s: int) -> Lease:
    return Lease(row.item_id, row.reviewer, row.token, row.renewals, row.ended, row.claimed_at, lease_s)
