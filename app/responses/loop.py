"""Loops of responses in the worker: the consumer of their stream, and the expiry of texts."""

from datetime import date
from time import monotonic

from app.core.clock import Clock
from app.core.loops import Loop
from app.core.valkey import RESPONSES, Valkey
from app.ledger.consumer import OnCommit, ShardConsumer
from app.responses import limits
from app.responses.expiry import believed_day
from app.responses.expiry_store import ExpiryStore
from app.responses.intake_store import ResponseIntake


class Expiry:
    """Drops texts whose day has come. Any number may run side by side."""

    def __init__(self, database_url: str, clock: Clock) -> None:
        self._database_url = database_url
        self._clock = clock
        self._seen: date | None = None  # the date of the last round
        self._steady_since = monotonic()  # since then the date has not jumped

    async def run(self) -> None:
        """Do one round."""
        store = await ExpiryStore.open(self._database_url)
        try:
            stored, today = await store.last_day(), self._clock.now().date()
            if self._seen is None or abs((today - self._seen).days) > 1:
                self._steady_since = monotonic()
            self._seen = today
            day = believed_day(stored, today, steady_s=monotonic() - self._steady_since)
            await store.expire(day)
            if day != stored:
                await store.forget(day)
            await store.measure()
        finally:
            await store.close()


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
    return [
        Loop("responses", consumer.run),
        Loop("response expiry", Expiry(database_url, clock).run, pause_s=limits.EXPIRY_INTERVAL_S),
    ]
