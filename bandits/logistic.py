"""Logistic Thompson sampling for rewards of 0 and 1, from totals that add up exactly.

The usual online Laplace approximation, where the posterior of a batch is the prior of the next,
depends on the order and on the cuts of batches, and cannot take a reward back. Here the likelihood
is rebuilt from sums:

    log likelihood = theta . sum x r  -  sum log(1 + exp(theta . x)).

The first sum is exact. For the second, contexts are put into cells, which keep their number of rows
and the sum of their contexts. As long as an arm has seen at most `CELLS_MAX` different contexts,
which schemas of categories and flags ensure, nothing is lost. Beyond, cells are merged into cells
twice as wide, as often as it takes; how often is a function of the set of rows, so that neither
order nor batches change a bit. Rows of a cell then count as normally distributed about its mean,
with the scatter within cells that the exact Gram matrix leaves. So with many continuous features,
when cells hold little but the mean, it is logistic regression for a normal design.

Removing rows does not make cells finer again: only new totals of the remaining rows are.

The posterior is Laplace's: a normal one about the mode, with the curvature there. It is good where
an arm has tens of rows per feature, and too narrow in the tails for few rows or separable ones,
which the prior keeps finite. The regret bounds of Thompson sampling do not cover it.

Source: Chapelle & Li (2011), NeurIPS, for logistic Thompson sampling with Laplace's approximation
(theirs is diagonal and online); Bishop (2006), Pattern Recognition and Machine Learning, sec. 4.4
and 4.5.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from scipy import special

from bandits.contextual import ARMS_MAX, LinearArms
from bandits.features import ENTRY_MAX, REWARD_UNIT, UNIT, IntArray
from bandits.linear import LinearTotals
from bandits.totals import FloatArray
from stats.errors import InvalidInput

CELLS_MAX: Final = 4096
SPREADS: Final = tuple(2.0**power for power in range(-3, 3))
"""Prior deviations of what slopes add to the log-odds of a usual context: the candidates."""

_NODES, _NODE_WEIGHTS = special.roots_hermitenorm(11)
_NODE_WEIGHTS = _NODE_WEIGHTS / _NODE_WEIGHTS.sum()
_INTERCEPT_DEVIATION: Final = 1.5
_LEVEL_MAX: Final = (2 * ENTRY_MAX).bit_length()
_STEPS_MAX: Final = 50
_STEP_MIN: Final = 1e-6
_HEADER: Final = struct.Struct("<qqq")


@dataclass(frozen=True, slots=True, eq=False)
class LogisticTotals:
    """Rows of one arm: exact sums, and contexts in cells 2**`level` fixed-point units wide.

    `cells` (c, d) are numbers of cells, in ascending order, each once; `n` (c,) the rows in each;
    `sums` (c, d) their contexts in fixed point. `level` is the least at which there are at most
    CELLS_MAX cells.

    Worked by hand: contexts (1, 0), (1, 0) and (1, 1) make two cells with n = (2, 1) and the means
    (1, 0), (1, 1).
    """

    linear: LinearTotals
    level: int
    cells: IntArray
    n: IntArray
    sums: IntArray

    @classmethod
    def empty(cls, d: int) -> "LogisticTotals":
        """Return the totals of an empty set of rows with d features."""
        none = np.zeros((0, d), np.int64)
        return cls(LinearTotals.empty(d), 0, none, np.zeros(0, np.int64), none)

    @classmethod
    def of_rows(cls, contexts: IntArray, rewards: FloatArray) -> "LogisticTotals":
        """Sum contexts in fixed point, shape (n, d), and rewards in [0, 1], shape (n,).

        A fractional reward r counts as r successes and 1 - r failures.

        Raises InvalidInput as `bandits.features.whole_rewards` does.
        """
        linear = LinearTotals.of_rows(contexts, rewards)
        return _grouped(linear, 0, contexts + ENTRY_MAX, np.ones(len(contexts), np.int64), contexts)

    def __add__(self, other: "LogisticTotals") -> "LogisticTotals":
        level = max(self.level, other.level)
        return _grouped(
            self.linear + other.linear,
            level,
            np.concatenate([self.cells >> (level - self.level), other.cells >> (level - other.level)]),
            np.concatenate([self.n, other.n]),
            np.concatenate([self.sums, other.sums]),
        )

    def __sub__(self, other: "LogisticTotals") -> "LogisticTotals":
        """Remove rows that were counted in these totals. Raises InvalidInput if they were not."""
        linear = self.linear - other.linear
        negated = LogisticTotals(LinearTotals.empty(self.d), other.level, other.cells, -other.n, -other.sums)
        merged = self + negated
        if merged.level != self.level or (merged.n < 0).any():
            raise InvalidInput("these rows were not counted in the totals")
        left = merged.n > 0
        return LogisticTotals(linear, merged.level, merged.cells[left], merged.n[left], merged.sums[left])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogisticTotals) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Encode as little-endian 64-bit numbers: level, c, d, cells, n, sums, linear totals."""
        parts = (np.array([self.level, len(self.n), self.d]), self.cells, self.n, self.sums)
        return b"".join(part.astype("<i8").tobytes() for part in parts) + self.linear.to_bytes()

    @classmethod
    def from_bytes(cls, body: bytes) -> "LogisticTotals":
        """Decode. Raises InvalidInput if the bytes are not valid totals."""
        if len(body) < _HEADER.size:
            raise InvalidInput(f"{len(body)} bytes are not valid totals")
        level, c, d = _HEADER.unpack_from(body)
        start, size = _HEADER.size, c * (2 * d + 1)
        if not (0 <= level <= _LEVEL_MAX and 0 <= c <= CELLS_MAX and d > 0 and start + 8 * size < len(body)):
            raise InvalidInput(f"no totals of {c} cells of level {level} have {len(body)} bytes")
        numbers = np.frombuffer(body, "<i8", count=size, offset=start).astype(np.int64)
        cells, n, sums = np.split(numbers, [c * d, c * d + c])
        linear = LinearTotals.from_bytes(body[start + 8 * size :])
        return cls(linear, level, cells.reshape(c, d), n, sums.reshape(c, d))

    @property
    def d(self) -> int:
        """Number of features, including the intercept."""
        return self.linear.d


