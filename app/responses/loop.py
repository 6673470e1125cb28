"""Loops of responses in the worker: the consumer of their stream."""

from app.core.clock import Clock
from app.core.loops import Loop
from app.core.valkey import RESPONSES, Valkey
from app.ledger.consumer import OnCommit, ShardConsumer
from app.responses.intake_store import ResponseIntake


def response_loops(
    *, owner: str, database_url: str, valkey: Valkey, clock: Clock, on_commit: OnCommit
) -> list[Loop]:
    """Return the loops of a worker's responses."""
    consumer = ShardConsumer(
        RESPONSES,
        owner=owner,
        database_url=database_url,
        valkey=valkey,
        clock=clock,
        on_commit=on_commit,
        store=ResponseIntake,
    )
    return [Loop("responses", consumer.run)]
