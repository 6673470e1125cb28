"""The data of the readout in PostgreSQL, of one moment, and the history of readouts."""

import zlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any, Final

import msgspec
import numpy as np
from sqlalchemy import Integer, Select, cast, func, select, text
from sqlalchemy import Row as SqlRow
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.allocation.freeze_store import read_freeze
from app.allocation.model import VariantTotals
from app.allocation.store import (
    read_earlier,
    read_history,
    read_latest,
    read_learned,
    read_learned_epochs,
    read_totals,
)
from app.analysis import limits
from app.analysis.aa import Arrived
from app.analysis.log_store import LogStore
from app.analysis.readout.model import Status, Stored, history_of
from app.analysis.series import Row as SeriesRow
from app.analysis.signals import SignalTotals
from app.analysis.stored import Drawn, EpochTotals, StoredTotals, StratumCell, UnitCell
from app.analysis.tables import readouts
from app.assignment.bucketing import WHOLE
from app.core.clock import Clock, SystemClock
from app.core.errors import Conflict
from app.experiments.metric_history_store import read_backfill, read_changes
from app.experiments.model import Experiment
from app.experiments.store import experiment_of
from app.experiments.tables import experiments, publications
from app.ledger.session import report_unusable
from app.ledger.tables import (
    assignments,
    metric_series,
    signal_totals,
    totals,
    unit_totals,
)
from app.ledger.units.measures import CellTotals, Measures
from app.ledger.units.model import HEAD, Units

_CLOCK: Final[Clock] = SystemClock()
_FOLDER: Final = files(__package__)
_OBSERVED: Final = text(_FOLDER.joinpath("sql/observed.sql").read_text())
_DUE: Final = text(_FOLDER.joinpath("sql/due.sql").read_text())
_THIN: Final = text(_FOLDER.joinpath("sql/thin.sql").read_text())


