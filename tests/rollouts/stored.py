"""An experiment with guardrails, and totals of its units as the ledger stores them."""

from datetime import datetime

from sqlalchemy import insert, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine

from app.experiments.metrics import Margin, Mean, Metric, Proportion
from app.experiments.model import Definition, Experiment, Variant
from app.experiments.policies import FixedPolicy
from app.ledger.rewards.composite import NANO
from app.ledger.tables import metric_totals, stream_positions
from app.ledger.units.measures import cells, measures_of
from app.ledger.units.model import totals_by_minute
from tests.ledger import support

ERROR = Metric(
    key="error_rate",
    measure=Proportion("error", silence=0),
    role="guardrail",
    direction="lower",
    margin=Margin(0.02),
)
LATENCY = Metric(
    key="latency",
    measure=Mean("latency"),
    role="guardrail",
    direction="lower",
    margin=Margin(0.1, relative=True),
)
DEFINITION = Definition(
    key="summary",
    variants=(Variant("old", control=True), Variant("new")),
    policy=FixedPolicy({"old": 1.0, "new": 0.0}),
    metrics=(ERROR, LATENCY),
)


async def come(
    engine: AsyncEngine, experiment: Experiment, variant: int, *, units: int, errors: int, latency: float
) -> None:
    """So many units came to a variant in the epoch of now; latencies are two values around their mean."""
    measures = measures_of(experiment.definition.metrics, experiment.definition.plan, "none")
    assert measures is not None
    spread = [round(latency * (0.8 + 0.4 * (number % 2)) * NANO) for number in range(units)]
    sums = [(0, 0, int(number < errors), 1, spread[number], 1) for number in range(units)]
    made = support.units(sums, epochs=experiment.epoch, variants=variant)
    by_cell = cells(totals_by_minute(experiment.id, made, measures))
    cell = by_cell[experiment.id, experiment.epoch, variant, "", False]
    async with engine.begin() as connection:
        row = {"experiment_id": experiment.id, "epoch": experiment.epoch, "variant": variant}
        statement = postgresql.insert(metric_totals).values(
            **row, segment="", crossed=False, body=cell.to_bytes()
        )
        await connection.execute(
            statement.on_conflict_do_update(constraint="pk_metric_totals", set_={"body": cell.to_bytes()})
        )


async def watermark(engine: AsyncEngine, at: datetime) -> None:
    """Everything acknowledged before this time is in the totals."""
    async with engine.begin() as connection:
        changed = await connection.execute(update(stream_positions).values(watermark=at))
        if not changed.rowcount:
            await connection.execute(insert(stream_positions).values(shard=0, watermark=at))
