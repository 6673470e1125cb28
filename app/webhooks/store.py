"""Endpoints, messages and deliveries in PostgreSQL.

All transactions take locks in one order: the endpoint, then its deliveries. The outbox holds a
share of the endpoint's key while it adds a delivery. A transaction that disables or deletes the
endpoint locks the whole row, so it sees every delivery.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any, Final

from sqlalchemy import Row, Select, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core import locks
from app.core.errors import NotFound
from app.jobs.queue_store import Claimed, JobQueue
from app.webhooks import limits
from app.webhooks.model import (
    Adapter,
    Attempt,
    Claim,
    Delivery,
    DeliveryState,
    Disabled,
    Endpoint,
    Message,
    Secrets,
    webhook_id,
)
from app.webhooks.schedule import Settled
from app.webhooks.tables import webhook_attempts, webhook_deliveries, webhook_endpoints, webhook_messages

_FOLDER: Final = files(__package__)
_THIN: Final = text(_FOLDER.joinpath("sql/thin.sql").read_text())
_QUEUE: Final = JobQueue(
    webhook_deliveries,
    lane="endpoint_id",
    lanes="SELECT id, CAST(:endpoint_max AS bigint) FROM webhook_endpoints WHERE disabled_at IS NULL",
    order_in_lane="next_attempt_at",
    order="step, next_attempt_at",  # first attempts before repeats
)
_ENDPOINT_IDS: Final = range(1, 2**31)
_DELIVERY_IDS: Final = range(1, 2**63)

_SECRET_COLUMNS: Final = ("secret", "previous_secret", "previous_until")
# All but the secrets.
_ENDPOINT_COLUMNS: Final = [
    column for column in webhook_endpoints.c if column.name not in {"secret", "previous_secret"}
]


class WebhookStore:
    """SQL of webhooks. Methods that take a connection are parts of a transaction of `change`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def change(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction."""
        async with self._engine.begin() as connection:
            yield connection

    async def count_endpoints(self, connection: AsyncConnection) -> int:
        """Count the endpoints. No other transaction adds one before this one ends."""
        await connection.execute(locks.transaction_lock(locks.ENDPOINT_CREATION))
        return int(
            (await connection.execute(select(func.count()).select_from(webhook_endpoints))).scalar_one()
        )

    async def insert_endpoint(
        self,
        connection: AsyncConnection,
        *,
        url: str,
        adapter: Adapter,
        events: Iterable[str],
        description: str,
        secret: str | None,
        at: datetime,
    ) -> Endpoint:
        """Store and return a new endpoint, which is enabled."""
        statement = (
            insert(webhook_endpoints)
            .values(
                url=url,
                adapter=adapter,
                events=list(events),
                description=description,
                secret=secret,
                created_at=at,
            )
            .returning(*_ENDPOINT_COLUMNS)
        )
        return _endpoint((await connection.execute(statement)).one())

    async def endpoints(self) -> list[Endpoint]:
        """Return all endpoints, oldest first."""
        statement = select(*_ENDPOINT_COLUMNS).order_by(webhook_endpoints.c.id)
        async with self._engine.connect() as connection:
            return [_endpoint(row) for row in await connection.execute(statement)]

    async def endpoint(self, endpoint_id: int) -> Endpoint:
        """Return the endpoint with this id. Raises NotFound."""
        async with self._engine.connect() as connection:
            row = await self._find(connection, select(*_ENDPOINT_COLUMNS), endpoint_id)
        if row is None:
            raise _unknown_endpoint(endpoint_id)
        return _endpoint(row)

    async def lock_endpoint(self, connection: AsyncConnection, endpoint_id: int) -> tuple[Endpoint, Secrets]:
        """Lock an endpoint against changes and new deliveries, and return it. Raises NotFound."""
        statement = select(webhook_endpoints).with_for_update()
        row = await self._find(connection, statement, endpoint_id)
        if row is None:
            raise _unknown_endpoint(endpoint_id)
        return _endpoint(row), Secrets(row.secret, row.previous_secret, row.previous_until)

    async def lock_sent_to(
        self, connection: AsyncConnection, endpoint_id: int, *, whole: bool
    ) -> Endpoint | None:
        """Lock an endpoint against changes, and with `whole` also against new deliveries."""
        statement = select(*_ENDPOINT_COLUMNS).with_for_update(key_share=not whole)
        row = await self._find(connection, statement, endpoint_id)
        return None if row is None else _endpoint(row)

    async def _find(
        self, connection: AsyncConnection, statement: Select[Any], endpoint_id: int
    ) -> Row[Any] | None:
        if endpoint_id not in _ENDPOINT_IDS:
            return None
        rows = await connection.execute(statement.where(webhook_endpoints.c.id == endpoint_id))
        row: Row[Any] | None = rows.one_or_none()
        return row

    async def update_endpoint(
        self, connection: AsyncConnection, endpoint_id: int, changes: Mapping[str, Any]
    ) -> Endpoint:
        """Change some columns of an endpoint, and return it."""
        statement = (
            update(webhook_endpoints)
            .where(webhook_endpoints.c.id == endpoint_id)
            .values(**changes)
            .returning(*_ENDPOINT_COLUMNS)
        )
        return _endpoint((await connection.execute(statement)).one())

    async def delete_endpoint(self, endpoint_id: int) -> None:
        """Delete an endpoint with its deliveries. Raises NotFound."""
        statement = delete(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id)
        async with self._engine.begin() as connection:
            if endpoint_id not in _ENDPOINT_IDS or (await connection.execute(statement)).rowcount == 0:
                raise _unknown_endpoint(endpoint_id)

    async def give_up_open(self, connection: AsyncConnection, endpoint_id: int, now: datetime) -> None:
        """Give up the open deliveries of an endpoint, except those that are being sent now."""
        await connection.execute(
            update(webhook_deliveries)
            .where(
                webhook_deliveries.c.endpoint_id == endpoint_id,
                webhook_deliveries.c.next_attempt_at.is_not(None),
                func.coalesce(webhook_deliveries.c.leased_until <= now, True),
            )
            .values(state=DeliveryState.GIVEN_UP, next_attempt_at=None, leased_until=None)
        )

    async def claim(self, *, now: datetime, claims_max: int) -> list[Claim]:
        """Claim deliveries that are due. No other worker gets them for `WEBHOOK_LEASE_S`."""
        async with self._engine.begin() as connection:
            claimed = await _QUEUE.claim(
                connection,
                now=now,
                lease_s=limits.WEBHOOK_LEASE_S,
                claims_max=claims_max,
                lanes={"endpoint_max": limits.WEBHOOK_ENDPOINT_SENDING_MAX},
            )
            if not claimed:
                return []
            rows = await connection.execute(
                select(
                    webhook_deliveries.c.id.label("delivery_id"),
                    webhook_deliveries.c.attempts.label("attempt"),
                    *(webhook_deliveries.c[name] for name in ("endpoint_id", "step", "message_id")),
                    *(webhook_endpoints.c[name] for name in ("url", "adapter", *_SECRET_COLUMNS)),
                    *(webhook_messages.c[name] for name in ("type", "body", "created_at")),
                )
                .join(webhook_messages, webhook_messages.c.id == webhook_deliveries.c.message_id)
                .join(webhook_endpoints, webhook_endpoints.c.id == webhook_deliveries.c.endpoint_id)
                .where(webhook_deliveries.c.id.in_([job.id for job in claimed]))
                .order_by(webhook_deliveries.c.step, webhook_deliveries.c.next_attempt_at)
            )
            return [_claim(row) for row in rows]

    async def lock_claimed(self, connection: AsyncConnection, claim: Claim) -> bool:
        """Lock a claimed delivery; return False if another worker has claimed it since."""
        return bool(await _QUEUE.lock(connection, [Claimed(claim.delivery_id, claim.attempt)]))

    async def settle(
        self, connection: AsyncConnection, claim: Claim, settled: Settled, now: datetime
    ) -> None:
        """Store the state of a delivery after its attempt, and end the lease."""
        wait_s = settled.wait_s
        row = {
            "id": claim.delivery_id,
            "state": settled.state,
            "step": settled.step,
            "next_attempt_at": None if wait_s is None else now + timedelta(seconds=wait_s),
        }
        await _QUEUE.settle(connection, [row])

    async def log_attempt(self, connection: AsyncConnection, delivery_id: int, attempt: Attempt) -> None:
        """Store an attempt, and delete all but the last `WEBHOOK_ATTEMPTS_KEPT`."""
        row = {
            "delivery_id": delivery_id,
            "number": attempt.number,
            "at": attempt.at,
            "status": attempt.status,
            "error": attempt.error,
            "duration_ms": attempt.duration_ms,
        }
        await connection.execute(insert(webhook_attempts).values(row))
        await connection.execute(
            delete(webhook_attempts).where(
                webhook_attempts.c.delivery_id == delivery_id,
                webhook_attempts.c.number <= attempt.number - limits.WEBHOOK_ATTEMPTS_KEPT,
            )
        )

    async def deliveries(self, endpoint_id: int, *, after: int | None, limit: int) -> list[Delivery]:
        """Return up to `limit` deliveries of an endpoint with ids below `after`, newest first."""
        chosen = webhook_deliveries.c.endpoint_id == endpoint_id
        if after is not None:
            chosen &= webhook_deliveries.c.id < after
        async with self._engine.connect() as connection:
            return await _deliveries(connection, chosen, limit)

    async def delivery(self, delivery_id: int) -> Delivery:
        """Return the delivery with this id. Raises NotFound."""
        deliveries = []
        if delivery_id in _DELIVERY_IDS:
            async with self._engine.connect() as connection:
                deliveries = await _deliveries(connection, webhook_deliveries.c.id == delivery_id, 1)
        if not deliveries:
            raise NotFound(f"no delivery has the id {delivery_id}")
        return deliveries[0]

    async def reopen(self, connection: AsyncConnection, delivery_id: int, now: datetime) -> bool:
        """Make a delivery due at once and restart its schedule, unless it is being sent."""
        statement = (
            update(webhook_deliveries)
            .where(
                webhook_deliveries.c.id == delivery_id,
                func.coalesce(webhook_deliveries.c.leased_until <= now, True),
            )
            .values(state=DeliveryState.PENDING, step=0, next_attempt_at=now, leased_until=None)
        )
        return (await connection.execute(statement)).rowcount == 1

    async def thin(self, before: datetime) -> int:
        """Delete some messages older than `before` that need no attempt; return their number."""
        async with self._engine.begin() as connection:
            parameters = {"before": before, "rows_max": limits.WEBHOOK_THIN_ROWS_MAX}
            return (await connection.execute(_THIN, parameters)).rowcount


async def _deliveries(connection: AsyncConnection, chosen: Any, limit: int) -> list[Delivery]:
    statement = (
        select(webhook_deliveries, webhook_messages.c.type, webhook_messages.c.created_at)
        .join(webhook_messages)
        .where(chosen)
        .order_by(webhook_deliveries.c.id.desc())
        .limit(limit)
    )
    rows = list(await connection.execute(statement))
    ids = [row.id for row in rows]
    attempts: dict[int, list[Attempt]] = {delivery_id: [] for delivery_id in ids}
    logged = select(webhook_attempts).where(webhook_attempts.c.delivery_id.in_(ids))
    for row in await connection.execute(logged.order_by(webhook_attempts.c.number.desc())):
        attempts[row.delivery_id].append(Attempt(row.number, row.at, row.status, row.error, row.duration_ms))
    return [
        Delivery(
            id=row.id,
            endpoint_id=row.endpoint_id,
            webhook_id=webhook_id(row.message_id),
            type=row.type,
            state=DeliveryState(row.state),
            created_at=row.created_at,
            next_attempt_at=row.next_attempt_at,
            attempts=tuple(attempts[row.id]),
        )
        for row in rows
    ]


def _unknown_endpoint(endpoint_id: int) -> NotFound:
    return NotFound(f"no webhook has the id {endpoint_id}")


def _endpoint(row: Row[Any]) -> Endpoint:
    return Endpoint(
        id=row.id,
        url=row.url,
        adapter=Adapter(row.adapter),
        events=tuple(row.events),
        description=row.description,
        created_at=row.created_at,
        disabled=None if row.disabled_at is None else Disabled(row.disabled_at, row.disabled_reason),
        failing_since=row.failing_since,
        previous_until=row.previous_until,
    )


def _claim(row: Row[Any]) -> Claim:
    return Claim(
        delivery_id=row.delivery_id,
        endpoint_id=row.endpoint_id,
        attempt=row.attempt,
        step=row.step,
        url=row.url,
        adapter=Adapter(row.adapter),
        secrets=Secrets(row.secret, row.previous_secret, row.previous_until),
        message=Message(row.message_id, row.type, row.body, row.created_at),
    )
