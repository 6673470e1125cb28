"""The consumer's side of the store of responses: one transaction takes entries of the stream.

A transaction stores new responses, derives their signals, and finds the assignments of signals by
`response_id`. The ledger's own transaction applies these signals, and moves the position. So a
response and everything that depends on it are stored once, or not at all.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg import AsyncCursor

from app.core.telemetry import RESPONSES_STORED
from app.feedback import entry as signals_entry
from app.feedback.entry import SignalsEntry
from app.ledger.lease import Lease, lock_position, store_position
from app.ledger.log import batch as ledger_batch
from app.ledger.log.batch import StreamEntry
from app.ledger.store import LedgerStore, count_events
from app.ledger.transaction import apply
from app.responses import batch, signals
from app.responses.address_step import resolve_addresses, take_waiting
from app.responses.batch import Batch
from app.responses.entry import AcceptedResponse, decode_texts
from app.responses.insert_step import NewResponse, ensure_partitions, insert
from app.responses.model import id_hash
from app.responses.place_step import place_waiting
from app.responses.plans_step import Plan, read_plans
from app.responses.signals import Measured
from app.responses.texts import pack

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ERASED: Final = (
    "SELECT experiment_id, unit_hash, erased_at FROM response_erasures"
    " JOIN unnest(%s::integer[], %s::bigint[]) AS asked (experiment_id, unit_hash)"
    " USING (experiment_id, unit_hash)"
)


class ResponseIntake(LedgerStore):
    """A connection that takes the stream of responses into PostgreSQL."""

    _placed_up_to: UUID | None = None

    @staticmethod
    def apart(entry: StreamEntry) -> tuple[list[tuple[int, StreamEntry]], dict[int, str]]:
        """Split an entry into entries of one event, and the errors of unreadable ones."""
        return batch.apart(entry)

    async def take(
        self, lease: Lease, entries: Sequence[StreamEntry], watermark: datetime | None, *, moves: bool
    ) -> tuple[Lease, list[int]]:
        """Store the responses of the entries with everything that depends on them.

        `moves`: the position moves behind the entries. Return the lease at its new position and the
        experiments whose totals changed. Raises Fenced, UndecodableEntry.
        """
        staged = batch.stage(entries)
        experiment_ids = {response.experiment_id for response in staged.responses}
        plans = await read_plans(self._connection, experiment_ids)
        new = await self._prepared(staged, plans)
        await ensure_partitions(self._connection, {response.expires_on for response in new})
        counts: Counter[str] = Counter()

        async def work(cursor: AsyncCursor) -> tuple[Lease, list[int]]:
            counts.clear()
            await lock_position(cursor, lease)
            fresh_keys = await insert(cursor, await _without_erased(cursor, new))
            fresh = [response for response in new if response.response_key in fresh_keys]
            placed, self._placed_up_to = await place_waiting(cursor, self._placed_up_to)
            stored = [*fresh, *placed]
            about = [*staged.signals, *await take_waiting(cursor, _id_hashes(stored))]
            addressed = await resolve_addresses(cursor, about)
            counts.update(
                stored=len(fresh),
                repeated=len(new) - len(fresh),
                unknown_experiment=len(staged.responses) - len(new),
                feedback=0 if addressed.entry is None else addressed.entry.n,
                feedback_waiting=addressed.waiting,
                feedback_refused=addressed.refused,
            )
            applied = entries if moves else ()
            moving = lease, applied, watermark
            return await self._apply(cursor, moving, stored, plans, addressed.entry)

        moved, changed = await self.transact(work)
        for result, n in counts.items():
            if n:
                RESPONSES_STORED.labels(result).inc(n)
        return moved, changed

    async def renew(self, lease: Lease, watermark: datetime | None) -> None:
        """Store the lease's position and renew it; place responses that waited for an assignment.

        Raises Fenced.
        """
        await self.take(lease, (), watermark, moves=True)

    async def _apply(
        self,
        cursor: AsyncCursor,
        moving: tuple[Lease, Sequence[StreamEntry], datetime | None],
        stored: Sequence[NewResponse],
        plans: Mapping[int, Plan],
        addressed: SignalsEntry | None,
    ) -> tuple[Lease, list[int]]:
        """Apply the signals of stored responses and the addressed ones.

        `moving`: the lease, the entries behind which its position moves, and the watermark.
        """
        lease, applied, watermark = moving
        now = self._clock.now()
        missing = {response.experiment_id for response in stored} - plans.keys()
        if missing:
            plans = {**plans, **await read_plans(self._connection, missing)}
        derived = signals.entry_of(
            [_measured(response, plans) for response in stored if response.assignment is not None],
            _us(now),
        )
        items = [
            StreamEntry("", signals_entry.KIND, item.n, signals_entry.encode(item))
            for item in (derived, addressed)
            if item is not None and item.n
        ]
        if not items:
            moved = lease.after(applied)
            await store_position(cursor, moved, watermark, now=now)
            return moved, []
        staged = ledger_batch.stage(items)
        moved, changed, tally = await apply(cursor, lease, staged, applied, watermark, now=now)
        count_events(tally, sum(item.n for item in items))
        return moved, changed

    async def _prepared(self, staged: Batch, plans: Mapping[int, Plan]) -> list[NewResponse]:
        """Return the responses of known experiments as they are stored: compressed, in a thread."""
        today = self._clock.now().date()
        known = [response for response in staged.responses if response.experiment_id in plans]

        def prepare() -> list[NewResponse]:
            return [_new(response, plans[response.experiment_id], today) for response in known]

        return await asyncio.to_thread(prepare) if known else []


def _new(response: AcceptedResponse, plan: Plan, today: date) -> NewResponse:
    return NewResponse(
        response_key=UUID(bytes=response.key),
        experiment_id=response.experiment_id,
        unit_hash=response.unit_hash,
        expires_on=plan.expires_on(today),
        id_hash=None if response.response_id is None else id_hash(response.response_id),
        assignment=response.assignment or None,
        received_at=_time(response.received_us),
        at=_time(response.at_us),
        failed=response.failed,
        tokens_in=response.tokens_in,
        tokens_out=response.tokens_out,
        latency_ms=response.latency_ms,
        cost_usd=response.cost_usd,
        unit=response.unit,
        response_id=response.response_id,
        session_id=response.session_id,
        model=response.model,
        finish_reason=response.finish_reason,
        body=pack(decode_texts(response.texts)),
    )


async def _without_erased(cursor: AsyncCursor, new: Sequence[NewResponse]) -> list[NewResponse]:
    """Return the responses without the texts of units that were erased after they arrived."""
    units = list({(response.experiment_id, response.unit_hash) for response in new})
    await cursor.execute(_ERASED, ([unit[0] for unit in units], [unit[1] for unit in units]))
    erased = {(row[0], row[1]): row[2] for row in await cursor.fetchall()}
    if not erased:
        return list(new)
    return [
        response._replace(body=None, unit=None, session_id=None)
        if (erased_at := erased.get((response.experiment_id, response.unit_hash)))
        and response.received_at <= erased_at
        else response
        for response in new
    ]


def _measured(response: NewResponse, plans: Mapping[int, Plan]) -> Measured:
    plan = plans.get(response.experiment_id)
    return Measured(
        response.response_key,
        response.assignment or b"",
        _us(response.at),
        response.failed,
        response.tokens_in,
        response.tokens_out,
        response.latency_ms,
        response.cost_usd,
        response.finish_reason,
        () if plan is None else plan.reads,
    )


def _id_hashes(stored: Collection[NewResponse]) -> list[int]:
    return [response.id_hash for response in stored if response.id_hash is not None]


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _time(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)
