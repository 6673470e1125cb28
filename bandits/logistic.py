"""Logistic Thompson sampling for rewards of 0 and 1, from totals that add up exactly.

The usual online Laplace approximation, where the posterior of a batch is the prior of the next, depends on
the order and on the cuts of batches, and cannot take a reward back. A linear model's sums say too little
about a logistic one. What is kept here is the log itself, as coarse as it has to be: contexts are put into
cells, and each cell keeps its number of rows and successes and the sum of its contexts. As long as an arm has
seen at most `CELLS_MAX` different contexts, which schemas of categories and flags ensure, nothing is lost:
the posterior is that of all rows. Beyond, cells twice as wide are merged, so often as it takes; a cell then
counts as so many rows at its mean context, an error of second order in its width. How wide is a function of
the set of rows: neither order nor batches change a bit.

What taking rows away does not give back is fineness: only totals of the rows anew have it.

The posterior is Laplace's: a normal one about the mode, with the curvature there. It is good where an arm has
tens of rows per feature, and too narrow in the tails for few rows or separable ones, which the prior keeps
finite. The regret bounds of Thompson sampling do not cover it.

Source: Chapelle & Li (2011), NeurIPS, for logistic Thompson sampling with Laplace's approximation (theirs is
diagonal and online); Bishop (2006), Pattern Recognition and Machine Learning, sec. 4.4 and 4.5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from scipy import special

from bandits.arms import FloatArray
from bandits.contextual import ARMS_MAX, LinearArms
from bandits.features import ENTRY_MAX, REWARD_UNIT, UNIT, IntArray, whole_rewards
from stats.errors import InvalidInput

CELLS_MAX: Final = 4096
SPREADS: Final = tuple(2.0**power for power in range(-3, 3))
"""Prior deviation of what slopes add to the log-odds of a usual context: what the evidence chooses from."""

_INTERCEPT_DEVIATION: Final = 1.5
_LEVEL_MAX: Final = (2 * ENTRY_MAX).bit_length()
_STEPS_MAX: Final = 50


@dataclass(frozen=True, slots=True, eq=False)
class LogisticTotals:
    """Rows of one arm, by cells of the context that are 2**`level` fixed-point units wide.

    `cells` (c, d) are cell numbers in ascending order, each once; `n` (c,) the rows in each; `successes` (c,)
    their rewards in units of 1 / REWARD_UNIT; `sums` (c, d) their contexts in fixed point. All are whole
    numbers. `level` is the least at which there are at most CELLS_MAX cells.

    Worked by hand: contexts (1, 0), (1, 0) and (1, 1) with rewards 1, 0, 1 are the cells (1, 0) with 2 rows
    and 1 success, and (1, 1) with 1 and 1.
    """

    level: int
    cells: IntArray
    n: IntArray
    successes: IntArray
    sums: IntArray

    @classmethod
    def empty(cls, d: int) -> "LogisticTotals":
        """Of no rows with d features."""
        none, no_rows = np.zeros(0, np.int64), np.zeros((0, d), np.int64)
        return cls(0, no_rows, none, none, no_rows)

    @classmethod
    def of_rows(cls, contexts: IntArray, rewards: FloatArray) -> "LogisticTotals":
        """Of contexts in fixed point, shape (n, d), and rewards in [0, 1], shape (n,).

        A fractional reward r counts as r successes and 1 - r failures.

        Raises InvalidInput as `whole_rewards` does.
        """
        whole = whole_rewards(contexts, rewards)
        return _grouped(0, contexts, np.ones(len(contexts), np.int64), whole, contexts)

    def __add__(self, other: "LogisticTotals") -> "LogisticTotals":
        level = max(self.level, other.level)
        return _grouped(
            level,
            np.concatenate([self.cells >> (level - self.level), other.cells >> (level - other.level)]),
            np.concatenate([self.n, other.n]),
            np.concatenate([self.successes, other.successes]),
            np.concatenate([self.sums, other.sums]),
        )

    def __sub__(self, other: "LogisticTotals") -> "LogisticTotals":
        """Without rows that were counted in these totals. Raises InvalidInput if they were not."""
        merged = self + LogisticTotals(other.level, other.cells, -other.n, -other.successes, -other.sums)
        if merged.level != self.level or (merged.n < 0).any():
            raise InvalidInput("these rows were not counted in the totals")
        left = merged.n > 0
        return LogisticTotals(
            merged.level, merged.cells[left], merged.n[left], merged.successes[left], merged.sums[left]
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogisticTotals) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Little-endian 64-bit numbers: level, d, cells, n, successes, sums. `from_bytes` is its inverse."""
        parts = (np.array([self.level, self.d]), self.cells, self.n, self.successes, self.sums)
        return b"".join(part.astype("<i8").tobytes() for part in parts)

    @classmethod
    def from_bytes(cls, body: bytes) -> "LogisticTotals":
        """Raises InvalidInput if these are no totals."""
        if len(body) < 16 or len(body) % 8:
            raise InvalidInput(f"{len(body)} bytes are no totals")
        numbers = np.frombuffer(body, "<i8").astype(np.int64)
        level, d = int(numbers[0]), int(numbers[1])
        if not (0 <= level <= _LEVEL_MAX and d > 0 and (len(numbers) - 2) % (2 * d + 2) == 0):
            raise InvalidInput(f"totals of level {level} and {d} features in {len(body)} bytes")
        c = (len(numbers) - 2) // (2 * d + 2)
        cells, n, successes, sums = np.split(numbers[2:], [c * d, c * d + c, c * d + 2 * c])
        return cls(level, cells.reshape(c, d), n, successes, sums.reshape(c, d))

    @property
    def d(self) -> int:
        """The number of features, the intercept included."""
        return int(self.cells.shape[1])


