"""The step that adds what policies learn beyond the reward totals."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from psycopg import AsyncCursor

from app.core.clock import Clock, SystemClock
from app.core.telemetry import CONTEXT_MISFITS
from app.experiments.policies import Policy
from app.ledger import limits, rows
from app.ledger.learning.model import (
    LEARNING_KINDS,
    BucketLearning,
    Change,
    Key,
    Learning,
    PolicyTotals,
    Rows,
    Seen,
    agree,
    changes,
    is_forgotten,
    learning_of,
    moved,
    plus,
)
from app.ledger.rewards.model import Assignments
from app.ledger.session import copy, report_unusable, sql

_READ_LEARNING: Final = sql(__package__, "read_learning")
_READ_CONTEXTS: Final = sql(__package__, "read_contexts")
_ENSURE_POLICY_TOTALS: Final = sql(__package__, "ensure_policy_totals")
_LOCK_POLICY_TOTALS: Final = sql(__package__, "lock_policy_totals")
_STORE_POLICY_TOTALS: Final = sql(__package__, "store_policy_totals")
_DELETE_FORGOTTEN: Final = sql(__package__, "delete_forgotten")
_REWARDED: Final = """
    SELECT
        epoch, variant, reward, context, propensity, (extract(epoch FROM assigned_at) * 1000000)::bigint
    FROM assignments
    WHERE experiment_id = %s AND epoch = ANY(%s) AND exposed AND reward IS NOT NULL
"""
_FORGETTING: Final = """
    SELECT experiment_id, epoch, policy
    FROM epochs
    WHERE policy ? 'forgetting'
    ORDER BY random()
    LIMIT %s
