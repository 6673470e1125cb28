"""Reads what experiments have received of some signals, for warnings about a definition."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.experiments.warnings import ReceivedSignals, SeenSignal
from app.ledger import limits
from app.ledger.tables import signal_totals, totals

_SEEN: Final = text(files(__package__).joinpath("sql/seen_signals.sql").read_text())


class SeenSignalsStore:
    """Reads the totals of signals of many experiments. Each method is one transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def received(self, experiment_id: int, names: Sequence[str]) -> ReceivedSignals:
        """Return what the newest experiments have received of some signals."""
        parameters = {
            "experiment_id": experiment_id,
            "names": list(names),
            "signals_min": limits.DELAY_SIGNALS_MIN,
            "experiments_max": limits.DELAY_EXPERIMENTS_MAX,
            "assignments_max": limits.DELAY_ASSIGNMENTS_MAX,
        }
        assigned = select(func.coalesce(func.sum(totals.c.rewards + totals.c.censored), 0)).where(
            totals.c.experiment_id == experiment_id
        )
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_SEEN, parameters)).all()
            anything = await connection.scalar(select(signal_totals.c.signal).limit(1))
            assignments = int(await connection.scalar(assigned) or 0)
        signals = {
            row.signal: SeenSignal(row.signal, row.total, row.here, row.delay_s, row.source) for row in rows
        }
        return ReceivedSignals(signals, anything is not None, assignments)
