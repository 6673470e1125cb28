"""Stored responses for tests, written by the step that the worker uses."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from app.assignment import assignment_id
from app.core.postgres import psycopg_dsn
from app.responses.insert_step import NewResponse, ensure_partitions, insert
from app.responses.model import Texts, id_hash, key_of
from app.responses.texts import pack

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)


def new_response(number: int, *, experiment_id: int = 1, variant: int = 0, **fields: Any) -> NewResponse:
    """Return the response `response-{number}` to unit `number`; `fields` replace the defaults."""
    response_id = fields.pop("response_id", f"response-{number}")
    texts = Texts(
        response=fields.pop("response", f"answer {number}"),
        prompt=fields.pop("prompt", f"question {number}"),
        error=fields.pop("error", None),
        metadata=fields.pop("metadata", {}),
    )
    at = fields.pop("at", NOW)
    body = assignment_id.body(
        key_id=1,
        flags=0,
        variant=variant,
        experiment_id=experiment_id,
        epoch=fields.pop("epoch", 1),
        policy_version=1,
        id=assignment_id.uuid7(round(at.timestamp() * 1_000), number),
        propensity=0.5,
        unit_hash=fields.pop("unit_hash", number),
    )
    made = NewResponse(
        response_key=key_of(experiment_id, response_id),
        experiment_id=experiment_id,
        unit_hash=assignment_id.AssignmentId.from_body(body).unit_hash,
        expires_on=(at + timedelta(31)).date(),
        id_hash=id_hash(response_id),
        assignment=body,
        received_at=at,
        at=at,
        failed=texts.error is not None,
        tokens_in=None,
        tokens_out=None,
        latency_ms=None,
        cost_usd=None,
        unit=None,
        response_id=response_id,
        session_id=None,
        model=None,
        finish_reason=None,
        body=pack(texts),
    )
    return made._replace(**fields)


async def store_responses(database_url: str, new: Iterable[NewResponse]) -> set[UUID]:
    """Store responses, and return the keys of those that were new."""
    rows: Sequence[NewResponse] = list(new)
    url = psycopg_dsn(database_url)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await ensure_partitions(connection, {row.expires_on for row in rows})
        async with connection.transaction(), connection.cursor() as cursor:
            return await insert(cursor, rows)
