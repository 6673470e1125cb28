"""Use cases of allocation: recompute and publish an experiment, rebuild, and tell the history."""

import structlog

from app.allocation.model import allocate
from app.allocation.store import AllocationStore, Publication
from app.assignment.bucketing import WHOLE
from app.assignment.snapshot import PublishedExperiment, published
from app.core import telemetry

_LOG = structlog.get_logger(__name__)


class AllocationService:
    """Totals become an allocation, the allocation a version, and servers get the newest version.

    A version is committed before it is published, and noted as published after: whoever dies in between
    leaves the experiment due, and computing it again changes nothing.
    """

    def __init__(self, store: AllocationStore) -> None:
        self._store = store

    async def due(self) -> list[int]:
        """Ids of experiments whose totals or definition were changed since they were published."""
        return await self._store.due()

    async def reallocate(self, experiment_id: int) -> None:
        """Compute the allocation from the totals committed so far, and give it to all servers.

        An experiment that is gone is passed over. Raises Unavailable without Valkey, which leaves it due.
        """
        async with self._store.locked(experiment_id) as (connection, due):
            if due is None:
                return
            experiment, latest = due.experiment, due.latest
            weights = allocate(experiment.definition, due.totals)
            unchanged = latest is not None and (latest.epoch, latest.weights) == (experiment.epoch, weights)
            version = (0 if latest is None else latest.version) + (not unchanged)
            if not unchanged:
                await self._store.insert(connection, experiment, version=version, weights=weights)
        await self._publish(published(experiment, version, weights))
        await self._store.mark_published(experiment_id, due.wanted)
        telemetry.REALLOCATIONS.labels("unchanged" if unchanged else "changed").inc()
        for variant, weight in zip(experiment.definition.variants, weights, strict=True):
            telemetry.ALLOCATION.labels(experiment.key, variant.key).set(weight / WHOLE)

    async def want_all_if_lost(self) -> bool:
        """When Valkey has lost what servers load, make every experiment due; whether that was so.

        Noted in PostgreSQL before the first is published, so that dying on the way forgets none.
        """
        if not await self._store.registry_is_lost():
            return False
        await self._store.want_all()
        return True

    async def thin_history(self) -> int:
        """Of versions older than `HISTORY_DENSE_S` keep each minute's last; how many rows went."""
        return await self._store.thin()

    async def _publish(self, experiment: PublishedExperiment) -> None:
        """Publish it, unless servers have a newer one that PostgreSQL knows.

        A version it does not know is from before PostgreSQL was put back to an earlier backup. What servers
        have is read first: PostgreSQL only ever moves on, so that what it does not know then, it never knew.
        """
        if await self._store.publish(experiment) is not Publication.KEPT_NEWER:
            return
        present = await self._store.published_version(experiment.key)
        if present > await self._store.newest_version(experiment.id):
            _LOG.warning("publication_disowned", experiment=experiment.key, version=present)
            await self._store.publish(experiment, disowned=present)
