"""Outbox: other rooms store their events here, inside their own transactions."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.errors import InvalidInput, TooLarge
from app.core.text import check_storable
from app.webhooks import limits
from app.webhooks.adapters import Facts
from app.webhooks.model import is_event_type, wants, webhook_id
from app.webhooks.tables import webhook_deliveries, webhook_endpoints, webhook_messages


class WebhookOutbox:
    """Outbox of messages, each written in the transaction of the decision that it reports.

    A transaction that rolls back sends nothing. A committed message is delivered at least once,
    even if processes die.
    """

    async def enqueue(
        self,
        connection: AsyncConnection,
        *,
        key: str,
        type: str,  # noqa: A002 - its name in the message and in Standard Webhooks
        data: Mapping[str, Any],
        at: datetime,
    ) -> str:
        """Enqueue an event for every enabled endpoint that wants its type; return the webhook id.

        `key` identifies the event in all rooms, so begin it with the room's name. A key that was
        used before writes nothing and returns the id of its message. `data` is JSON; adapters read
        `Facts` of it. `at` is the time of the event, with a time zone; it is not sent earlier.

        Raises InvalidInput for a bad key, type, time or data. Raises TooLarge if the whole message
        has `WEBHOOK_BODY_BYTES_MAX` bytes or more.
        """
        if not 1 <= len(key) <= limits.WEBHOOK_KEY_LENGTH_MAX:
            raise InvalidInput(f"must be 1 to {limits.WEBHOOK_KEY_LENGTH_MAX} characters", field="key")
        check_storable(key, "key")
        body = body_of(type, data, at)
        # The lock keeps endpoints from being disabled or deleted before this transaction ends.
        enabled = (
            select(webhook_endpoints.c.id, webhook_endpoints.c.events)
            .where(webhook_endpoints.c.disabled_at.is_(None))
            .order_by(webhook_endpoints.c.id)
            .with_for_update(read=True, key_share=True)
        )
        wanting = [row.id for row in await connection.execute(enabled) if wants(row.events, type)]
        return await write(connection, key=key, event_type=type, body=body, at=at, endpoint_ids=wanting)


async def write(
    connection: AsyncConnection,
    *,
    key: str,
    event_type: str,
    body: str,
    at: datetime,
    endpoint_ids: list[int],
) -> str:
    """Store a message and its deliveries unless the key was used; return the webhook id."""
    statement = (
        postgresql.insert(webhook_messages)
        .values(key=key, type=event_type, body=body, created_at=at)
        .on_conflict_do_nothing(index_elements=[webhook_messages.c.key])
        .returning(webhook_messages.c.id)
    )
    message_id: UUID | None = (await connection.execute(statement)).scalar_one_or_none()
    if message_id is None:
        known = select(webhook_messages.c.id).where(webhook_messages.c.key == key)
        return webhook_id((await connection.execute(known)).scalar_one())
    if endpoint_ids:
        rows = [
            {"message_id": message_id, "endpoint_id": endpoint_id, "next_attempt_at": at}
            for endpoint_id in endpoint_ids
        ]
        await connection.execute(webhook_deliveries.insert(), rows)
    return webhook_id(message_id)


def body_of(event_type: str, data: Mapping[str, Any], at: datetime) -> str:
    """Return the body of a message. Raises like `WebhookOutbox.enqueue`."""
    if not is_event_type(event_type):
        raise InvalidInput("must be words of a-z 0-9 _ joined by dots, at most 128 characters", field="type")
    if at.tzinfo is None:
        raise InvalidInput("must have a time zone", field="at")
    check_storable(data, "data")
    try:
        msgspec.convert(data, Facts)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"data: {error}", field="data") from error
    body = msgspec.json.encode({"type": event_type, "timestamp": at.astimezone(UTC), "data": data})
    if len(body) >= limits.WEBHOOK_BODY_BYTES_MAX:
        raise TooLarge(
            f"a webhook must be smaller than {limits.WEBHOOK_BODY_BYTES_MAX} bytes; got {len(body)}: "
            "replace parts of its data by a link",
            field="data",
        )
    return body.decode()
