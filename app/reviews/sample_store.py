"""The probability sample in PostgreSQL: responses in the order of storing become items."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import select, tuple_, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.experiments.plan import Segments
from app.experiments.segments import segment_of
from app.experiments.store import experiment_of
from app.experiments.tables import experiments
from app.ledger.tables import assignments
from app.responses.model import StoredResponse
from app.responses.store import ResponseStore
from app.reviews import limits, sampling
from app.reviews.model import Candidate, Queue
from app.reviews.sampling import Progress, Stratum
from app.reviews.store import insert_items, newest_settings
from app.reviews.tables import review_sampling, review_settings, review_strata

_IN_FORCE: Final = (
    select(review_settings.c.experiment_id, review_settings.c.rate)
    .ext(postgresql.distinct_on(review_settings.c.experiment_id))
    .order_by(review_settings.c.experiment_id, review_settings.c.revision.desc())
    .subquery()
)


class Round(NamedTuple):
    """Result of one transaction: how many responses it looked at, and how many became items."""

    responses: int
    sampled: int


class SampleStore:
    """SQL of the sample. The cursor moves in the transaction that stores the items.

    So each response is drawn once, even if processes die or several workers run.
    """

    def __init__(self, engine: AsyncEngine, responses: ResponseStore) -> None:
        self._engine = engine
        self._responses = responses

    async def experiments(self) -> list[int]:
        """Return the experiments that have a sample."""
        statement = select(_IN_FORCE.c.experiment_id).where(_IN_FORCE.c.rate > 0)
        async with self._engine.connect() as connection:
            return list((await connection.execute(statement)).scalars())

    async def sample(self, experiment_id: int, at: datetime) -> Round:
        """Draw from the next responses of an experiment, unless another worker is doing so."""
        async with self._engine.begin() as connection:
            cursor = await _locked_cursor(connection, experiment_id)
            settings = await newest_settings(connection, experiment_id)
            if cursor is None or settings is None or not settings.rate:
                return Round(0, 0)
            stored, reached = await self._responses.after(
                cursor, limits.REVIEW_SAMPLE_ROWS_MAX, experiment_id=experiment_id
            )
            if not stored:
                return Round(0, 0)
            row = (
                await connection.execute(select(experiments).where(experiments.c.id == experiment_id))
            ).one()
            experiment = experiment_of(row)
            segments = await _segments(connection, experiment.definition.plan.segments, stored)
            progress = await _progress(connection, experiment_id)
            chosen = []
            for response in stored:
                if response.erased:
                    continue
                stratum = Stratum(response.variant, segments.get(response.assignment, ""))
                before = progress.get(stratum, Progress())
                progress[stratum], probability = sampling.step(
                    before, settings.rate, experiment.salt, stratum
                )
                if probability is not None:
                    chosen.append(candidate_of(response, stratum.segment, probability))
            inserted = await insert_items(connection, Queue.SAMPLE, chosen, at)
            await _store_progress(connection, experiment_id, progress)
            await connection.execute(
                update(review_sampling)
                .where(review_sampling.c.experiment_id == experiment_id)
                .values(cursor=reached)
            )
            return Round(len(stored), len(inserted))


def candidate_of(
    response: StoredResponse, segment: str = "", inclusion_probability: float | None = None, detail: str = ""
) -> Candidate:
    """Return the candidate for a review of a stored response."""
    return Candidate(
        experiment_id=response.experiment_id,
        response_key=response.response_key,
        response_id=response.response_id,
        epoch=response.epoch,
        variant=response.variant,
        assignment=response.assignment,
        unit_hash=response.unit_hash,
        segment=segment,
        inclusion_probability=inclusion_probability,
        detail=detail,
    )


async def _locked_cursor(connection: AsyncConnection, experiment_id: int) -> int | None:
    """Lock the cursor of an experiment, and return it; None while another transaction holds it."""
    first = postgresql.insert(review_sampling).values(experiment_id=experiment_id, cursor=0)
    chosen = select(review_sampling.c.cursor).where(review_sampling.c.experiment_id == experiment_id)
    locking = chosen.with_for_update(skip_locked=True)
    cursor = await connection.scalar(locking)
    if cursor is None:
        await connection.execute(first.on_conflict_do_nothing())
        cursor = await connection.scalar(locking)
    return cursor


async def _segments(
    connection: AsyncConnection, declared: Segments | None, stored: Sequence[StoredResponse]
) -> dict[UUID, str]:
    """Return the segment of each assignment whose exposure is stored; others have none."""
    if declared is None:
        return {}
    keys = [(response.experiment_id, response.unit_hash, response.assignment) for response in stored]
    columns = assignments.c
    statement = select(columns.id, columns.context).where(
        tuple_(columns.experiment_id, columns.unit_hash, columns.id).in_(keys), columns.exposed
    )
    rows = await connection.execute(statement)
    return {row.id: segment_of(declared, row.context or {}) for row in rows}


async def _progress(connection: AsyncConnection, experiment_id: int) -> dict[Stratum, Progress]:
    rows = await connection.execute(
        select(review_strata).where(review_strata.c.experiment_id == experiment_id)
    )
    return {Stratum(row.variant, row.segment): Progress(row.responses, row.sampled, row.mass) for row in rows}


async def _store_progress(
    connection: AsyncConnection, experiment_id: int, progress: dict[Stratum, Progress]
) -> None:
    rows = [
        {
            "experiment_id": experiment_id,
            "variant": stratum.variant,
            "segment": stratum.segment,
            "responses": reached.responses,
            "sampled": reached.sampled,
            "mass": reached.mass,
        }
        for stratum, reached in progress.items()
    ]
    if not rows:
        return
    statement = postgresql.insert(review_strata).values(rows)
    columns = ("responses", "sampled", "mass")
    changed = {name: statement.excluded[name] for name in columns}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=list(review_strata.primary_key), set_=changed)
    )
