"""What the readout needs of PostgreSQL, all of it as of one moment."""

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.allocation.store import read_history, read_latest, read_totals
from app.analysis.model import Readout
from app.experiments.model import Experiment
from app.feedback.tables import stream_positions


class AnalysisStore:
    """SQL of analysis; reads only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def readout(self, experiment: Experiment) -> Readout:
        """Totals and allocations of an experiment."""
        watermark = stream_positions.c.watermark
        known = func.count() == func.count(watermark)  # a shard that was never read knows nothing
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            return Readout(
                totals=await read_totals(connection, experiment),
                totals_as_of=await connection.scalar(select(case((known, func.min(watermark))))),
                latest=await read_latest(connection, experiment.id),
                history=await read_history(connection, experiment.id),
            )