class LogisticPosterior(NamedTuple):
    """Normal beliefs about coefficients of the log-odds; shapes (n_arms, d) and (n_arms, d, d)."""

    means: FloatArray
    covariances: FloatArray
    spread: float

    def arms(self) -> LinearArms:
        """Return the arrays for the server.

        Scores are log-odds: the greatest log-odds are the greatest probability.
        """
        return LinearArms.of(self.means, self.covariances)


def logistic(totals: Sequence[LogisticTotals]) -> LogisticPosterior:
    """Return Laplace's posterior of each arm.

    Slopes have independent normal priors whose deviation is `spread` / sqrt(E|x|^2), intercepts a
    deviation of 1.5 about the log-odds of all rewards together. `spread` is the one of SPREADS with
    the greatest marginal likelihood (Laplace's) times a log-normal prior of median 1 / 2 and spread
    log 2.

    Raises InvalidInput if there are no arms, more than ARMS_MAX, or they differ in the number of
    features.
    """
    if not 1 <= len(totals) <= ARMS_MAX:
        raise InvalidInput(f"there must be between 1 and {ARMS_MAX} arms, got {len(totals)}")
    d = totals[0].d
    if any(total.d != d for total in totals):
        raise InvalidInput("all arms must have the same number of features")
    n = sum(total.linear.n for total in totals)
    successes = sum(int(total.linear.moment[0]) for total in totals) / (UNIT * REWARD_UNIT)
    centre = np.zeros(d)
    centre[0] = special.logit((successes + 1) / (n + 2))
    rows = [_Rows.of(total) for total in totals]
    square = sum(float(np.trace(total.linear.gram_matrix)) for total in totals) / n - 1 if n else 1.0
    best, best_evidence = None, -math.inf
    for spread in SPREADS:
        precision = np.full(d, max(square, 1e-6) / spread**2)
        precision[0] = _INTERCEPT_DEVIATION**-2
        fits = [_laplace(row, centre, precision) for row in rows]
        evidence = sum(fit.log_evidence for fit in fits) - 0.5 * (math.log(2 * spread) / math.log(2)) ** 2
        if evidence > best_evidence:
            best, best_evidence = LogisticPosterior(*_stacked(fits), spread), evidence
    assert best is not None, "there are spreads"
    return best


