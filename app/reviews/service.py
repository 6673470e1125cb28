"""Use cases of reviews: settings, claims and answers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

import msgspec
import structlog

from app.core.clock import Clock
from app.core.errors import Conflict, NotFound
from app.core.postgres import Transaction
from app.core.telemetry import REVIEWS
from app.core.text import check_storable
from app.experiments.service import ExperimentService
from app.responses.store import ResponseStore
from app.reviews import limits
from app.reviews.claim_store import ClaimStore, LockedItem
from app.reviews.model import (
    Answer,
    Candidate,
    ItemState,
    Queue,
    Review,
    ReviewSettings,
    Shown,
    StoredSettings,
    Workload,
)
from app.reviews.reading_store import ReadingStore
from app.reviews.store import ReviewStore, insert_items

_LOG: Final = structlog.get_logger(__name__)


class LeaseEnded(Conflict):
    """An answer under a lease that has ended, or that the reviewer never had."""

    kind = "lease-ended"
    title = "Lease ended"


class ReviewService:
    """Use cases of reviewers and of those who set reviews up.

    A reviewer is the holder of an API key: `key:ID`. All requests of one reviewer take turns.
    """

    def __init__(
        self,
        stores: tuple[ReviewStore, ClaimStore, ReadingStore, ResponseStore],
        experiments: ExperimentService,
        clock: Clock,
    ) -> None:
        self._store, self._claims, self._reading, self._responses = stores
        self._experiments = experiments
        self._clock = clock

    async def settings(self, key: str) -> StoredSettings | None:
        """Return the settings in force of an experiment; None before the first. Raises NotFound."""
        return await self._store.settings((await self._experiments.get(key)).id)

    async def put_settings(self, key: str, settings: ReviewSettings) -> StoredSettings:
        """Replace the settings of an experiment. Items that a reviewer has seen keep theirs.

        Raises NotFound; InvalidInput; Conflict if other digits are in use already.
        """
        check_storable(settings.rubric, "rubric")
        for digit, word in settings.labels.items():
            check_storable(word, f"labels.{digit}")
        experiment = await self._experiments.get(key)
        digits = frozenset(settings.labels)
        for used in await self._store.label_sets(experiment.id):
            if used != digits:
                raise Conflict(
                    f"labels must keep the digits {', '.join(map(str, sorted(used)))}:"
                    " reviews use them, and one mean cannot mix two scales",
                    field="labels",
                )
        return await self._store.put_settings(experiment.id, settings, self._clock.now())

    async def claim(
        self, reviewer: str, experiment: str | None = None, queue: Queue | None = None
    ) -> Shown | None:
        """Reserve the next item for a reviewer, and return it; None if there is none.

        A reviewer who holds an item gets it again, with the same lease, and keeps it longer.
        """
        experiment_id = None if experiment is None else (await self._experiments.get(experiment)).id
        for _ in range(limits.REVIEW_CLAIM_TRIES_MAX):
            async with self._claims.turn(reviewer) as connection:
                locked = await self._held_or_next(connection, reviewer, experiment_id, queue)
            if locked is None:
                return None
            shown = await self._shown(locked, reviewer)
            if shown is not None:
                return shown
            await self._give_up(locked, reviewer)
        return None

    async def answer(self, reviewer: str, item_id: int, lease: UUID, answer: Answer) -> Review:
        """Store the first answer of a reviewer. A repeated request changes nothing.

        An answer that is late counts if its place is still free. Raises NotFound; InvalidInput;
        LeaseEnded; Conflict if the reviewer has given another answer.
        """
        now = self._clock.now()
        async with self._claims.turn(reviewer) as connection:
            locked = await self._locked(connection, item_id)
            answer.check(locked.settings)
            before = await self._claims.newest(connection, item_id, reviewer)
            if before is not None:
                if before.answer.same(answer):
                    return before
                raise Conflict(f"you have answered item {item_id} already: send a correction instead")
            held = locked.leases.get(reviewer)
            if held is None or held.token != lease:
                raise LeaseEnded(f"you hold no lease {lease} of item {item_id}: claim an item first")
            answer = _timed(answer, held.claimed_at, now)
            try:
                review, state = await self._claims.answer(
                    connection, locked, reviewer, answer, revision=1, at=now
                )
            except Conflict as error:
                raise LeaseEnded(error.detail) from error
        REVIEWS.labels("skip" if answer.label is None else "label").inc()
        if state is not ItemState.OPEN:
            _LOG.info("review_item_closed", item=item_id, experiment=locked.experiment, state=state)
        return review

    async def correct(self, reviewer: str, item_id: int, answer: Answer) -> Review:
        """Store the next revision of a reviewer's answer. Earlier ones stay.

        The same answer again changes nothing.

        Raises NotFound; InvalidInput; Conflict before the first answer, after
        `REVIEW_REVISIONS_MAX`, and if a skipped item has no free place any more.
        """
        now = self._clock.now()
        async with self._claims.turn(reviewer) as connection:
            locked = await self._locked(connection, item_id)
            answer.check(locked.settings)
            before = await self._claims.newest(connection, item_id, reviewer)
            if before is None:
                raise Conflict(f"you have not answered item {item_id}: claim it and answer it first")
            if before.answer.same(answer):
                return before
            if before.revision >= limits.REVIEW_REVISIONS_MAX:
                raise Conflict(f"an answer can have {limits.REVIEW_REVISIONS_MAX} revisions; it has them all")
            review, _ = await self._claims.answer(
                connection, locked, reviewer, answer, revision=before.revision + 1, at=now
            )
        REVIEWS.labels("correction").inc()
        return review

    async def release(self, reviewer: str, item_id: int, lease: UUID) -> None:
        """Give a claimed item back unanswered. Repeats are harmless. Raises NotFound."""
        async with self._claims.turn(reviewer) as connection:
            locked = await self._locked(connection, item_id)
            held = locked.leases.get(reviewer)
            if held is not None and held.token == lease:
                await self._claims.release(connection, locked, reviewer)

    async def answered(self, reviewer: str, item_id: int) -> Shown:
        """Return an item that a reviewer has answered, to correct it. Raises NotFound."""
        async with self._claims.turn(reviewer) as connection:
            locked = await self._locked(connection, item_id)
            before = await self._claims.newest(connection, item_id, reviewer)
        if before is None:
            raise NotFound(f"you have not answered item {item_id}")
        return await self._shown(locked, reviewer, before) or _show(locked, reviewer, None, None, before)

    async def renew(self, reviewer: str, experiment: str) -> None:
        """Keep the item of an experiment that a reviewer holds. Raises NotFound; LeaseEnded."""
        experiment_id = (await self._experiments.get(experiment)).id
        async with self._claims.turn(reviewer) as connection:
            item_id = await self._claims.held(connection, reviewer, experiment_id, None)
            if item_id is None:
                raise LeaseEnded(f"you hold no item of {experiment}")
            await self._claims.renew(connection, item_id, reviewer)

    async def last_answer(self, reviewer: str, experiment: str) -> int | None:
        """Return the item that a reviewer answered last; None without one. Raises NotFound."""
        return await self._reading.last_answer(reviewer, (await self._experiments.get(experiment)).id)

    async def workload(self, reviewer: str, experiment: str | None = None) -> list[Workload]:
        """Return what a reviewer can do and has done, by experiment."""
        return await self._reading.workload(reviewer, experiment)

    async def _held_or_next(
        self, connection: Transaction, reviewer: str, experiment_id: int | None, queue: Queue | None
    ) -> LockedItem | None:
        item_id = await self._claims.held(connection, reviewer, experiment_id, queue)
        if item_id is not None:
            locked = await self._locked(connection, item_id)
            # The loop may have ended the lease before the lock; the item is then one of all others.
            if reviewer in locked.item.leased:
                await self._claims.renew(connection, item_id, reviewer)
                return locked
        item_id = await self._claims.pick(connection, reviewer, experiment_id, queue)
        if item_id is None:
            return None
        locked = await self._locked(connection, item_id)
        return await self._claims.lease(connection, locked, reviewer, uuid4(), self._clock.now())

    async def _locked(self, connection: Transaction, item_id: int) -> LockedItem:
        locked = await self._claims.lock(connection, item_id)
        if locked is None:
            raise NotFound(f"no item to review has the id {item_id}")
        return locked

    async def _shown(self, locked: LockedItem, reviewer: str, answer: Review | None = None) -> Shown | None:
        """Return an item with its texts; None if the response is gone."""
        stored = await self._responses.read([locked.response_key])
        if not stored or stored[0].erased:
            return None
        return _show(locked, reviewer, stored[0].prompt, stored[0].response, answer)

    async def _give_up(self, locked: LockedItem, reviewer: str) -> None:
        _LOG.warning("review_response_gone", item=locked.id, experiment=locked.experiment)
        async with self._claims.turn(reviewer) as connection:
            await self._claims.give_up(connection, await self._locked(connection, locked.id))


async def enqueue(connection: Transaction, candidates: Sequence[Candidate], at: datetime) -> list[UUID]:
    """Queue responses on which judges disagree, in the caller's transaction. Repeats are harmless.

    Reviews of this queue are for learning and never enter estimates. Return the keys of the
    responses that were added; others are in a queue already, or are not stored.
    """
    return await insert_items(connection, Queue.DISAGREEMENT, candidates, at)


def _show(
    locked: LockedItem, reviewer: str, prompt: str | None, response: str | None, answer: Review | None
) -> Shown:
    lease = locked.leases.get(reviewer)
    return Shown(
        item=locked.id,
        experiment=locked.experiment,
        lease=None if lease is None else lease.token,
        lease_s=locked.settings.lease_s,
        prompt=prompt,
        response=response,
        rubric=locked.settings.rubric,
        labels=locked.settings.labels,
        answer=answer,
    )


def _timed(answer: Answer, claimed_at: datetime, now: datetime) -> Answer:
    """Return an answer with the time since its claim, unless the reviewer's program measured it."""
    if answer.seconds is not None:
        return answer
    elapsed_s = min(max(0.0, (now - claimed_at).total_seconds()), limits.REVIEW_SECONDS_MAX)
    return msgspec.structs.replace(answer, seconds=elapsed_s)
