"""What the readout needs of PostgreSQL, all of it as of one moment."""

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.allocation.forgetting import Learned
from app.allocation.model import VariantTotals
from app.allocation.store import read_earlier, read_history, read_latest, read_learned, read_totals
from app.allocation.tables import allocations
from app.analysis.model import Drawn, EpochTotals, Stored, UnitCell
from app.assignment.bucketing import WHOLE
from app.experiments.model import ContextualPolicy, Experiment, SegmentedThompsonPolicy
from app.feedback.measures import CellTotals
from app.feedback.tables import draws, metric_totals, stream_positions, totals


class AnalysisStore:
    """SQL of analysis; reads only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def stored(self, experiment: Experiment) -> Stored:
        """Totals and allocations of an experiment."""
        watermark = stream_positions.c.watermark
        known = func.count() == func.count(watermark)  # a shard that was never read knows nothing
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            return Stored(
                totals=await read_totals(connection, experiment),
                by_epoch=await _read_epochs(connection, experiment.id),
                units=await read_cells(connection, experiment.id),
                draws=await _read_draws(connection, experiment.id),
                totals_as_of=await connection.scalar(select(case((known, func.min(watermark))))),
                latest=await read_latest(connection, experiment.id),
                history=await read_history(connection, experiment.id),
                epoch_shares=await _read_epoch_shares(connection, experiment.id),
                earlier=await read_earlier(connection, experiment),
                learned=await _read_learned(connection, experiment),
            )


async def read_cells(connection: AsyncConnection, experiment_id: int) -> list[UnitCell]:
    """The totals of units, of cells that hold any."""
    columns = (metric_totals.c[name] for name in ("epoch", "variant", "segment", "crossed", "body"))
    statement = (
        select(*columns)
        .where(metric_totals.c.experiment_id == experiment_id, metric_totals.c.body != b"")
        .order_by(metric_totals.c.epoch, metric_totals.c.variant, metric_totals.c.segment)
    )
    cells = [
        UnitCell(row.epoch, row.variant, row.segment, row.crossed, CellTotals.from_bytes(row.body))
        for row in await connection.execute(statement)
    ]
    return [cell for cell in cells if cell.totals.units]


async def _read_draws(connection: AsyncConnection, experiment_id: int) -> list[Drawn]:
    columns = (draws.c[name] for name in Drawn.__struct_fields__)
    statement = (
        select(*columns)
        .where(draws.c.experiment_id == experiment_id)
        .order_by(draws.c.epoch, draws.c.variant)
    )
    return [Drawn(*map(int, row)) for row in await connection.execute(statement)]


async def _read_learned(connection: AsyncConnection, experiment: Experiment) -> Learned:
    """What is learned of contexts; nothing where the policy reads none."""
    if not isinstance(experiment.definition.policy, ContextualPolicy | SegmentedThompsonPolicy):
        return {}
    return await read_learned(connection, experiment)


async def _read_epochs(connection: AsyncConnection, experiment_id: int) -> list[EpochTotals]:
    """The totals of each epoch and variant."""
    names = VariantTotals.__struct_fields__
    columns = (totals.c[name] for name in names)
    statement = (
        select(totals.c.epoch, totals.c.variant, *columns)
        .where(totals.c.experiment_id == experiment_id)
        .order_by(totals.c.epoch, totals.c.variant)
    )
    return [
        EpochTotals(row.epoch, row.variant, VariantTotals(*(int(value) for value in row[2:])))
        for row in await connection.execute(statement)
    ]


async def _read_epoch_shares(
    connection: AsyncConnection, experiment_id: int
) -> dict[int, tuple[float, ...] | None]:
    """The shares of each epoch in which they never moved, None for the others.

    Such an epoch has one version, next to the version before it. A gap is one that was thinned away: then
    shares may have moved, and count as if they had.
    """
    version, epoch = allocations.c.version, allocations.c.epoch
    statement = (
        select(epoch, func.min(version), func.max(version), func.min(allocations.c.weights))
        .where(allocations.c.experiment_id == experiment_id)
        .group_by(epoch)
        .order_by(epoch)
    )
    found: dict[int, tuple[float, ...] | None] = {}
    before = 0
    for number, first, last, weights in await connection.execute(statement):
        constant = before + 1 == first == last
        found[number] = tuple(weight / WHOLE for weight in weights) if constant else None
        before = last
    return found
