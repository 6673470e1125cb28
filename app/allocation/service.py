"""Use cases of allocation: recompute and publish one experiment, or all of them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from app.allocation import freeze_store, limits
from app.allocation.contextual import decided_by, digest
from app.allocation.forgetting import next_bucket_s
from app.allocation.freeze_store import Held
from app.allocation.freezes import Cause, Freeze, merged, unexcused
from app.allocation.model import Allocated, allocate, only, standing_winner, with_held, within_step
from app.allocation.store import AllocationStore, Due, Publication
from app.assignment.bucketing import WHOLE
from app.assignment.snapshot import PublishedContextual, PublishedExperiment, PublishedSegments, published
from app.core import telemetry
from app.core.clock import Clock
from app.core.errors import Conflict, Unavailable
from app.core.postgres import Transaction
from app.experiments.limits import EXPERIMENTS_MAX
from app.experiments.publication_store import request_publication, set_due_at
from app.ledger.rebuild import Difference
from bandits.identification import Winner

_LOG = structlog.get_logger(__name__)
UNUSABLE: Final = (msgspec.MsgspecError, ValueError)
"""What allocating an experiment raises that a newer version defined."""


class Rebuilt(msgspec.Struct, frozen=True):
    """Differences that a rebuild found: in log and totals, and ids of experiments in weights."""

    ledger: Sequence[Difference]
    weights: tuple[int, ...]

    @property
    def equal(self) -> bool:
        """Whether everything came out as it was, bit for bit."""
        return not (self.ledger or self.weights)


class AllocationService:
    """Totals become an allocation, the allocation a version, and servers get the newest version.

    A version is committed before it is published, and noted as published after. A crash in between
    leaves the experiment due, and computing it again changes nothing.

    `on_change` receives what was committed before it is published: the server that makes a change
    serves by it before it answers.
    """

    def __init__(
        self,
        store: AllocationStore,
        clock: Clock,
        on_change: Callable[[PublishedExperiment], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_change = on_change

    async def due(self) -> list[int]:
        """Return at most `REALLOCATION_BATCH_MAX` ids of experiments with unpublished changes.

        A policy that forgets is also due once per bucket of time, until it has no data left to
        forget.
        """
        await self._store.publications.request_overdue(self._clock.now())
        return await self._store.publications.due(limits.REALLOCATION_BATCH_MAX)

    async def reallocate(self, experiment_id: int) -> bool:
        """Compute the allocation from the totals committed so far, and give it to all servers.

        Returns whether this made a new version. A deleted experiment is skipped. Raises Unavailable
        without Valkey, which leaves the experiment due.
        """
        now_s = self._clock.now().timestamp()
        async with self._store.locked(experiment_id, now_s) as (connection, due):
            if due is None:
                return False
            experiment, latest = due.experiment, due.latest
            by_context = await self._decides_by(connection, due)
            allocated = _allocated(due, digest(by_context), now_s)
            unchanged = allocated.is_in_force(latest, experiment.epoch)
            version = (0 if latest is None else latest.version) + (not unchanged)
            if not unchanged:
                await self._store.insert(connection, experiment, version, allocated)
            if (due_at := _due_at(due, now_s)) != due.due_at:
                await set_due_at(connection, experiment_id, due_at)
            weights = allocated.weights
            publication = published(experiment, version, weights, by_context)
            await self._store.store_published(connection, publication)
        await self._publish(publication)
        await self._store.publications.mark_published(experiment_id, due.wanted)
        telemetry.LEARNING_FROZEN.labels(experiment.key).set(due.held is not None)
        telemetry.REALLOCATIONS.labels("unchanged" if unchanged else "changed").inc()
        for variant, weight in zip(experiment.definition.variants, weights, strict=True):
            telemetry.ALLOCATION.labels(experiment.key, variant.key).set(weight / WHOLE)
        return not unchanged

    async def conclude(self, experiment_id: int, epoch: int, winner: Winner) -> bool:
        """Give all traffic to the winner that the readout declares for `best_arm` in this epoch.

        Returns whether this decided. Nothing happens if another rule is in force by now, a winner
        stands already, or learning is frozen. The loop of reallocation publishes the new version.
        """
        async with self._store.locked(experiment_id, self._clock.now().timestamp()) as (connection, due):
            if due is None or due.held is not None or due.experiment.epoch != epoch:
                return False
            experiment, latest = due.experiment, due.latest
            if not experiment.definition.policy.decides or standing_winner(experiment, latest) is not None:
                return False
            version = (0 if latest is None else latest.version) + 1
            await self._store.insert(connection, experiment, version, _of_winner(due, winner, None))
            await request_publication(connection, experiment_id)
        variant = experiment.definition.variants[winner.arm].key
        _LOG.info("best_arm_decided", experiment=experiment.key, variant=variant, epoch=epoch)
        return True

    async def freeze(self, experiment_id: int, causes: Sequence[Cause]) -> Freeze | None:
        """Apply a check of the data: freeze the allocation, or lift the freeze if all has passed.

        Returns the freeze in force, or None. A cause that was overridden freezes again only after
        it has grown. Serving goes on. The shares of a fixed policy do not depend on data.
        """
        now_s = self._clock.now().timestamp()
        async with self._store.locked(experiment_id, now_s) as (connection, due):
            if due is None:
                return None
            before = await freeze_store.read_freezes(connection, experiment_id)
            lasting = next((freeze for freeze in before if freeze.lifted_at is None), None)
            grown = unexcused(causes, before)
            if lasting is None and not grown:
                return None
            if lasting is None:
                held = Held.of(due.experiment.epoch, await _by_context(due))
                await freeze_store.begin(connection, experiment_id, grown, held)
            elif (now := merged(lasting.causes, grown)) == lasting.causes:
                return lasting
            elif now:
                await freeze_store.name_causes(connection, experiment_id, now)
            else:
                await freeze_store.lift(connection, experiment_id)
            await request_publication(connection, experiment_id)
            after = await freeze_store.read_freeze(connection, experiment_id)
        _log_freeze(due.experiment.key, lasting, after)
        return after

    async def unfreeze(self, key: str, reason: str, *, key_id: int) -> Freeze:
        """Override a freeze; `key_id`: of the API key that does.

        Raises NotFound; Conflict if none lasts.
        """
        experiment_id = await self._store.find(key)
        async with self._store.locked(experiment_id, self._clock.now().timestamp()) as (connection, _):
            if await freeze_store.read_freeze(connection, experiment_id) is None:
                raise Conflict(f"{key} is not frozen")
            await freeze_store.lift(connection, experiment_id, key_id=key_id, reason=reason)
            await request_publication(connection, experiment_id)
            lifted = (await freeze_store.read_freezes(connection, experiment_id))[0]
        _LOG.warning("learning_unfrozen", experiment=key, by=lifted.lifted_by, reason=reason)
        try:
            await self.reallocate(experiment_id)
        except Unavailable as error:
            _LOG.warning("publication_left_to_worker", experiment=key, reason=repr(error))
        return lifted

    async def freezes(self, key: str) -> list[Freeze]:
        """Return the newest freezes of an experiment, the newest first. Raises NotFound."""
        return await self._store.freezes(await self._store.find(key))

    async def rebuild(self, rebuild_ledger: Callable[[], Awaitable[Sequence[Difference]]]) -> Rebuilt:
        """Rebuild everything: totals from the log, weights from totals, and then what servers load.

        `rebuild_ledger` does the first part. What is due is allocated before, so that on a server
        without traffic the answer is exact; with traffic, weights that moved meanwhile are among
        those that differ.
        """
        await self._store.publications.request_overdue(self._clock.now())
        for experiment_id in await self._store.publications.due(EXPERIMENTS_MAX):
            await self.reallocate(experiment_id)
        ledger = await rebuild_ledger()
        every_id = await self._store.publications.experiment_ids()
        return Rebuilt(ledger, tuple([changed for changed in every_id if await self.reallocate(changed)]))

    async def refill_if_lost(self) -> int | None:
        """Publish everything again if Valkey has lost what servers load.

        Returns the number of experiments; None: nothing was lost. Each experiment is published as
        it was last, from PostgreSQL; only what is not stored there is computed. The mark that
        servers wait for comes last, so that a worker which dies before leaves the whole work to the
        next. Raises Unavailable without Valkey.
        """
        token = await self._store.begin_refill()
        if token is None:
            return None
        refilled, newer = 0, []
        async for page in self._store.stored_pages():
            newer += await self._store.publish_page(page)
            refilled += len(page)
        if newer:  # as after PostgreSQL was put back to an earlier backup
            await self._store.publications.mark_unpublished(newer)
        missing = await self._store.not_stored()
        if missing:
            await self._store.publications.mark_unpublished(missing)
        for experiment_id in missing:
            with suppress(*UNUSABLE):  # the loop that finds it due reports it
                await self.reallocate(experiment_id)
                refilled += 1
        return refilled if await self._store.end_refill(token) else None

    async def store_missing(self) -> int:
        """Make experiments due whose published form is not stored yet; returns their number."""
        missing = await self._store.not_stored()
        if missing:
            await self._store.publications.mark_unpublished(missing)
        return len(missing)

    async def thin_history(self) -> None:
        """Thin versions older than `HISTORY_DENSE_S` to the last of each minute, in bounded steps."""
        await self._store.thin()

    async def _decides_by(
        self, connection: Transaction, due: Due
    ) -> PublishedContextual | PublishedSegments | None:
        """Return what a contextual policy decides by; while it is frozen, that of the freeze.

        A policy that is set during the freeze begins with what is known, and holds it.
        """
        epoch = due.experiment.epoch
        if due.held is not None and due.held.epoch == epoch:
            return due.held.by_context
        by_context = await _by_context(due)
        if due.held is not None:
            await freeze_store.hold(connection, due.experiment.id, Held.of(epoch, by_context))
        return by_context

    async def _publish(self, experiment: PublishedExperiment) -> None:
        """Publish it, unless servers have a newer one that PostgreSQL knows.

        A version that PostgreSQL does not know is from before it was restored from an earlier
        backup. The version of the servers is read first: versions in PostgreSQL only grow, so a
        version that it does not know then was never in it.
        """
        self._on_change(experiment)
        if await self._store.publish(experiment) is not Publication.KEPT_NEWER:
            return
        present = await self._store.published_version(experiment.key)
        if present > await self._store.newest_version(experiment.id):
            _LOG.warning("publication_disowned", experiment=experiment.key, version=present)
            await self._store.publish(experiment, disowned=present)


def _allocated(due: Due, digest: bytes | None, now_s: float) -> Allocated:
    """Return the allocation that follows from the totals and the allocation in force."""
    definition, latest = due.experiment.definition, due.latest
    if due.held is not None and latest is not None and definition.policy.moves:
        winner = latest.winner if latest.epoch == due.experiment.epoch else None
        return Allocated(with_held(due.experiment, latest.weights), digest, winner, due.wanted)
    if (winner := standing_winner(due.experiment, latest)) is not None:
        return _of_winner(due, winner, digest)
    target = allocate(
        definition, due.totals, learned=due.learned, earlier=due.earlier, moments=due.moments, now_s=now_s
    )
    weights = within_step(definition, target, latest, due.wanted)
    return Allocated(with_held(due.experiment, weights), digest, None, due.wanted)


def _of_winner(due: Due, winner: Winner, digest: bytes | None) -> Allocated:
    """Return the allocation that serves a winner alone."""
    winning = only(winner.arm, len(due.experiment.definition.variants))
    return Allocated(with_held(due.experiment, winning), digest, winner, due.wanted)


def _log_freeze(key: str, before: Freeze | None, after: Freeze | None) -> None:
    if after is None:
        _LOG.info("learning_unfrozen", experiment=key, by=None, reason="all causes have passed")
    else:
        details = [cause.detail for cause in after.causes]
        _LOG.error("learning_frozen", experiment=key, causes=details, again=before is not None)


def _due_at(due: Due, now_s: float) -> datetime | None:
    """Return when time alone changes the allocation."""
    forgetting = due.experiment.definition.policy.forgets
    at_s = None if forgetting is None else next_bucket_s(forgetting, due.learned, now_s)
    return None if at_s is None else datetime.fromtimestamp(at_s, UTC)


async def _by_context(due: Due) -> PublishedContextual | PublishedSegments | None:
    """Compute in a thread what a contextual policy decides by: it may take seconds."""
    definition = due.experiment.definition
    if due.experiment.held or definition.policy.reads != "contexts":  # shares of contexts cannot be held
        return None
    n_variants, active = len(definition.variants), definition.active
    return await asyncio.to_thread(decided_by, definition.policy, due.learned, n_variants, active)
