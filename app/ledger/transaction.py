"""The ledger's transaction: its steps in their order. ARCHITECTURE.md has the same list as a table."""

import math
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from psycopg import AsyncCursor

from app.experiments.publication_store import request_publications
from app.ledger.draws.step import add_draws
from app.ledger.learning.step import learn
from app.ledger.lease import Lease, lock_position, store_position
from app.ledger.log.batch import Batch, StreamEntry
from app.ledger.log.step import Logged, lock_affected, log
from app.ledger.rewards.model import GIVEN, PENDING, Given, differences
from app.ledger.rewards.step import resolve_rewards, store_rewards
from app.ledger.scope import Rules, lock_experiments, lock_layouts, read_rules
from app.ledger.signals.step import add_to_signal_totals
from app.ledger.signals.tally import SignalTally, uses_of
from app.ledger.totals.step import add_to_totals
from app.ledger.units.step import fresh_contexts, move_units, touch_units
from app.ledger.units.strata import of_rewards
from app.ledger.units.strata_step import move_strata


async def apply(
    cursor: AsyncCursor,
    lease: Lease,
    batch: Batch,
    entries: Sequence[StreamEntry],
    watermark: datetime | None,
    *,
    now: datetime,
) -> tuple[Lease, list[int], SignalTally]:
    """Take `batch`, the staged `entries`, into log and totals, and move behind the last entry.

    `watermark`: everything acknowledged before it is in the log after this batch; None: not known.
    Return the lease at its new position, the experiments whose totals changed, and the tally of the events.
    Raises Fenced.
    """
    # Position: locks the row of the shard.
    watermark_before = await lock_position(cursor, lease)
    # Scope: takes advisory locks of the experiments, and reads their definitions.
    await lock_layouts(cursor, batch.experiment_ids)
    await lock_experiments(cursor, batch)
    rules = await read_rules(cursor, batch.experiment_ids)
    known = batch.only(rules.rewards)
    rules.check(known.bodies)
    # Log: writes and locks assignments and signals.
    tally = SignalTally(uses_of({key: rule.signals for key, rule in rules.rewards.items()}))
    logged = await log(cursor, known, rules.rewards, tally)
    # Units, rewards, learning and totals.
    times = [moment.timestamp() * 1e6 for moment in (watermark, watermark_before) if moment]
    changed = await revise(cursor, logged, rules, passed_us=max(times, default=-math.inf))
    # Draws: writes draws, under an advisory lock of each experiment.
    in_batch = logged.assignments[: len(known.bodies)]
    await add_draws(cursor, known.bodies[in_batch["exposed"] & ~in_batch["counted"]], rules.drawing)
    # Signals: writes signal totals, last because batches share few rows of them.
    await add_to_signal_totals(cursor, tally)
    # Position: writes it, and renews the lease.
    moved = lease.after(entries)
    await store_position(cursor, moved, watermark, now=now)
    tally.results["unknown_experiment"] += batch.n_events - known.n_events
    return moved, changed, tally


async def revise(
    cursor: AsyncCursor,
    logged: Logged,
    rules: Rules,
    *,
    silent_until_us: float = -math.inf,
    passed_us: float = math.inf,
) -> list[int]:
    """Recompute the rewards of logged assignments, and move everything that depends on them.

    The sweep may have passed a deadline that is not after `passed_us`. An assignment that becomes pending
    with that deadline is noted as overdue. Return the experiments whose totals changed.
    """
    before = logged.assignments
    new = before["exposed"] & ~before["counted"]
    # Touch units: locks the units of the assignments, and reads what is stored of them.
    measured = before["exposed"] & np.isin(before["experiment_id"], list(rules.measures))
    touching = np.flatnonzero(measured & (logged.resolving | new))
    touched = await touch_units(cursor, before[touching], rules.measures, rules.shares)
    # Rewards: reads the signals that the batch does not hold.
    unread = logged.unread.copy()
    unread[touching] |= touched.has_signals[touched.number]
    after, given = await resolve_rewards(
        cursor, logged, unread, rules.rewards, silent_until_us=silent_until_us
    )
    # Learning: writes policy totals. It reads contexts by place, which storing rewards changes.
    learners = [experiment_id for experiment_id, rule in rules.rewards.items() if rule.learns]
    learned = await learn(cursor, before, after, learners)
    # Rewards: writes assignments, and overdue assignments.
    changed = (after["outcome"] != before["outcome"]) | (after["reward"] != before["reward"])
    reading_silence = [key for key, measures in rules.measures.items() if measures.reads_silence]
    waiting = after["exposed"] & (after["outcome"] == PENDING) & (changed | new)
    waiting |= np.isin(after["experiment_id"], reading_silence) & new
    await store_rewards(cursor, after[changed], after[waiting & (after["deadline_us"] <= passed_us)])
    # Units: writes unit totals, cells, series and strata.
    contexts = fresh_contexts(logged, touching, rules.measures)
    moved = await move_units(
        cursor,
        touched,
        after[touching],
        given.about(touching),
        contexts=contexts,
        measures=rules.measures,
        shares=rules.shares,
    )
    # Strata: of experiments that measure nothing but rewards.
    unmeasured = {key: shares for key, shares in rules.shares.items() if key not in rules.measures}
    await move_strata(cursor, of_rewards(before, after, unmeasured), {})
    # Totals: writes totals, and requests publications.
    counted = await add_to_totals(cursor, differences(before, after))
    experiment_ids = sorted(learned | moved | counted)
    await request_publications(cursor, experiment_ids)
    return experiment_ids


async def revise_affected(cursor: AsyncCursor, *, silent_until_us: float = -math.inf) -> list[int]:
    """Lock and revise the assignments in `affected`. Return the experiments whose totals changed.

    The caller has locked the layouts of their experiments.
    """
    assignments = await lock_affected(cursor)
    rules = await read_rules(cursor, np.unique(assignments["experiment_id"]).tolist())
    assignments = assignments[np.isin(assignments["experiment_id"], list(rules.rewards))]
    every = np.ones(len(assignments), np.bool_)
    logged = Logged(assignments, every, every, Given(np.empty(0, GIVEN), ()))
    return await revise(cursor, logged, rules, silent_until_us=silent_until_us)