class LogisticPosterior(NamedTuple):
    """Normal beliefs about coefficients of the log-odds; shapes (n_arms, d) and (n_arms, d, d)."""

    means: FloatArray
    covariances: FloatArray
    spread: float

    def arms(self) -> LinearArms:
        """For the server: scores are log-odds, and the greatest log-odds are the greatest probability."""
        return LinearArms.of(self.means, self.covariances)


def logistic(totals: Sequence[LogisticTotals]) -> LogisticPosterior:
    """Laplace's posterior of each arm.

    Slopes have independent normal priors whose deviation is `spread` / sqrt(E|x|^2), intercepts a deviation
    of 1.5 about the log-odds of all rewards together. `spread` is the one of SPREADS with the greatest
    marginal likelihood (Laplace's) times a log-normal prior of median 1 / 2 and spread log 2.

    Raises InvalidInput if there are no arms, more than ARMS_MAX, or they differ in the number of features.
    """
    if not 1 <= len(totals) <= ARMS_MAX:
        raise InvalidInput(f"there must be between 1 and {ARMS_MAX} arms, got {len(totals)}")
    d = totals[0].d
    if any(total.d != d for total in totals):
        raise InvalidInput("all arms must have the same number of features")
    n = sum(int(total.n.sum()) for total in totals)
    successes = sum(int(total.successes.sum()) for total in totals) / REWARD_UNIT
    centre = np.zeros(d)
    centre[0] = special.logit((successes + 1) / (n + 2))
    rows = [_Rows.of(total) for total in totals]
    square = sum(float(row.n @ (row.x[:, 1:] ** 2).sum(axis=1)) for row in rows) / max(n, 1)
    best, best_evidence = None, -math.inf
    for spread in SPREADS:
        precision = np.full(d, (square or 1.0) / spread**2)
        precision[0] = _INTERCEPT_DEVIATION**-2
        fits = [_laplace(row, centre, precision) for row in rows]
        evidence = sum(fit.log_evidence for fit in fits) - 0.5 * (math.log(2 * spread) / math.log(2)) ** 2
        if evidence > best_evidence:
            best, best_evidence = LogisticPosterior(*_stacked(fits), spread), evidence
    assert best is not None, "there are spreads"
    return best


class _Rows(NamedTuple):
    x: FloatArray  # (c, d), the mean context of each cell
    n: FloatArray  # (c,)
    successes: FloatArray  # (c,)

    @classmethod
    def of(cls, totals: LogisticTotals) -> "_Rows":
        mean = totals.sums / (totals.n[:, None] * UNIT)
        return cls(mean, totals.n.astype(np.float64), totals.successes / REWARD_UNIT)


class _Fit(NamedTuple):
    mean: FloatArray
    covariance: FloatArray
    log_evidence: float


def _stacked(fits: list[_Fit]) -> tuple[FloatArray, FloatArray]:
    return np.array([fit.mean for fit in fits]), np.array([fit.covariance for fit in fits])


def _laplace(rows: _Rows, centre: FloatArray, precision: FloatArray) -> _Fit:
    """Newton's method from the centre: the objective is strictly concave; steps that lose are halved."""
    theta = centre.copy()
    value = _log_posterior(rows, theta, centre, precision)
    for _ in range(_STEPS_MAX):
        p = special.expit(rows.x @ theta)
        gradient = (rows.successes - rows.n * p) @ rows.x - precision * (theta - centre)
        step = np.linalg.solve(_curvature(rows, p, precision), gradient)
        size = 1.0
        while (
            gained := _log_posterior(rows, theta + size * step, centre, precision) - value
        ) < 0 and size > 1e-6:
            size /= 2
        if gained <= 0:
            break
        theta, value = theta + size * step, value + gained
        if gained < 1e-12 * (1 + abs(value)):
            break
    curvature = _curvature(rows, special.expit(rows.x @ theta), precision)
    volume = np.linalg.slogdet(curvature)[1] - np.log(precision).sum()
    return _Fit(theta, np.asarray(np.linalg.inv(curvature), np.float64), value - 0.5 * float(volume))


def _log_posterior(rows: _Rows, theta: FloatArray, centre: FloatArray, precision: FloatArray) -> float:
    score = rows.x @ theta
    likelihood = rows.successes @ score - rows.n @ np.logaddexp(0, score)
    return float(likelihood - 0.5 * precision @ (theta - centre) ** 2)


def _curvature(rows: _Rows, p: FloatArray, precision: FloatArray) -> FloatArray:
    weighted = rows.x * (rows.n * p * (1 - p))[:, None]
    curvature: FloatArray = weighted.T @ rows.x + np.diag(precision)
    return curvature


def _grouped(level: int, cells: IntArray, n: IntArray, successes: IntArray, sums: IntArray) -> LogisticTotals:
    """One entry per cell, and cells doubled in width until there are few enough."""
    while True:
        unique, inverse = np.unique(cells, axis=0, return_inverse=True)
        if len(unique) <= CELLS_MAX:
            break
        cells, level = cells >> 1, level + 1
    if not len(cells):
        return LogisticTotals(level, cells, n, successes, sums)
    merged = [np.zeros((len(unique), *part.shape[1:]), np.int64) for part in (n, successes, sums)]
    for total, part in zip(merged, (n, successes, sums), strict=True):
        np.add.at(total, inverse, part)
    return LogisticTotals(level, unique, merged[0], merged[1], merged[2])
