"""Readings of reviews for experimenters: overview, agreement, and exports."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from app.experiments.service import ExperimentService
from app.responses.store import ResponseStore
from app.reviews import limits
from app.reviews.agreement import Agreement, of_ratings
from app.reviews.model import Queue
from app.reviews.overview import Overview, Sampling, named
from app.reviews.reading_store import ReadingStore
from app.reviews.records import ANSWER_FIELDS, ITEM_FIELDS, Format, RecordWriter
from app.reviews.store import ReviewStore


class ReviewReader:
    """Readings of the reviews of an experiment. Each raises NotFound for an unknown experiment."""

    def __init__(
        self,
        store: ReviewStore,
        reading: ReadingStore,
        responses: ResponseStore,
        experiments: ExperimentService,
    ) -> None:
        self._store = store
        self._reading = reading
        self._responses = responses
        self._experiments = experiments

    async def overview(self, key: str) -> Overview:
        """Return progress, reviewers and agreement. Agreement is that of the probability sample."""
        experiment = await self._experiments.get(key)
        settings = await self._store.settings(experiment.id)
        reviewers = await self._reading.reviewers(experiment.id)
        strata = await self._reading.strata(experiment.id)
        agreement = await self._agreement(experiment.id, Queue.SAMPLE, experiment.definition.plan.alpha)
        names = {who.reviewer: who.name for who in reviewers if who.name is not None}
        return Overview(
            experiment=experiment.key,
            settings=settings,
            queues=await self._reading.queues(experiment.id),
            sampling=Sampling.of(
                0.0 if settings is None else settings.rate,
                strata,
                [variant.key for variant in experiment.definition.variants],
            ),
            reviewers=reviewers,
            agreement=named(agreement, names),
        )

    async def answers(self, key: str, kind: Format, *, revisions: bool) -> AsyncIterator[bytes]:
        """Return a file of all answers, or with `revisions` also of those that were corrected."""
        experiment = await self._experiments.get(key)
        variants = [variant.key for variant in experiment.definition.variants]
        words = await self._reading.words(experiment.id)

        async def parts() -> AsyncIterator[bytes]:
            writer = RecordWriter(kind, ANSWER_FIELDS)
            async for rows in self._reading.answers(experiment.id, revisions=revisions):
                yield writer.page(_answer(row, variants, words) for row in rows)
            yield writer.end()

        return parts()

    async def items(self, key: str, kind: Format) -> AsyncIterator[bytes]:
        """Return a file of the items that want labels, with their texts, to be labelled elsewhere.

        It is blind like the page of reviewers. Filled with labels, it can be imported.
        """
        experiment = await self._experiments.get(key)

        async def parts() -> AsyncIterator[bytes]:
            writer = RecordWriter(kind, ITEM_FIELDS)
            async for rows in self._reading.unlabelled(experiment.id):
                keys = [row.response_key for row in rows]
                texts = {text.response_key: text for text in await self._responses.read(keys)}
                yield writer.page(
                    {
                        "item": row.id,
                        "response_id": row.response_id,
                        "prompt": texts[row.response_key].prompt,
                        "response": texts[row.response_key].response,
                        "reviewer": None,
                        "label": None,
                        "comment": None,
                    }
                    for row in rows
                    if row.response_key in texts and row.response_id is not None
                )
            yield writer.end()

        return parts()

    async def _agreement(self, experiment_id: int, queue: Queue, alpha: float) -> Agreement:
        ratings = await self._reading.ratings(experiment_id, queue)
        return await asyncio.to_thread(of_ratings, ratings, alpha=alpha, pairs_max=limits.REVIEW_PAIRS_MAX)


def _answer(row: Any, variants: list[str], words: Mapping[int, Mapping[int, str]]) -> dict[str, Any]:
    """Return the fields of one answer, in the order of the file."""
    return {
        "item": row.id,
        "response_id": row.response_id,
        "response_key": row.response_key,
        "assignment": row.assignment,
        "variant": variants[row.variant] if row.variant < len(variants) else str(row.variant),
        "epoch": row.epoch,
        "segment": row.segment,
        "queue": row.queue,
        "inclusion_probability": row.inclusion_probability,
        "reviewer": row.reviewer,
        "name": row.name,
        "revision": row.answer_revision,
        "label": row.label,
        "word": words[row.revision].get(row.label),
        "reason": row.reason,
        "comment": row.comment,
        "seconds": row.seconds,
        "at": row.at,
    }