class AnalysisStore:
    """Reads the data of analysis, and keeps readouts."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.log = LogStore(engine)
        """The log of assignments and signals."""

    async def stored(self, experiment: Experiment) -> tuple[Experiment, Stored]:
        """Return an experiment with its totals and allocations, all of one moment."""
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            chosen = select(experiments).where(experiments.c.id == experiment.id)
            row = (await connection.execute(chosen)).one_or_none()
            present = experiment if row is None else experiment_of(row)
            return present, await read_stored(connection, present)

    async def observed(self, experiment: Experiment) -> StoredTotals:
        """Return the totals of an experiment."""
        async with self._engine.connect() as connection:
            return await read_observed(connection, experiment.id)

    async def signals(self, experiment: Experiment) -> tuple[int, list[SignalTotals]]:
        """Return the number of recorded assignments, and the totals of signals about them."""
        recorded = select(func.coalesce(func.sum(totals.c.assignments), 0)).where(
            totals.c.experiment_id == experiment.id
        )
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            n_assignments = int((await connection.execute(recorded)).scalar_one())
            return n_assignments, await read_signal_totals(connection, experiment.id)

    async def series(self, experiment: Experiment, first: int, end: int) -> list[SeriesRow]:
        """Return the stored series of the minutes from `first` to before `end`."""
        kept = metric_series.c
        statement = select(kept.minute, kept.variant, kept.crossed, kept.body).where(
            kept.experiment_id == experiment.id, kept.minute >= first, kept.minute < end, kept.body != b""
        )
        async with self._engine.connect() as connection:
            return [SeriesRow(*row) for row in await connection.execute(statement)]

    async def arrived(self, experiment: Experiment, measures: Measures, *, by_unit: bool) -> Arrived:
        """Return units of the control in the order of their minute of arrival.

        At most `AA_UNITS_MAX` are read, in the order of their hashes. Hashes are keyed, so of more
        units these are a random part of the earliest epochs. Without totals of units (`by_unit`)
        the units are rewarded assignments.

        Raises Conflict if the stored totals of a unit cannot be read.
        """
        statement = (_units_of_control if by_unit else _rewards_of_control)(experiment)
        if by_unit and measures.plan.crossovers == "exclude":
            statement = statement.where(~unit_totals.c.crossed)
        async with self._engine.connect() as connection:
            rows = (await connection.execute(statement.limit(limits.AA_UNITS_MAX + 1))).all()
        sampled, rows = len(rows) > limits.AA_UNITS_MAX, rows[: limits.AA_UNITS_MAX]
        if by_unit:
            heads = np.array([(*tuple(row[:4]), -1, 0, row.layout) for row in rows], HEAD)
            segments, bodies = [row.segment for row in rows], [row.body for row in rows]
            units, readable = Units.read(heads, segments, bodies, measures)
            if not readable.all():
                n_damaged = int((~readable).sum())
                report_unusable("unit_totals", experiment.key, f"{n_damaged} units")
                raise Conflict(f"the totals of {n_damaged:,} units cannot be read; run `wald rebuild`")
        else:
            columns = ([row[place] for row in rows] for place in range(3))
            units = Units.rewarded(*columns)
        return Arrived(units.of(np.argsort(units.minutes, kind="stable")), sampled)

    async def experiment(self, experiment_id: int) -> Experiment | None:
        """Return the experiment with this id; None if it was deleted."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(experiments).where(experiments.c.id == experiment_id))
            row = rows.one_or_none()
        return None if row is None else experiment_of(row)

    async def due(self, limit: int) -> list[int]:
        """Return at most `limit` ids of experiments whose readout is due."""
        parameters = {"now": _CLOCK.now(), "interval_s": limits.READOUT_INTERVAL_S, "limit": limit}
        async with self._engine.connect() as connection:
            return list((await connection.execute(_DUE, parameters)).scalars())

    async def keep(self, experiment_id: int, status: Status, wanted: int) -> None:
        """Keep a readout. An earlier one of the same moment stays."""
        plain = msgspec.json.encode(msgspec.structs.replace(status, allocation_history=[]))
        row = {"experiment_id": experiment_id, "at": status.read_at, "wanted": wanted}
        statement = postgresql.insert(readouts).values(**row, body=zlib.compress(plain))
        async with self._engine.begin() as connection:
            await connection.execute(statement.on_conflict_do_nothing())

    async def kept(self, experiment: Experiment, at: datetime) -> dict[str, Any] | None:
        """Return the newest readout that is not after `at`, with the allocations up to its moment."""
        newest = (
            select(readouts.c.at, readouts.c.body)
            .where(readouts.c.experiment_id == experiment.id, readouts.c.at <= at)
            .order_by(readouts.c.at.desc())
            .limit(1)
        )
        async with self._engine.connect() as connection:
            row = (await connection.execute(newest)).one_or_none()
            if row is None:
                return None
            history = await read_history(connection, experiment.id, until=row.at)
        status: dict[str, Any] = msgspec.json.decode(zlib.decompress(row.body))
        return status | {"allocation_history": history_of(history, len(experiment.definition.variants))}

    async def first_kept(self, experiment: Experiment) -> datetime | None:
        """Return the moment of the oldest readout."""
        statement = select(func.min(readouts.c.at)).where(readouts.c.experiment_id == experiment.id)
        async with self._engine.connect() as connection:
            first: datetime | None = await connection.scalar(statement)
        return first

    async def thin(self) -> int:
        """Delete some of the older readouts; return how many."""
        parameters = {
            "now": _CLOCK.now(),
            "dense_s": limits.READOUT_DENSE_S,
            "medium_s": limits.READOUT_MEDIUM_S,
            "rows_max": limits.READOUT_THIN_ROWS_MAX,
        }
        async with self._engine.begin() as connection:
            return (await connection.execute(_THIN, parameters)).rowcount


