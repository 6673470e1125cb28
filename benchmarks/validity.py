"""Rows of the validity table, their gates and their generators, which all calibrations share."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

SEED = 20260101
ALPHA = 0.05
"""The error rate of methods, unless a row names another one."""
SEED_OFFSET: ContextVar[int] = ContextVar("seed_offset", default=0)
"""Added to every seed. Methods were tuned with offset 0; any other gives fresh seeds."""


class Simulated(NamedTuple):
    """A result of a simulation and its standard error."""

    value: float
    error: float

    @classmethod
    def share(cls, share: float, runs: int) -> "Simulated":
        """Return a share of `runs` runs.

        The error is that after one more hit and one more miss, so 0 of 100 is 0 +- 0.0098 and not
        exact.
        """
        near = (share * runs + 1) / (runs + 2)
        return cls(float(share), math.sqrt(near * (1 - near) / (runs + 3)))

    @classmethod
    def mean(cls, values: npt.ArrayLike) -> "Simulated":
        """Return the mean of one number per run."""
        numbers = np.asarray(values, dtype=float)
        return cls(float(numbers.mean()), float(numbers.std()) / math.sqrt(numbers.size))

    @classmethod
    def quantile(cls, values: npt.ArrayLike, level: float) -> "Simulated":
        """Return a quantile of one number per run; the error is half the gap of its neighbours."""
        numbers = np.asarray(values, dtype=float)
        spread = math.sqrt(level * (1 - level) / numbers.size)
        low, value, high = np.quantile(
            numbers, [max(level - spread, 0), level, min(level + spread, 1)], method="higher"
        )
        # The error of an infinite quantile is unknown.
        return cls(float(value), (high - low) / 2 if math.isfinite(high) else 0.0)


class Row(NamedTuple):
    """A row of the validity table; `error` is the standard error of `measured`, 0 if computed."""

    name: str
    measured: float
    threshold: str
    passed: bool
    error: float = 0.0


Part = Callable[..., Iterator[Row]]
Parts = Mapping[str, Part]
"""Parts of the table by name; each is called with `full`, and yields its rows as they are measured."""


def generator(seed: int) -> np.random.Generator:
    """Return the generator of this seed; it is the same in every run with the same offset."""
    return np.random.default_rng(SEED + SEED_OFFSET.get() + seed)


def within(name: str, measured: Simulated | float, low: float, high: float) -> Row:
    value, error = _parts(measured)
    return Row(name, value, f"[{number(low)}, {number(high)}]", bool(low <= value <= high), error)


def around(name: str, measured: float, rate: float, runs: int) -> Row:
    """Return a row whose limits a rate of exactly `rate` misses with probability 2e-6."""
    low, high = (float(binom.ppf(level, runs, rate)) / runs for level in (1e-6, 1 - 1e-6))
    return within(name, Simulated.share(measured, runs), low, high)


def at_most(name: str, measured: Simulated | float, limit: float) -> Row:
    value, error = _parts(measured)
    return Row(name, value, f"<= {number(limit)}", bool(value <= limit), error)


def at_least(name: str, measured: Simulated | float, limit: float) -> Row:
    value, error = _parts(measured)
    return Row(name, value, f">= {number(limit)}", bool(value >= limit), error)


def caught(name: str, measured: Simulated, limit: float) -> Row:
    """Return the row of a planted bug, which has to be above the limit."""
    value, error = _parts(measured)
    return Row(f"{name} (has to fail)", value, f"> {number(limit)}", bool(value > limit), error)


def number(value: float) -> str:
    """Format a value with four digits, or with all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _parts(measured: Simulated | float) -> tuple[float, float]:
    value, error = measured if isinstance(measured, Simulated) else (measured, 0.0)
    return float(value), float(error)


def error_limit(runs: int, alpha: float, false_alarm: float = 1e-3) -> float:
    """Return the share that a method with error `alpha` exceeds with probability `false_alarm`."""
    return float(binom.ppf(1 - false_alarm, runs, alpha)) / runs
