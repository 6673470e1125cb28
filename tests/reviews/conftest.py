"""Reviews on real engines: an experiment, its stored responses, and the services."""

import itertools
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.assignment.assignment_id import body
from app.core.clock import SystemClock
from app.core.postgres import connect
from app.experiments.model import Definition, Experiment, Variant
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.responses import insert_step
from app.responses.insert_step import NewResponse
from app.responses.model import Texts, id_hash, key_of
from app.responses.store import ResponseStore
from app.responses.texts import pack
from app.reviews.claim_store import ClaimStore
from app.reviews.model import ReviewSettings
from app.reviews.reading_store import ReadingStore
from app.reviews.sample_store import SampleStore
from app.reviews.service import ReviewService
from app.reviews.store import ReviewStore
from tests.support.clocks import SettableClock

KEY = "summary"
_numbers = itertools.count(1)


class Reviewed(NamedTuple):
    """An experiment whose responses are reviewed, and what stands behind it."""

    experiment: Experiment
    service: ReviewService
    store: ReviewStore
    claims: ClaimStore
    reading: ReadingStore
    sample: SampleStore
    responses: ResponseStore
    clock: SettableClock
    url: str

    async def put(self, **settings: Any) -> None:
        """Set reviews up."""
        await self.service.put_settings(KEY, ReviewSettings(**settings))

    async def respond(
        self, n: int = 1, *, variant: int = 0, text: str = "an answer", **others: Any
    ) -> list[UUID]:
        """Store responses, and return their keys."""
        return await respond(self.url, self.experiment, self.clock, n, variant=variant, text=text, **others)

    async def draw(self) -> int:
        """Draw the sample from all responses, and return the number of items."""
        sampled = 0
        while (done := await self.sample.sample(self.experiment.id, self.clock.now())).responses:
            sampled += done.sampled
        return sampled


@pytest.fixture
async def reviewed(engine: AsyncEngine, database_url: str) -> Reviewed:
    clock = SettableClock()

    async def unpublished(_: int) -> None:
        """Do without a worker."""

    experiments = ExperimentService(ExperimentStore(engine), SystemClock(), unpublished)
    experiment = await experiments.create(
        Definition(key=KEY, variants=(Variant("control", control=True), Variant("short")))
    )
    responses = ResponseStore(engine)
    store, claims, reading = ReviewStore(engine), ClaimStore(engine), ReadingStore(engine)
    service = ReviewService((store, claims, reading, responses), experiments, clock)
    sample = SampleStore(engine, responses)
    return Reviewed(experiment, service, store, claims, reading, sample, responses, clock, database_url)


async def respond(
    url: str,
    experiment: Experiment,
    clock: SettableClock,
    n: int,
    *,
    variant: int = 0,
    text: str = "an answer",
    prompt: str | None = "a question",
    unit_hash: int | None = None,
) -> list[UUID]:
    """Store responses as the worker does."""
    now = clock.now()
    day = (now + timedelta(days=30)).date()
    rows = []
    for number in itertools.islice(_numbers, n):
        response_id = f"resp-{number}"
        unit = number if unit_hash is None else unit_hash
        assignment = body(
            key_id=1,
            flags=0,
            variant=variant,
            experiment_id=experiment.id,
            epoch=1,
            policy_version=1,
            id=uuid4().bytes,
            propensity=0.5,
            unit_hash=unit,
        )
        rows.append(
            NewResponse(
                response_key=key_of(experiment.id, response_id),
                experiment_id=experiment.id,
                unit_hash=unit,
                expires_on=day,
                id_hash=id_hash(response_id),
                assignment=assignment,
                received_at=now,
                at=now,
                failed=False,
                tokens_in=None,
                tokens_out=None,
                latency_ms=None,
                cost_usd=None,
                unit=None,
                response_id=response_id,
                session_id=None,
                model="model-of-the-variant",
                finish_reason="stop",
                body=pack(Texts(text, prompt)),
            )
        )
    connection = await connect(url)
    try:
        await insert_step.ensure_partitions(connection, [day])
        async with connection.transaction(), connection.cursor() as cursor:
            await insert_step.insert(cursor, rows)
    finally:
        await connection.close()
    return [row.response_key for row in rows]
