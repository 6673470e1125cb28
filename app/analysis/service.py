"""Use cases of analysis: status, history, series, export and A/A."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import UnsetType

from app.allocation.service import AllocationService
from app.analysis import aggregated, limits
from app.analysis.aa import Aa, AaQuestion, replay
from app.analysis.aggregated import AggregatedQuestion
from app.analysis.columns import Layout
from app.analysis.coverage import Coverage, coverage_of, joined
from app.analysis.export import OUTCOMES, Format, Row, Writer, writer
from app.analysis.integrity import causes
from app.analysis.log_store import LogPage
from app.analysis.readout.model import RolloutStatus, Status, measured_of
from app.analysis.readout.record import Readout
from app.analysis.series import Series, Steps, series_of
from app.analysis.signals import SignalsReport, report_of
from app.analysis.store import AnalysisStore
from app.core import telemetry
from app.core.choices import refusal
from app.core.clock import Clock, SystemClock
from app.core.computing import Computing
from app.core.errors import Conflict, InvalidInput, NotFound, Unavailable, UnprocessableInput
from app.experiments.metrics import Metric
from app.experiments.model import Experiment
from app.experiments.service import ExperimentService
from app.ledger.rewards.composite import NANO
from app.ledger.units.measures import Measures, measures_of
from bandits.identification import Winner

Lag = Callable[[], Awaitable[int]]
"""A function that counts acknowledged events not yet in the totals; Unavailable without Valkey."""

_CLOCK: Final[Clock] = SystemClock()


Rollouts = Callable[[str], Awaitable[list[RolloutStatus]]]
"""A function that returns the newest rollouts of an experiment, from a room above this one."""


async def no_rollouts(_: str) -> list[RolloutStatus]:
    """Return no rollouts, for a server without them."""
    return []


class AnalysisService:
    """Use cases about one experiment, now and in the past."""

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
        self._log = store.log
        self._lag = lag
        self._computing = computing or Computing()

    async def status(self, key: str) -> Status:
        """Return the status of an experiment. Raises NotFound."""
        status, _ = await read(await self._experiments.get(key), self._store, self._lag)
        return msgspec.structs.replace(status, rollouts=await self._rollouts(key))

    async def aggregated(self, question: AggregatedQuestion) -> Readout:
        """Return the readout of aggregated totals.

        Raises InvalidInput, and Unavailable while other requests compute.
        """
        return await self._computing.run(partial(aggregated.answer, question))

    async def signals(self, key: str, *, coverage: bool = False, label: str | None = None) -> SignalsReport:
        """Return the report of an experiment's signals, if asked for with their coverage.

        Raises NotFound; InvalidInput if the log has no signal called `label`.
        """
        experiment = await self._experiments.get(key)
        assignments, totals = await self._store.signals(experiment)
        report = await asyncio.to_thread(report_of, experiment.definition, assignments, totals)
        if not coverage and label is None:
            return report
        logged = [row.signal for row in totals if row.signal]
        if label is not None and label not in logged:
            raise InvalidInput(refusal(repr(label), logged), field="label")
        covered = await self._coverage(experiment, label)
        return msgspec.structs.replace(report, coverage=covered)

    async def _coverage(self, experiment: Experiment, label: str | None) -> Coverage:
        rows_max = limits.COVERAGE_ROWS if label is None else limits.CALIBRATION_ROWS
        parts = [
            (page.assignments, page.given) async for page in self._log.pages(experiment, rows_max=rows_max)
        ]
        assignments, given = await asyncio.to_thread(joined, parts)
        return await asyncio.to_thread(coverage_of, experiment.definition, assignments, given, label)

    async def status_at(self, key: str, at: datetime) -> dict[str, Any]:
        """Return the newest kept status that is not after `at`, exactly as it was then.

        Raises NotFound if there is none, InvalidInput if the time has no offset.
        """
        _with_offset("at", at)
        experiment = await self._experiments.get(key)
        kept = await self._store.kept(experiment, at)
        if kept is None:
            first = await self._store.first_kept(experiment)
            first_one = (
                "no readout is kept yet" if first is None else f"the first readout is of {first.isoformat()}"
            )
            raise NotFound(f"no readout of {key} is kept from {at.isoformat()} or before; {first_one}")
        return kept

    async def export(
        self, key: str, kind: Format, *, since: datetime | None, until: datetime | None, exact: bool
    ) -> AsyncIterator[bytes]:
        """Return the logged assignments of an experiment as a file; its first part is ready.

        Raises NotFound, InvalidInput, UnprocessableInput.
        """
        _with_offset("since", since)
        _with_offset("until", until)
        experiment = await self._experiments.get(key)
        _, logged = await self._store.signals(experiment)
        contexts = await self._log.context_kinds(experiment)
        layout = Layout.of(experiment.definition, contexts, [signal.signal for signal in logged])
        file = writer(kind, exact=exact, more=layout.columns)
        pages = self._log.pages(experiment, since=since, until=until)
        parts = _parts(pages, file, layout, [variant.key for variant in experiment.definition.variants])
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
        """Return a metric over time. Raises NotFound, InvalidInput; UnprocessableInput without series."""
        _with_offset("since", since)
        _with_offset("until", until)
        experiment = await self._experiments.get(key)
        measures = _kept_measures(experiment)
        if measures is None:
            raise UnprocessableInput(
                f"{key} has no series; they need metrics, segments, covariates or stickiness"
            )
        chosen = [measured for measured in measures.metrics if measured.key == metric]
        if not chosen:
            known = [measured.key for measured in measures.metrics]
            raise InvalidInput(refusal(repr(metric), known), field="metric")
        if metric in measures.unfinished:
            raise Conflict(f"{metric!r} is still being measured: see GET /experiments/{key}/metrics")
        steps = Steps.of(since, until, step_s, now=_CLOCK.now())
        (series,) = await self._series(experiment, measures, chosen, steps, seasonal=seasonal)
        return series

    async def all_series(self, experiment: Experiment, step_s: int) -> list[Series]:
        """Return the last steps of all metrics; empty if the experiment has no series."""
        measures = _kept_measures(experiment)
        if measures is None:
            return []
        steps = Steps.of(None, None, step_s, now=_CLOCK.now())
        complete = [metric for metric in measures.metrics if metric.key not in measures.unfinished]
        return await self._series(experiment, measures, complete, steps, seasonal=False)

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

        Raises NotFound, InvalidInput, UnprocessableInput below the least number of units, Conflict
        if totals of a unit cannot be read, and Unavailable while other requests compute.
        """
        experiment = await self._experiments.get(key)
        kept, measures = _kept_measures(experiment), measured_of(experiment)
        if measures.unfinished:
            raise Conflict(f"metrics of {key} are still being measured: see GET /experiments/{key}/metrics")
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
    definition, layouts = experiment.definition, experiment.layouts
    return measures_of(definition.metrics, definition.plan, definition.stickiness, layouts)