class _Rows(NamedTuple):
    """The design and the exact sum x r of one arm."""

    x: FloatArray  # (c, d), the mean context of each cell
    n: FloatArray  # (c,)
    scatter: FloatArray  # (d, d), covariance within cells, the same in all
    moment: FloatArray  # (d,)

    @classmethod
    def of(cls, totals: LogisticTotals) -> "_Rows":
        n = totals.n.astype(np.float64)
        x = totals.sums / (n[:, None] * UNIT)
        linear = totals.linear
        # Rounding must not leave a scatter where cells hold one context each.
        scatter = (linear.gram_matrix - (x * n[:, None]).T @ x) / max(linear.n, 1)
        scatter[abs(scatter) < 1e-9] = 0.0
        return cls(x, n, scatter, linear.moment / (UNIT * REWARD_UNIT))


class _Fit(NamedTuple):
    mean: FloatArray
    covariance: FloatArray
    log_evidence: float


def _stacked(fits: list[_Fit]) -> tuple[FloatArray, FloatArray]:
    return np.array([fit.mean for fit in fits]), np.array([fit.covariance for fit in fits])


def _laplace(rows: _Rows, centre: FloatArray, precision: FloatArray) -> _Fit:
    """Maximise the log posterior by Newton's method from the centre; steps that lose are halved."""
    theta = centre.copy()
    at = _at(rows, theta, centre, precision)
    for _ in range(_STEPS_MAX):
        step, size = np.linalg.solve(at.curvature, at.gradient), 1.0
        there = _at(rows, theta + step, centre, precision)
        while there.value < at.value and size > _STEP_MIN:
            size /= 2
            there = _at(rows, theta + size * step, centre, precision)
        gained = there.value - at.value
        if gained <= 0:
            break
        theta, at = theta + size * step, there
        if gained < 1e-12 * (1 + abs(at.value)):
            break
    volume = np.linalg.slogdet(at.curvature)[1] - np.log(precision).sum()
    return _Fit(theta, np.asarray(np.linalg.inv(at.curvature), np.float64), at.value - 0.5 * float(volume))


class _At(NamedTuple):
    """The log posterior but for a constant, its gradient, and its curvature."""

    value: float
    gradient: FloatArray
    curvature: FloatArray


def _at(rows: _Rows, theta: FloatArray, centre: FloatArray, precision: FloatArray) -> _At:
    """Expectations over the scatter s within cells are by Gauss-Hermite quadrature.

    Where a context is m + e with e normal and f a derivative of log(1 + exp), E f e = E f' S theta
    for the scatter S of e; and the same once more for the curvature, which so is the expectation of
    p' x x^T.
    """
    spread = math.sqrt(max(float(theta @ rows.scatter @ theta), 0.0))
    nodes, weights = (_NODES, _NODE_WEIGHTS) if spread else (_NODES[:1] * 0, _NODE_WEIGHTS[:1] * 0 + 1)
    score = (rows.x @ theta)[:, None] + spread * nodes
    p = special.expit(score)
    slope = p * (1 - p)
    first, second, third = (
        rows.n * (derivative @ weights)
        for derivative in (slope, slope * (1 - 2 * p), slope * (1 - 6 * slope))
    )
    away = theta - centre
    value = rows.moment @ theta - rows.n @ (np.logaddexp(0, score) @ weights) - 0.5 * precision @ away**2
    gradient = rows.moment - (rows.n * (p @ weights)) @ rows.x - precision * away
    along = rows.scatter @ theta
    gradient -= first.sum() * along
    crossed = np.outer(second @ rows.x, along)
    curvature = (rows.x * first[:, None]).T @ rows.x + first.sum() * rows.scatter + np.diag(precision)
    curvature += crossed + crossed.T + third.sum() * np.outer(along, along)
    return _At(float(value), gradient, curvature)


def _grouped(
    linear: LinearTotals, level: int, cells: IntArray, n: IntArray, sums: IntArray
) -> LogisticTotals:
    """Merge rows into one entry per cell, and widen cells until there are at most CELLS_MAX."""
    coarser = _doublings(cells)
    unique, inverse = np.unique(cells >> coarser, axis=0, return_inverse=True)
    merged_n, merged_sums = np.zeros(len(unique), np.int64), np.zeros(unique.shape, np.int64)
    np.add.at(merged_n, inverse, n)
    np.add.at(merged_sums, inverse, sums)
    return LogisticTotals(linear, level + coarser, unique, merged_n, merged_sums)


def _doublings(cells: IntArray) -> int:
    """Return the least number of doublings in width that leaves at most CELLS_MAX, by bisection."""
    low, high = 0, _LEVEL_MAX
    while low < high:
        middle = (low + high) // 2
        if len(cells) <= CELLS_MAX or len(np.unique(cells >> middle, axis=0)) <= CELLS_MAX:
            high = middle
        else:
            low = middle + 1
    return low
