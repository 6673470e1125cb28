"""The import of labels that were made elsewhere."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from uuid import UUID

import msgspec
import structlog

from app.core.clock import Clock
from app.core.errors import Conflict, InvalidInput
from app.core.postgres import Transaction
from app.core.telemetry import REVIEWS
from app.experiments.model import Experiment
from app.experiments.service import ExperimentService
from app.responses.model import StoredResponse, key_of
from app.responses.store import ResponseStore
from app.reviews import limits
from app.reviews.claim_store import ClaimStore, LockedItem
from app.reviews.model import KEY_PREFIX, Answer, Queue, imported_reviewer
from app.reviews.records import Format, ImportedLabel, ImportLine, read_lines
from app.reviews.sample_store import candidate_of
from app.reviews.store import insert_items, items_by_response

_LOG = structlog.get_logger(__name__)


class RejectedLine(msgspec.Struct, frozen=True):
    """A line of a file that was not imported. `field` is empty if the whole line is wrong."""

    line: int
    field: str
    reason: str


class ImportReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of labels by what became of them. `errors` are the first rejected lines.

    `outside_sample` of those imported belong to responses that were not drawn: they never enter
    estimates.
    """

    imported: int
    corrected: int
    unchanged: int
    rejected: int
    outside_sample: int
    errors: list[RejectedLine]


class ImportService:
    """Stores labels like answers of reviewers, under the name that the file gives them.

    A response of the sample or of the disagreements takes only as many reviewers as it wants. Any
    other response becomes an item of the queue `imported`.
    """

    def __init__(
        self, claims: ClaimStore, responses: ResponseStore, experiments: ExperimentService, clock: Clock
    ) -> None:
        self._claims = claims
        self._responses = responses
        self._experiments = experiments
        self._clock = clock

    async def run(self, key: str, body: bytes, kind: Format) -> ImportReceipt:
        """Store the labels of a file, and report the lines that cannot be stored.

        A repeated import changes nothing; another label of the same reviewer is a correction.
        Raises NotFound; InvalidInput or TooLarge if the file as a whole cannot be read.
        """
        experiment = await self._experiments.get(key)
        counts: Counter[str] = Counter()
        errors: list[RejectedLine] = []
        stored: dict[tuple[UUID, str], int] = {}
        lines = read_lines(body, kind)
        while batch := list(islice(lines, limits.REVIEW_IMPORT_BATCH)):
            errors += [RejectedLine(bad.line, bad.field, bad.reason) for bad in batch if bad.label is None]
            right = [line for line in batch if line.label is not None]
            await self._store(experiment, right, stored, counts, errors)
        for result in ("imported", "corrected"):
            REVIEWS.labels(result).inc(counts[result])
        errors.sort(key=lambda error: error.line)
        _LOG.info("reviews_imported", experiment=key, rejected=len(errors), **counts)
        return ImportReceipt(
            imported=counts["imported"],
            corrected=counts["corrected"],
            unchanged=counts["unchanged"],
            rejected=len(errors),
            outside_sample=counts["outside_sample"],
            errors=errors[: limits.REVIEW_IMPORT_ERRORS_MAX],
        )

    async def _store(
        self,
        experiment: Experiment,
        lines: Sequence[ImportLine],
        stored: dict[tuple[UUID, str], int],
        counts: Counter[str],
        errors: list[RejectedLine],
    ) -> None:
        """Store the labels of one batch in one transaction. Imports of an experiment take turns.

        `stored` has the line of each label of this file, by response and reviewer.
        """
        keys = {line.line: key_of(experiment.id, _label(line).response_id) for line in lines}
        responses = {
            response.response_key: response
            for response in await self._responses.read(list(set(keys.values())))
        }
        async with self._claims.turn(f"import {experiment.id}") as connection:
            items = await self._items(connection, experiment, set(keys.values()), responses)
            # Items in the order of their ids, so that transactions cannot wait for each other.
            for line in sorted(lines, key=lambda line: items.get(keys[line.line], 0)):
                key = keys[line.line]
                try:
                    item_id = _item_for(line, key, items, stored)
                    counts.update(await self._put(connection, item_id, _label(line)))
                except InvalidInput as error:
                    errors.append(RejectedLine(line.line, error.errors[0].field, error.detail))
                except Conflict as error:
                    errors.append(RejectedLine(line.line, "reviewer", error.detail))
                else:
                    stored[key, _label(line).reviewer] = line.line

    async def _items(
        self,
        connection: Transaction,
        experiment: Experiment,
        keys: set[UUID],
        responses: dict[UUID, StoredResponse],
    ) -> dict[UUID, int]:
        """Return the item of each response; responses outside of the queues get one."""
        items = await items_by_response(connection, experiment.id, keys)
        others = [candidate_of(responses[key]) for key in keys - items.keys() if key in responses]
        await insert_items(connection, Queue.IMPORTED, others, self._clock.now())
        return items | await items_by_response(connection, experiment.id, keys - items.keys())

    async def _put(self, connection: Transaction, item_id: int, label: ImportedLabel) -> list[str]:
        """Store one label, and return what it counts as. Raises InvalidInput and Conflict."""
        answer = Answer(label=label.label, comment=label.comment, seconds=label.seconds)
        locked = await self._claims.lock(connection, item_id)
        assert locked is not None
        answer.check(locked.settings)
        own_key = label.reviewer.startswith(KEY_PREFIX)
        reviewer = label.reviewer if own_key else imported_reviewer(label.reviewer)
        before = await self._claims.newest(connection, item_id, reviewer)
        if before is not None and before.answer.same(answer):
            return ["unchanged"]
        if own_key:
            raise Conflict(f"only {label.reviewer} can give or correct this label, in Wald")
        if before is None:
            locked = await self._with_place(connection, locked)
        now = self._clock.now()
        await self._claims.answer(
            connection,
            locked,
            reviewer,
            answer,
            revision=1 if before is None else before.revision + 1,
            at=now if label.at is None else min(label.at, now),
        )
        if before is not None:
            return ["corrected"]
        return ["imported"] if locked.queue is Queue.SAMPLE else ["imported", "outside_sample"]

    async def _with_place(self, connection: Transaction, locked: LockedItem) -> LockedItem:
        """Return an item with a free place. Raises Conflict if it takes no more reviewers."""
        item = locked.item
        if locked.queue is Queue.IMPORTED and len(item.labelled) < limits.REVIEWERS_MAX:
            return await self._claims.resize(connection, locked, len(item.labelled) + 1)
        if item.taken >= item.wanted:
            raise Conflict(f"item {locked.id} has its {item.wanted} reviewers already")
        return locked


def _label(line: ImportLine) -> ImportedLabel:
    assert line.label is not None
    return line.label


def _item_for(
    line: ImportLine, key: UUID, items: dict[UUID, int], stored: dict[tuple[UUID, str], int]
) -> int:
    """Return the item of a line's response. Raises InvalidInput, and Conflict for a repeat."""
    first = stored.get((key, _label(line).reviewer))
    if first is not None:
        raise Conflict(f"line {first} has a label of this reviewer for the same response")
    if key not in items:
        raise InvalidInput("no response of this experiment has this id", field="response_id")
    return items[key]
