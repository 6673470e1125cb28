"""Use cases of stored responses: find one, list those of an experiment, erase a unit's texts."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self
from uuid import UUID

import msgspec

from app.assignment.bucketing import unit_hash
from app.core.clock import Clock
from app.core.errors import Conflict, Gone, InvalidInput, NotFound
from app.core.limits import UNIT_LENGTH_MAX
from app.experiments.checks import unknown
from app.experiments.service import ExperimentService
from app.responses.reading_store import ReadingStore


class ResponseView(msgspec.Struct, frozen=True, kw_only=True):
    """A stored response. `variant`, `epoch` and `assignment` are null while its unit has none.

    `seq` is its place in the order of storing. `erased`: its texts were deleted on request.
    """

    response_key: UUID
    seq: int | None
    experiment: str
    variant: str | None
    epoch: int | None
    assignment: UUID | None
    unit: str | None
    response_id: str | None
    session_id: str | None
    at: datetime
    received_at: datetime
    prompt: str | None
    response: str | None
    model: str | None
    latency_ms: float | None
    tokens_in: int | None
    tokens_out: int | None
    cost_usd: float | None
    finish_reason: str | None
    error: str | None
    metadata: dict[str, Any]
    redacted: list[str]
    erased: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Convert a row of the store."""
        return cls(**{name: row[name] for name in cls.__struct_fields__})


class ResponsePage(msgspec.Struct, frozen=True):
    """Responses, newest first. `next`: the value to pass as `after`; null on the last page."""

    responses: list[ResponseView]
    next: int | None


class WaitingSignal(msgspec.Struct, frozen=True):
    """A signal by `response_id` that does not count.

    `state` is `waiting` until its response and the assignment of that are stored, `ambiguous` if
    several experiments have the response, or `refused`; `reason` says why.
    """

    response_id: str
    experiment: str | None
    signal: str
    value: float | None
    at: datetime
    received_at: datetime
    state: str
    reason: str | None


class WaitingFeedback(msgspec.Struct, frozen=True):
    """Signals by `response_id` that do not count: their numbers by state, and the newest ones."""

    waiting: int
    ambiguous: int
    refused: int
    signals: list[WaitingSignal]


class Erased(msgspec.Struct, frozen=True):
    """The answer to an erasure: the number of responses whose texts were deleted."""

    erased: int


class ResponseReader:
    """Reads and erases stored responses."""

    def __init__(self, store: ReadingStore, experiments: ExperimentService, clock: Clock) -> None:
        self._store = store
        self._experiments = experiments
        self._clock = clock

    async def find(self, response_id: str, experiment: str | None) -> ResponseView:
        """Return the response with this id.

        Raises NotFound; Conflict, naming them, if several experiments have it; Gone once its texts
        have expired.
        """
        rows = await self._store.by_id(response_id)
        if experiment is not None:
            rows = [row for row in rows if row["experiment"] == experiment]
        if not rows:
            named = repr(response_id[:UNIT_LENGTH_MAX])
            raise NotFound(
                f"there is no response with the id {named}; one that was just sent is stored within a second",
                field="response_id",
            )
        if len(rows) > 1:
            keys = ", ".join(sorted(row["experiment"] for row in rows))
            raise Conflict(
                f"several experiments have this response_id: {keys}. Name one: ?experiment=KEY",
                field="experiment",
            )
        if rows[0]["expired"]:
            raise Gone("the texts of this response have expired; it is still an address for feedback")
        return ResponseView.of(rows[0])

    async def page(
        self, key: str, filters: Mapping[str, Any], *, after: int | None, limit: int
    ) -> ResponsePage:
        """Return responses of an experiment, newest first.

        `filters` may have `variant` (its key), `unit`, `session_id`, `model`, `finish_reason`,
        `failed`, `since` and `until`. Raises NotFound for an unknown experiment or variant.
        """
        experiment = await self._experiments.get(key)
        wanted = {name: value for name, value in filters.items() if value is not None}
        if (variant := wanted.get("variant")) is not None:
            keys = [variant.key for variant in experiment.definition.variants]
            if variant not in keys:
                raise NotFound(
                    f"no variant is called {variant!r}; there are {', '.join(keys)}", field="variant"
                )
            wanted["variant"] = keys.index(variant)
        if (unit := wanted.pop("unit", None)) is not None:
            wanted["unit_hash"] = unit_hash(experiment.salt, unit)
        rows = await self._store.page(experiment.id, wanted, before=after, limit=limit + 1)
        following = rows[limit - 1]["seq"] if len(rows) > limit else None
        return ResponsePage([ResponseView.of(row) for row in rows[:limit]], following)

    async def waiting(self, limit: int) -> WaitingFeedback:
        """Return the signals by `response_id` that do not count."""
        counts = await self._store.counts()
        rows = await self._store.waiting_feedback(limit=limit)
        signals = [
            WaitingSignal(**{name: getattr(row, name) for name in WaitingSignal.__struct_fields__})
            for row in rows
        ]
        return WaitingFeedback(
            counts.get("waiting", 0), counts.get("ambiguous", 0), counts.get("refused", 0), signals
        )

    async def erase(self, unit: str, experiment: str | None) -> Erased:
        """Delete the texts of all responses to a unit, in one experiment or in all.

        Raises InvalidInput for a unit that cannot exist, NotFound for an unknown experiment.
        """
        if not 0 < len(unit) <= UNIT_LENGTH_MAX or "\0" in unit:
            raise InvalidInput(f"must be 1 to {UNIT_LENGTH_MAX} characters without NUL", field="unit")
        salts = await self._store.salts(experiment)
        if experiment is not None and not salts:
            raise unknown(experiment[:UNIT_LENGTH_MAX], "experiment")
        hashes = {experiment_id: unit_hash(salt, unit) for experiment_id, salt in salts.items()}
        return Erased(await self._store.erase(hashes, self._clock.now()))
