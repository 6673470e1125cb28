"""Totals of judgements and labels, added up by PostgreSQL."""

from importlib.resources import files
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.experiments.model import Experiment
from app.quality.model import Judge
from stats.prediction_powered import JudgedTotals
from stats.totals import JointTotals

_FOLDER: Final = files(__package__)
_TOTALS: Final = text(_FOLDER.joinpath("sql/totals.sql").read_text())
_JUDGES: Final = text(_FOLDER.joinpath("sql/judges.sql").read_text())


class QualityStore:
    """SQL of quality; reads only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def judges(self, experiment: Experiment) -> list[Judge]:
        """Return the judge versions that scored responses since the present control began."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(_JUDGES, _of(experiment))
            return [Judge(**row._asdict()) for row in rows]

    async def totals(self, experiment: Experiment, judge: Judge | None) -> dict[int, JudgedTotals]:
        """Return the totals of each variant, by position, since the present control began.

        Labels are those of the probability sample, on the scale from 0 to 1. Without a judge they
        are totals of labels alone.
        """
        parameters = _of(experiment) | {"version": judge.version if judge else ""}
        async with self._engine.connect() as connection:
            rows = await connection.execute(_TOTALS, parameters)
            return {row.variant: _totals(row) for row in rows}


def _of(experiment: Experiment) -> dict[str, Any]:
    return {"experiment_id": experiment.id, "first_epoch": experiment.control_epoch}


def _totals(row: Row[Any]) -> JudgedTotals:
    moments = JointTotals.from_sums(row.units, row.sums, row.products)
    return JudgedTotals(moments, row.n_labelled, row.n_judged)