"""
_CLOCK: Final[Clock] = SystemClock()
_POLICY_TOTALS: Final = "SELECT epoch, variant, part, body FROM policy_totals WHERE experiment_id = %s"


async def learning_by_epoch(
    cursor: AsyncCursor, experiment_ids: Collection[int]
) -> dict[tuple[int, int], Learning]:
    """Read what the policies of these experiments learn, by experiment and epoch."""
    parameters = {"experiment_ids": list(experiment_ids), "kinds": list(LEARNING_KINDS)}
    await cursor.execute(_READ_LEARNING, parameters)
    by_epoch = {}
    for experiment_id, epoch, policy in await cursor.fetchall():
        learning = learning_of(msgspec.convert(policy, Policy))
        if learning is not None:
            by_epoch[experiment_id, epoch] = learning
    return by_epoch


async def learn(
    cursor: AsyncCursor, before: Assignments, after: Assignments, experiment_ids: Collection[int]
) -> set[int]:
    """Add changes of rewards to the policy totals of these experiments. Return those that changed."""
    if not experiment_ids:
        return set()
    learning = await learning_by_epoch(cursor, experiment_ids)
    numbers = moved(before, after, learning)
    if not len(numbers):
        return set()
    places = rows.rows(len(numbers), number=(">i4", numbers), place=("V6", before["place"][numbers]))
    await copy(cursor, "learning", places)
    await cursor.execute(_READ_CONTEXTS)
    changed, misfits = changes(before, after, await cursor.fetchall(), learning)
    CONTEXT_MISFITS.inc(misfits)
    await _add_to_policy_totals(cursor, changed)
    return {key[0] for key in changed}


async def _add_to_policy_totals(cursor: AsyncCursor, changed: Mapping[Key, Change]) -> None:
    """Apply changes to policy totals. Totals that cannot be decoded stay as they are."""
    if not changed:
        return
    keys = _policy_keys(changed)
    await cursor.execute(_ENSURE_POLICY_TOTALS, keys)
    await cursor.execute(_LOCK_POLICY_TOTALS, keys)
    bodies: dict[Key, bytes] = {}
    for *names, body in await cursor.fetchall():
        key: Key = tuple(names)
        try:
            bodies[key] = changed[key].applied(body)
        except ValueError as error:
            report_unusable("policy_totals", key, error)
    await cursor.execute(_STORE_POLICY_TOTALS, _policy_keys(bodies) | {"body": list(bodies.values())})


async def recount_learned(cursor: AsyncCursor, experiment_id: int) -> list[tuple[int, int]]:
    """Set what an experiment's policies learned to what its log gives, under a lock on `policy_totals`.

    Parts that no policy can read any more stay as they are. Return (epoch, variant) of what differed.
    """
    learning = await learning_by_epoch(cursor, [experiment_id])
    now_s = _now_s()
    fresh = await _learned_from_log(cursor, experiment_id, learning)
    await cursor.execute(_POLICY_TOTALS, (experiment_id,))
    stored: dict[Key, bytes] = {(experiment_id, *row[:3]): row[3] for row in await cursor.fetchall()}
    right = {
        key: fresh.get(key, learning[key[:2]].empty)
        for key in sorted({*fresh, *stored})
        if key[:2] in learning and not is_forgotten(learning[key[:2]], key[3], now_s)
    }
    if right:
        await cursor.execute(_ENSURE_POLICY_TOTALS, _policy_keys(right))
        bodies = [totals.to_bytes() for totals in right.values()]
        await cursor.execute(_STORE_POLICY_TOTALS, _policy_keys(right) | {"body": bodies})
    return sorted(
        {
            key[1:3]
            for key, totals in right.items()
            if not agree(learning[key[:2]], totals, stored.get(key, b""))
        }
    )


async def delete_forgotten(cursor: AsyncCursor) -> int:
    """Delete policy totals that no policy can read any more, from a bounded random choice of epochs.

    Return the number of deleted rows. A later change to a deleted row makes a row of that change alone, which
    the next call deletes.
    """
    now_s = _now_s()
    await cursor.execute(_FORGETTING, (limits.FORGOTTEN_EPOCHS_MAX,))
    kept = []
    for experiment_id, epoch, policy in await cursor.fetchall():
        learning = learning_of(msgspec.convert(policy, Policy))
        if isinstance(learning, BucketLearning):
            kept.append((experiment_id, epoch, learning.first_part(now_s)))
    if not kept:
        return 0
    columns = zip(("experiment_id", "epoch", "first_part"), map(list, zip(*kept, strict=True)), strict=True)
    await cursor.execute(_DELETE_FORGOTTEN, dict(columns) | {"rows_max": limits.FORGOTTEN_ROWS_MAX})
    return cursor.rowcount


def _now_s() -> float:
    """Return the time that all workers share, so that deleted parts stay ignored by all."""
    return _CLOCK.now().timestamp()


async def _learned_from_log(
    cursor: AsyncCursor, experiment_id: int, learning: Mapping[tuple[int, int], Learning]
) -> dict[Key, PolicyTotals]:
    """Compute policy totals from the log's rewards, a bounded number of rows at a time."""
    totals: dict[Key, PolicyTotals] = {}
    async with cursor.connection.cursor(name="rewarded") as rewarded:
        await rewarded.execute(_REWARDED, (experiment_id, [epoch for _, epoch in learning]))
        while page := await rewarded.fetchmany(limits.SWEEP_ASSIGNMENTS_MAX):
            rows_by_key: defaultdict[Key, Rows] = defaultdict(lambda: Rows([], []))
            for epoch, variant, reward, *rest in page:
                learned, seen = learning[experiment_id, epoch], Seen(*rest)
                row = learned.row(seen)
                if row is not None:
                    chosen = rows_by_key[experiment_id, epoch, variant, learned.part(seen)]
                    chosen.given.append(row)
                    chosen.rewards.append(reward)
            for key, chosen in rows_by_key.items():
                learned = learning[key[:2]]
                totals[key] = plus(totals.get(key, learned.empty), learned.of_rows(chosen))
    return totals


def _policy_keys(keys: Collection[Key]) -> dict[str, list[Any]]:
    columns = zip(*keys, strict=True) if keys else ((), (), (), ())
    return dict(zip(("experiment_id", "epoch", "variant", "part"), map(list, columns), strict=True))
