"""What the calibrations share: rows of the validity table, their gates, and where chance comes from."""

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

SEED = 20260101
ALPHA = 0.05
"""The error rate of methods, where a row does not name another."""
SEED_OFFSET: ContextVar[int] = ContextVar("seed_offset", default=0)
"""Added to every seed: 0 are the seeds that methods were tuned with, any other are fresh ones."""


class Row(NamedTuple):
    """One line of the validity table."""

    name: str
    measured: float
    threshold: str
    passed: bool


Part = Callable[..., Iterator[Row]]
Parts = Mapping[str, Part]
"""Parts of the table by name; each is called with `full`, and yields its rows as they are measured."""


def generator(seed: int) -> np.random.Generator:
    """The source of chance number `seed`; the same in every run with the same offset."""
    return np.random.default_rng(SEED + SEED_OFFSET.get() + seed)


def within(name: str, measured: float, low: float, high: float) -> Row:
    return Row(name, float(measured), f"[{low:.4f}, {high:.4f}]", bool(low <= measured <= high))


def around(name: str, measured: float, rate: float, runs: int) -> Row:
    """Within the limits that a rate of exactly `rate` misses with probability 2e-6."""
    low, high = binom.ppf([1e-6, 1 - 1e-6], runs, rate) / runs
    return within(name, measured, float(low), float(high))


def at_most(name: str, measured: float, limit: float) -> Row:
    return Row(name, float(measured), f"<= {limit:.4g}", bool(measured <= limit))


def at_least(name: str, measured: float, limit: float) -> Row:
    return Row(name, float(measured), f">= {limit:.4g}", bool(measured >= limit))


def error_limit(runs: int, alpha: float, false_alarm: float = 1e-3) -> float:
    """The share of runs that a method with error `alpha` exceeds with probability `false_alarm`."""
    return float(binom.ppf(1 - false_alarm, runs, alpha)) / runs
