"""Use cases of analysis."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec

from app.allocation.service import AllocationService
from app.analysis import limits
from app.analysis.aa import Aa, AaQuestion, replay
from app.analysis.export import Format, Row, Writer, writer
from app.analysis.integrity import causes
from app.analysis.readout.model import RolloutStatus, Status, measured_of
from app.analysis.series import Series, Steps, series_of
from app.analysis.signals import SignalsReport, report_of
from app.analysis.store import AnalysisStore
from app.core import telemetry
from app.core.choices import refusal
from app.core.clock import Clock, SystemClock
from app.core.computing import Computing
from app.core.errors import InvalidInput, NotFound, Unavailable, UnprocessableInput
from app.experiments.metrics import Metric
from app.experiments.model import Experiment
from app.experiments.service import ExperimentService
from app.ledger.units.measures import Measures, measures_of

Lag = Callable[[], Awaitable[int]]
"""Counts acknowledged events not yet in the totals, and raises Unavailable without Valkey."""

_CLOCK: Final[Clock] = SystemClock()


Rollouts = Callable[[str], Awaitable[list[RolloutStatus]]]
"""The newest rollouts of the experiment of this key, which a room above this one knows."""


async def no_rollouts(_: str) -> list[RolloutStatus]:
    """The rollouts of a server that has none."""
    return []


class AnalysisService:
    """What is known of an experiment, now and before."""

    def __init__(
        self,
        experiments: ExperimentService,
        store: AnalysisStore,
        lag: Lag,
        computing: Computing | None = None,
        rollouts: Rollouts = no_rollouts,
    ) -> None:
        self._experiments = experiments
        self._rollouts = rollouts
        self._store = store
        self._lag = lag
        self._computing = computing or Computing()

    async def status(self, key: str) -> Status:
        """The readout of an experiment. Raises NotFound."""
        status, _ = await read(await self._experiments.get(key), self._store, self._lag)
        return msgspec.structs.replace(status, rollouts=await self._rollouts(key))

    async def signals(self, key: str) -> SignalsReport:
        """What has become of an experiment's signals. Raises NotFound."""
        experiment = await self._experiments.get(key)
        assignments, totals = await self._store.signals(experiment)
        return await asyncio.to_thread(report_of, experiment.definition, assignments, totals)

    async def status_at(self, key: str, at: datetime) -> dict[str, Any]:
        """The newest status that was kept and is not after `at`, in the words of that time.

        Raises NotFound where there is none, InvalidInput if the time has no offset.
        """
        _with_offset("at", at)
        experiment = await self._experiments.get(key)
        kept = await self._store.kept(experiment, at)
        if kept is None:
            first = await self._store.first_kept(experiment)
            first_one = (
                "no readout is kept yet" if first is None else f"the first one is of {first.isoformat()}"
            )
            raise NotFound(f"no readout of {key} is kept from {at.isoformat()} or before: {first_one}")
        return kept

    async def export(
        self, key: str, kind: Format, *, since: datetime | None, until: datetime | None, exact: bool
    ) -> AsyncIterator[bytes]:
        """The logged assignments of an experiment as a file; the first part is made before this returns.

        Raises NotFound, InvalidInput, UnprocessableInput.
        """
        _with_offset("since", since)
        _with_offset("until", until)
        experiment = await self._experiments.get(key)
        parts = _parts(
            self._store.assignments(experiment, since=since, until=until), writer(kind, exact=exact)
        )
        return _resumed(await anext(parts), parts)

    async def series(
        self,
        key: str,
        metric: str,
        *,
        since: datetime | None,
        until: datetime | None,
        step_s: int,
        seasonal: bool,
    ) -> Series:
        """A metric over time. Raises NotFound, InvalidInput, UnprocessableInput where no series are kept."""
        _with_offset("since", since)
        _with_offset("until", until)
        experiment = await self._experiments.get(key)
        measures = _kept_measures(experiment)
        if measures is None:
            raise UnprocessableInput(
                f"{key} keeps no series: they are of experiments with metrics, segments, covariates or"
                " stickiness"
            )
        chosen = [one for one in measures.metrics if one.key == metric]
        if not chosen:
            known = [one.key for one in measures.metrics]
            raise InvalidInput(refusal(repr(metric), known), field="metric")
        steps = Steps.of(since, until, step_s, now=_CLOCK.now())
        (found,) = await self._series(experiment, measures, chosen, steps, seasonal=seasonal)
        return found

    async def all_series(self, experiment: Experiment, step_s: int) -> list[Series]:
        """The last steps of all metrics; none where no series are kept."""
        measures = _kept_measures(experiment)
        if measures is None:
            return []
        steps = Steps.of(None, None, step_s, now=_CLOCK.now())
        return await self._series(experiment, measures, measures.metrics, steps, seasonal=False)

    async def _series(
        self,
        experiment: Experiment,
        measures: Measures,
        metrics: Sequence[Metric],
        steps: Steps,
        *,
        seasonal: bool,
    ) -> list[Series]:
        rows = await self._store.series(experiment, steps.first // 60, steps.end // 60)
        return await asyncio.to_thread(
            series_of, experiment, measures, metrics, steps, rows, seasonal=seasonal
        )

    async def aa(self, key: str, question: AaQuestion) -> Aa:
        """Replay A/A on the units of the control.

        Raises NotFound, InvalidInput, UnprocessableInput of too few units, Conflict if what is stored of one
        cannot be read, Unavailable while others compute.
        """
        experiment = await self._experiments.get(key)
        kept, measures = _kept_measures(experiment), measured_of(experiment.definition)
        arrived = await self._store.arrived(experiment, measures, by_unit=kept is not None)
        stored = await self._store.observed(experiment)
        work = partial(
            replay,
            key,
            question,
            measures,
            arrived,
            n_variants=len(experiment.definition.variants),
            adaptive=stored.observed(experiment).adaptive,
        )
        return await self._computing.run(work)


def _kept_measures(experiment: Experiment) -> Measures | None:
    definition = experiment.definition
    return measures_of(definition.metrics, definition.plan, definition.stickiness)


async def _parts(pages: AsyncIterator[Sequence[Row]], file: Writer) -> AsyncIterator[bytes]:
    async for page in pages:
        yield await asyncio.to_thread(file.page, page)
    yield file.end()


async def _resumed(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in others:
        yield part


def _with_offset(field: str, at: datetime | None) -> None:
    if at is not None and at.tzinfo is None:
        raise InvalidInput("needs a time with an offset, as in 2026-01-01T12:00:00Z", field=field)


class ReadoutKeeper:
    """Keeps readouts, and freezes learning where they find the data broken. For the worker.

    Each experiment at most every `READOUT_INTERVAL_S`, and only if something has changed.
    """

    def __init__(self, store: AnalysisStore, allocation: AllocationService, lag: Lag) -> None:
        self._store = store
        self._allocation = allocation
        self._lag = lag

    async def due(self) -> list[int]:
        """At most `READOUT_BATCH_MAX` ids of experiments that have changed since they were last read."""
        return await self._store.due(limits.READOUT_BATCH_MAX)

    async def read(self, experiment_id: int) -> None:
        """Keep the readout of an experiment, after what it finds broken has frozen learning."""
        experiment = await self._store.experiment(experiment_id)
        if experiment is None:
            return
        status, wanted = await read(experiment, self._store, self._lag)
        assert status.analysis is not None
        found = causes(status.analysis.integrity)
        if found or status.frozen is not None:
            await self._allocation.freeze(experiment_id, found)
        await self._store.keep(experiment_id, status, wanted)
        telemetry.READOUTS.inc()

    async def thin(self) -> None:
        """Let older readouts stand farther apart; a bounded part of the work."""
        await self._store.thin()


async def read(experiment: Experiment, store: AnalysisStore, lag: Lag) -> tuple[Status, int]:
    """The readout of an experiment, and the `publications.wanted` it is as of.

    The lag is read before the totals: when it is 0, everything acknowledged by then is in them.
    """
    try:
        lag_events, warnings = await lag(), []
    except Unavailable as error:
        lag_events, warnings = None, [f"lag_events is not known: {error.detail}"]
    stored = await store.stored(experiment)
    # In a thread: this process also does other things, and nobody's request waits for somebody's statistics.
    status = await asyncio.to_thread(stored.status, experiment, lag_events=lag_events, warnings=warnings)
    return status, stored.wanted