async def _parts(
    pages: AsyncIterator[LogPage], file: Writer, layout: Layout, variants: Sequence[str]
) -> AsyncIterator[bytes]:
    async for page in pages:
        yield await asyncio.to_thread(_encoded, page, file, layout, variants)
    yield file.end()


def _encoded(page: LogPage, file: Writer, layout: Layout, variants: Sequence[str]) -> bytes:
    return file.page(_rows(page, layout, variants))


def _rows(page: LogPage, layout: Layout, variants: Sequence[str]) -> list[Row]:
    """Return the rows of an export for a page of the log."""
    contexts = [row.context for row in page.rows]
    columns = layout.values(contexts, page.assignments, page.given, page.swept_us)
    more = zip(*columns, strict=True) if columns else (() for _ in page.rows)
    return [
        Row(
            row.id,
            row.unit,
            variants[row.variant],
            row.propensity,
            row.policy_version,
            row.epoch,
            row.assigned_at,
            OUTCOMES[row.outcome],
            None if row.reward is None else row.reward / NANO,
            row.context,
            tuple(values),
        )
        for row, values in zip(page.rows, more, strict=True)
    ]


async def _resumed(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in others:
        yield part


def _with_offset(field: str, at: datetime | None) -> None:
    if at is not None and at.tzinfo is None:
        raise InvalidInput("must be a time with an offset, for example 2026-01-01T12:00:00Z", field=field)


class ReadoutKeeper:
    """Keeps readouts, and freezes learning if the data are broken. For the worker.

    It reads an experiment at most every `READOUT_INTERVAL_S`, and only after a change.
    """

    def __init__(self, store: AnalysisStore, allocation: AllocationService, lag: Lag) -> None:
        self._store = store
        self._allocation = allocation
        self._lag = lag

    async def due(self) -> list[int]:
        """Return at most `READOUT_BATCH_MAX` ids of experiments that changed since their last readout."""
        return await self._store.due(limits.READOUT_BATCH_MAX)

    async def read(self, experiment_id: int) -> None:
        """Freeze learning on broken data, else let `best_arm` stop; then keep the readout."""
        experiment = await self._store.experiment(experiment_id)
        if experiment is None:
            return
        status, wanted = await read(experiment, self._store, self._lag)
        assert status.analysis is not None
        broken = causes(status.analysis.integrity)
        if broken or status.frozen is not None:
            await self._allocation.freeze(experiment_id, broken)
        elif (winner := _new_winner(experiment, status)) is not None:
            await self._allocation.conclude(experiment_id, experiment.epoch, winner)
        await self._store.keep(experiment_id, status, wanted)
        telemetry.READOUTS.inc()

    async def thin(self) -> None:
        """Delete some of the older readouts; one call does a bounded part of the work."""
        await self._store.thin()


def _new_winner(experiment: Experiment, status: Status) -> Winner | None:
    """Return the winner that `best_arm` may serve alone from now on; None if there is none."""
    ahead = status.best_arm
    if isinstance(ahead, UnsetType) or not ahead.decided:
        return None
    keys = [variant.key for variant in status.variants]
    position = keys.index(ahead.variant)
    if status.variants[position].allocation == 1.0:
        return None
    rewards = sum(status.variants[index].rewards for index in experiment.definition.active)
    return Winner(position, float(rewards), ahead.log_evidence, ahead.log_threshold)


async def read(experiment: Experiment, store: AnalysisStore, lag: Lag) -> tuple[Status, int]:
    """Return the status of an experiment, and its `publications.wanted` at that moment.

    The lag is read before the totals: if it is 0, they contain everything acknowledged before.
    """
    try:
        lag_events, warnings = await lag(), []
    except Unavailable as error:
        lag_events, warnings = None, [f"lag_events is unknown: {error.detail}"]
    experiment, stored = await store.stored(experiment)
    # In a thread, so that other requests do not wait for statistics.
    status = await asyncio.to_thread(stored.status, experiment, lag_events=lag_events, warnings=warnings)
    return status, stored.wanted
