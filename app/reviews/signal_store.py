"""Reviews that become signals of their assignments: which are due, and which were sent."""

from datetime import datetime
from importlib.resources import files
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.reviews import limits

_FOLDER: Final = files(__package__)
_DUE: Final = text(_FOLDER.joinpath("sql/due_signals.sql").read_text())
_SENT: Final = text(_FOLDER.joinpath("sql/mark_signalled.sql").read_text())


class DueSignal(NamedTuple):
    """The signal of one assignment. `answers` says by item how many answers it takes in.

    `body` is that of the assignment id, and `score` the mean of the assignment's labels from 0 to
    1. Both are None if there is nothing to send.
    """

    assignment: UUID
    body: bytes | None
    score: float | None
    at: datetime
    item_ids: list[int]
    answers: list[int]


class SignalStore:
    """SQL of the signals."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def due(self) -> list[DueSignal]:
        """Return the assignments with answers that no signal takes in yet."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(_DUE, {"rows_max": limits.REVIEW_SIGNALS_MAX})
            return [DueSignal(*row) for row in rows]

    async def mark_sent(self, signals: list[DueSignal]) -> None:
        """Note that these answers were sent. Answers that came meanwhile stay due."""
        item_ids = [item_id for signal in signals for item_id in signal.item_ids]
        answers = [n for signal in signals for n in signal.answers]
        async with self._engine.begin() as connection:
            await connection.execute(_SENT, {"item_ids": item_ids, "answers": answers})
