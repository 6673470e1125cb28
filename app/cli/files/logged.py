"""Logged scores read from a CSV file: for each task, the reward every variant earned on it. No network."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from app.cli.files import records
from app.cli.files.records import UnreadableLog
from app.core.limits import UNIT_LENGTH_MAX, VARIANTS_MAX
from app.experiments.limits import VARIANTS_MIN

TASK_LENGTH_MAX: Final = UNIT_LENGTH_MAX - 16  # leaves room for the number of the pass


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """Where a row keeps what. Without `task`, the n-th rows of all variants make the n-th task."""

    variant: str
    reward: str
    task: str | None = None
    where: tuple[tuple[str, str], ...] = ()
    decimal: records.Decimal = "auto"


class Task(msgspec.Struct, frozen=True):
    """One task and the logged reward of each variant on it, in the order of `LoggedRewards.variants`."""

    name: str
    rewards: tuple[float, ...]


class LoggedRewards(msgspec.Struct, frozen=True):
    """A complete table of tasks by variants, rewards on the scale `low` to `high`."""

    variants: tuple[str, ...]
    tasks: tuple[Task, ...]
    incomplete: int  # tasks left out because some variant has no reward on them
    low: float
    high: float

    def scaled(self, reward: float) -> float:
        """The reward in [0, 1], as the server will count it."""
        return (reward - self.low) / (self.high - self.low)

    @property
    def means(self) -> tuple[float, ...]:
        """The true mean of each variant over all tasks, in [0, 1]: hidden from the server."""
        columns = zip(*(task.rewards for task in self.tasks), strict=True)
        return tuple(self.scaled(sum(column) / len(self.tasks)) for column in columns)


class _Cell(msgspec.Struct, frozen=True):
    line: int
    variant: str
    task: str | None
    reward: float | None


def read(path: Path, columns: Columns, *, scale: tuple[float, float] = (0.0, 1.0)) -> LoggedRewards:
    """Read `path`. An empty reward, NA or NULL is a missing one, and leaves its task out.

    Raises UnreadableLog for what `records.read` cannot read, a reward off the scale, two rewards of one
    variant on one task, fewer than two variants, or no complete task; OSError when there is no file.
    """
    texts = (columns.variant,) if columns.task is None else (columns.variant, columns.task)
    found = records.read(
        path,
        records.Wanted(
            texts=texts,
            numbers=(columns.reward,),
            where=columns.where,
            filled=(columns.variant,),
            decimal=columns.decimal,
        ),
    )
    return _table(_cells(found, columns, scale), scale)


def variant_keys(names: Sequence[str]) -> dict[str, str]:
    """A distinct key of the API for each name: what a key may not hold becomes `-`."""
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:120] or "-"
        key, number = base, 1
        while key in taken:
            number += 1
            key = f"{base}-{number}"
        taken.add(key)
        keys[name] = key
    return keys


def _cells(found: records.Records, columns: Columns, scale: tuple[float, float]) -> Iterator[_Cell]:
    low, high = scale
    tasks = [None] * len(found.lines) if columns.task is None else found.texts[columns.task]
    rewards = found.numbers[columns.reward].tolist()
    rows = zip(found.lines, found.texts[columns.variant], tasks, rewards, strict=True)
    for line, variant, task, reward in rows:
        if task is not None and not 1 <= len(task) <= TASK_LENGTH_MAX:
            raise UnreadableLog(
                f"line {line}, column {columns.task!r}: must be 1 to {TASK_LENGTH_MAX} long, is {len(task)}"
            )
        missing = math.isnan(reward)
        if not missing and not low <= reward <= high:
            raise UnreadableLog(
                f"line {line}, column {columns.reward!r}: {reward:g} is off the scale {low:g}:{high:g}; give "
                "the right one with --scale LOW:HIGH"
            )
        yield _Cell(line, variant, task, None if missing else reward)


def _table(cells: Iterable[_Cell], scale: tuple[float, float]) -> LoggedRewards:
    rewards: dict[str, dict[str, float | None]] = {}
    lines: dict[tuple[str, str], int] = {}
    rows: dict[str, int] = {}
    for cell in cells:
        rows[cell.variant] = rows.get(cell.variant, 0) + 1
        task = cell.task if cell.task is not None else f"row-{rows[cell.variant]}"
        first = lines.setdefault((task, cell.variant), cell.line)
        if first != cell.line:
            raise UnreadableLog(
                f"line {cell.line}: {cell.variant!r} already has a reward on task {task!r}, in line {first}; "
                "choose among them with --where"
            )
        rewards.setdefault(task, {})[cell.variant] = cell.reward
    variants = tuple(sorted(rows))
    if not VARIANTS_MIN <= len(variants) <= VARIANTS_MAX:
        bounds = f"{VARIANTS_MIN} to {VARIANTS_MAX}"
        raise UnreadableLog(f"must hold {bounds} variants, found {len(variants)}")
    tasks = tuple(
        Task(name, complete)
        for name, by_variant in rewards.items()
        if (complete := _complete(by_variant, variants)) is not None
    )
    if not tasks:
        raise UnreadableLog(f"no task has a reward for each of {', '.join(variants)}")
    return LoggedRewards(variants, tasks, len(rewards) - len(tasks), *scale)


def _complete(by_variant: Mapping[str, float | None], variants: Sequence[str]) -> tuple[float, ...] | None:
    row = [by_variant.get(variant) for variant in variants]
    present = [reward for reward in row if reward is not None]
    return tuple(present) if len(present) == len(row) else None