async def read_observed(connection: AsyncConnection, experiment_id: int) -> StoredTotals:
    """Return the totals of an experiment, all of one snapshot, which may hold events after the watermark."""
    read_at = _CLOCK.now()
    parts: defaultdict[str, list[SqlRow[Any]]] = defaultdict(list)
    for row in await connection.execute(_OBSERVED, {"experiment_id": experiment_id}):
        parts[row.part].append(row)
    cells = [
        UnitCell(row.epoch, row.variant, row.segment, row.crossed, CellTotals.from_bytes(row.body))
        for row in parts["units"]
    ]
    return StoredTotals(
        by_epoch=[
            EpochTotals(row.epoch, row.variant, VariantTotals(*map(int, row.numbers)))
            for row in parts["epochs"]
        ],
        units=[cell for cell in cells if cell.totals.units],
        draws=[Drawn(row.epoch, row.variant, *map(int, row.numbers)) for row in parts["draws"]],
        totals_as_of=parts["watermark"][0].at,
        read_at=read_at,
        epoch_shares=_constant_shares(parts["shares"]),
        strata=[
            StratumCell(row.epoch, int(row.numbers[0]), row.variant, CellTotals.from_bytes(row.body))
            for row in parts["strata"]
        ],
    )


def _constant_shares(rows: Sequence[SqlRow[Any]]) -> dict[int, tuple[float, ...] | None]:
    """Return the shares of each epoch in which they never moved, None for the others.

    An epoch with constant shares has exactly one version, which directly follows the last version
    of the epoch before it. If a version between them was thinned away, the shares may have moved,
    so the epoch counts as one that moved.
    """
    shares: dict[int, tuple[float, ...] | None] = {}
    before = 0
    for row in rows:
        first, last, *weights = map(int, row.numbers)
        constant = before + 1 == first == last
        shares[row.epoch] = tuple(weight / WHOLE for weight in weights) if constant else None
        before = last
    return shares


async def read_stored(connection: AsyncConnection, experiment: Experiment) -> Stored:
    """Return all that the status of an experiment needs. The caller's transaction is REPEATABLE READ."""
    wanted = select(publications.c.wanted).where(publications.c.experiment_id == experiment.id)
    observed = await read_observed(connection, experiment.id)
    return Stored(
        metric_changes=await read_changes(connection, experiment.id),
        backfill=await read_backfill(connection, experiment.id),
        **msgspec.structs.asdict(observed),
        wanted=await connection.scalar(wanted) or 0,
        frozen=await read_freeze(connection, experiment.id),
        totals=await read_totals(connection, experiment),
        latest=await read_latest(connection, experiment.id),
        history=await read_history(connection, experiment.id),
        earlier=await read_earlier(connection, experiment),
        learned=await read_learned(connection, experiment, observed.read_at.timestamp()),
        learned_epochs=await read_learned_epochs(connection, experiment),
        signals=await read_signal_totals(connection, experiment.id),
    )


async def read_signal_totals(connection: AsyncConnection, experiment_id: int) -> list[SignalTotals]:
    """Return the totals of an experiment's signals, in the order of their names."""
    kept = signal_totals.c
    columns = [kept[name] for name in SignalTotals.__struct_fields__]
    statement = select(*columns).where(kept.experiment_id == experiment_id).order_by(kept.signal)
    return [SignalTotals(*row) for row in await connection.execute(statement)]


def _units_of_control(experiment: Experiment) -> Select[Any]:
    kept = unit_totals.c
    return (
        select(
            kept.epoch,
            kept.variant,
            kept.crossed,
            func.coalesce(kept.minute, -1),
            kept.layout,
            kept.segment,
            kept.body,
        )
        .where(kept.experiment_id == experiment.id, kept.variant == experiment.definition.control_index)
        .order_by(kept.epoch, kept.unit_hash, kept.assignment_id)
    )


def _rewards_of_control(experiment: Experiment) -> Select[Any]:
    log = assignments.c
    minute = cast(func.extract("epoch", log.assigned_at) / 60, Integer).label("minute")
    return (
        select(log.variant, minute, log.reward)
        .where(
            log.experiment_id == experiment.id,
            log.exposed,
            log.variant == experiment.definition.control_index,
            log.reward.is_not(None),
        )
        .order_by(log.unit_hash, log.id)
    )
