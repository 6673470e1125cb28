"""Linear contextual bandits: exact totals, and a posterior made off the request path.

The model of the rewards of arm k in context x (whose first entry is the intercept, 1) is

    r = x . theta_k + noise,   theta_k = b + u_k,   noise variance s2,

with a shared part b and each arm's own deviation u_k. *Hybrid* arms share all of b, so an arm that
was rarely served borrows strength from the others. *Disjoint* arms share the intercept alone,
unless they are *rivals*: a context that is good for one arm is bad for the others, as when one of
them is right and the others are wrong. Then the slopes of all arms nearly add up to 0, and the
reward of one says something about all.

What is not declared is learned from the totals, so that exploration is as strong as the rewards are
noisy:

* The noise s2 has an inverse-gamma prior worth one reward with the variance 1/4, the largest for
  rewards in [0, 1]. The ratio of the posterior's scale to its shape is used as if it were known.
* Slopes have independent normal priors of variance s2 * ratio / E|x|^2, where `ratio` is the
  variance that slopes give to the reward over that of the noise: free of the unit of features. It
  is the one of `RATIOS` with the greatest marginal likelihood times a log-normal prior of median 1
  and spread log 4. The priors of intercepts are worth one reward each, around 1/2 for the shared
  one, in the mean context.
* Slopes of hybrid arms covary by the variance of those in b, whose ratio is learned likewise. Of
  disjoint arms they do not, or by -c / K times the variance of u_k, with K arms and the rivalry c,
  of `RIVALRIES`, that has the greatest marginal likelihood; the formulas are those of b, with a
  variance below zero.

Source: Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., ch. 14 to 15 (conjugate regression,
hierarchy); Li et al. (2010), WWW, for disjoint and hybrid LinUCB (theirs learns shared and own
coefficients of different features; here they are of the same features); Agrawal & Goyal (2013),
ICML, for Thompson sampling. Their regret bounds assume a linear mean, a known noise scale and wider
posteriors than these: they are not inherited.
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from scipy.linalg import lapack

from bandits.contextual import ARMS_MAX, LinearArms
from bandits.features import REWARD_UNIT, UNIT, IntArray, whole_rewards
from bandits.totals import FloatArray
from stats.errors import InvalidInput

ROWS_MAX: Final = 2**28 - 1
"""Greatest number of rows.

No sum leaves 64 bits: |x_i x_j| <= 2**30, |x_i r| <= 2**35, r^2 <= 2**32.
"""
SQUARE_UNIT: Final = 2**32
"""A squared reward is a whole number of this part of 1, rounded down row by row."""
RATIOS: Final = tuple(4.0**power for power in range(-4, 4))
"""Variance that slopes explain over that of the noise: candidates for the marginal likelihood."""

RIVALRIES: Final = (0.5, 0.9, 0.99)
"""Parts of the variance of the arms' mean slope that rivalry removes: candidates beside none.
"""

_CHUNK: Final = 2**18  # rows whose sums are exact in binary64: 2**35 * 2**18 = 2**53
_NOISE_SHAPE: Final = 0.5
_NOISE_SCALE: Final = 0.125
_HEADER: Final = struct.Struct("<qqq")


@dataclass(frozen=True, slots=True, eq=False)
class LinearTotals:
    """Exact sums over the rows (x, r) of one arm, in whole numbers.

    Adding and removing rows loses nothing. `gram` is the upper triangle of sum x x^T by rows, in
    units of UNIT**-2, shape (d (d + 1) / 2,); `moment` is sum x r in units of 1 / (UNIT *
    REWARD_UNIT), shape (d,); `squares` is sum r^2 in units of 1 / SQUARE_UNIT. The first feature is
    the intercept, so that the sum of rewards is `moment[0]` / (UNIT * REWARD_UNIT).

    Raises InvalidInput if the shapes disagree or n is not within [0, ROWS_MAX].

    Worked by hand: the rows ((1, 0.5), 1) and ((1, -1), 0.5), in whole units, give n = 2, the
    triangle (2, -0.5, 1.25), the moment (1.5, 0) and squares 1.25.
    """

    n: int
    gram: IntArray
    moment: IntArray
    squares: int

    def __post_init__(self) -> None:
        d = len(self.moment)
        if self.gram.shape != (d * (d + 1) // 2,):
            raise InvalidInput(f"the Gram triangle of {d} features has the wrong shape {self.gram.shape}")
        if not 0 <= self.n <= ROWS_MAX:
            raise InvalidInput(f"n must be within [0, {ROWS_MAX}], got {self.n}")

    @classmethod
    def empty(cls, d: int) -> "LinearTotals":
        """Return the totals of an empty set of rows with d features."""
        return cls(0, np.zeros(d * (d + 1) // 2, np.int64), np.zeros(d, np.int64), 0)

    @classmethod
    def of_rows(cls, contexts: IntArray, rewards: FloatArray) -> "LinearTotals":
        """Sum contexts in fixed point, shape (n, d), and rewards in [0, 1], shape (n,).

        Raises InvalidInput as `whole_rewards` does.
        """
        whole = whole_rewards(contexts, rewards)
        d = contexts.shape[1]
        gram, moment = np.zeros((d, d), np.int64), np.zeros(d, np.int64)
        for start in range(0, len(contexts), _CHUNK):
            rows = contexts[start : start + _CHUNK].astype(np.float64)
            gram += (rows.T @ rows).astype(np.int64)
            moment += (whole[start : start + _CHUNK].astype(np.float64) @ rows).astype(np.int64)
        squares = int((whole * whole // (REWARD_UNIT**2 // SQUARE_UNIT)).sum())
        return cls(len(contexts), gram[np.triu_indices(d)], moment, squares)

    def __add__(self, other: "LinearTotals") -> "LinearTotals":
        return LinearTotals(
            self.n + other.n, self.gram + other.gram, self.moment + other.moment, self.squares + other.squares
        )

    def __sub__(self, other: "LinearTotals") -> "LinearTotals":
        """Remove rows that were counted in these totals."""
        return LinearTotals(
            self.n - other.n, self.gram - other.gram, self.moment - other.moment, self.squares - other.squares
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LinearTotals) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Encode as little-endian 64-bit numbers: d, n, squares, moment, gram."""
        header = _HEADER.pack(len(self.moment), self.n, self.squares)
        return header + self.moment.astype("<i8").tobytes() + self.gram.astype("<i8").tobytes()

    @classmethod
    def from_bytes(cls, body: bytes) -> "LinearTotals":
        """Decode. Raises InvalidInput if the bytes are not valid totals."""
        if len(body) < _HEADER.size or len(body) % 8:
            raise InvalidInput(f"{len(body)} bytes are not valid totals")
        d, n, squares = _HEADER.unpack_from(body)
        sums = np.frombuffer(body, "<i8", offset=_HEADER.size).astype(np.int64)
        if not 0 < d < len(sums):
            raise InvalidInput(f"totals of {d} features in {len(body)} bytes")
        return cls(n, sums[d:], sums[:d], squares)

    @property
    def d(self) -> int:
        """Number of features, including the intercept."""
        return len(self.moment)

    @property
    def gram_matrix(self) -> FloatArray:
        """Sum of x x^T in whole units, shape (d, d)."""
        return _symmetric(self.gram / UNIT**2, self.d)


class LinearPosterior(NamedTuple):
    """The posterior of the arms' coefficients; shapes (n_arms, d) and (n_arms, d, d).

    The ratios were chosen for the arms' own slopes and for shared ones. The shared ratio is how the
    slopes of two arms covary: below zero the arms are rivals.
    """

    means: FloatArray
    covariances: FloatArray
    noise_variance: float
    slope_ratio: float
    shared_ratio: float | None  # None: no slope is shared

    def arms(self) -> LinearArms:
        """Return the arrays for the server."""
        return LinearArms.of(self.means, self.covariances)

    def effective_parameters(self, totals: Sequence[LinearTotals]) -> FloatArray:
        """Return how many coefficients each arm's rewards determine, 0 to d, shape (n_arms,).

        It is the sum of the leverages of the arm's rows; the prior and, if shared, other arms
        determine the rest. `totals` are those of the posterior.

        Worked by hand: the reward of `disjoint`, whose mean moves by 2/3 of the way: 2/3.

        Source: the gamma of MacKay (1992), Bayesian Interpolation, Neural Computation 4(3).
        """
        gram = np.array([total.gram_matrix for total in totals])
        leverage: FloatArray = np.einsum("aij,aji->a", gram, self.covariances) / self.noise_variance
        return leverage


def disjoint(totals: Sequence[LinearTotals]) -> LinearPosterior:
    """Return the posterior of arms that share only the mean of their intercepts, or are rivals.

    Worked by hand: one arm, no feature but the intercept, one reward of 1. Before it the mean
    reward is 1/2 with twice the variance of the noise (its own part and the shared one), so it
    moves by 2/3 of the way, to 5/6. Two arms with the rivalry c have slopes of the correlation -c /
    (2 - c): for 0.99 it is -0.98, so that a reward is as informative about the other arm as about
    its own.

    Raises InvalidInput if there are no arms, more than ARMS_MAX, or they differ in the number of
    features.
    """
    sums = _Sums.of(totals)
    return _best_fit(sums, partial(_rival_ratios, len(totals))).posterior(sums)


def hybrid(totals: Sequence[LinearTotals]) -> LinearPosterior:
    """Return the posterior of arms whose coefficients scatter about shared ones.

    How strongly they are drawn together is learned: the pair of ratios, of own and shared slopes,
    with the greatest evidence is taken. A small `slope_ratio` means that all arms respond to the
    context in the same way. The scores of two arms are correlated through the shared part. The
    covariances are right for each arm alone. A decision that treats arms as independent explores as
    if the shared part were uncertain for each of them separately: see `thompson`.

    Raises InvalidInput like `disjoint`.
    """
    sums = _Sums.of(totals)
    return _best_fit(sums, lambda _: RATIOS).posterior(sums)


def _symmetric(triangles: FloatArray, d: int) -> FloatArray:
    """Return upper triangles by rows, (..., d (d + 1) / 2), as matrices, (..., d, d)."""
    place = np.zeros((d, d), np.intp)
    upper = np.triu_indices(d)
    place[upper] = place.T[upper] = np.arange(len(upper[0]))
    return triangles[..., place]


class _Ridge(NamedTuple):
    """The Gram matrices of k arms in bases where they are diagonal for every prior of slopes.

    With e the intercept and `basis` V, (k, d, d): V (gram + e e^T) V^T is diagonal, which is the
    `spectrum`, (k, d), and V (I - e e^T) V^T is I - e e^T. So a prior precision p of slopes adds p
    to every entry of the spectrum but the first, and what is asked for one p more costs d numbers,
    not d^3 steps. Rows of V after the first are eigenvectors of Schur's complement of the
    intercept, less what the intercept tells of them.
    """

    basis: FloatArray
    spectrum: FloatArray

    @classmethod
    def of(cls, gram: FloatArray) -> "_Ridge":
        intercept, along = gram[:, :1, 0] + 1, gram[:, 1:, 0]
        ratio = along / intercept
        values, vectors = np.linalg.eigh(gram[:, 1:, 1:] - ratio[:, :, None] * along[:, None, :])
        basis = np.zeros_like(gram)
        basis[:, 0, 0] = 1.0
        basis[:, 1:, 1:] = vectors.swapaxes(1, 2)
        basis[:, 1:, 0] = -np.vecdot(basis[:, 1:, 1:], ratio[:, None, :])
        # Rounding may leave an eigenvalue below zero where a feature never varied.
        return cls(basis, np.concatenate((intercept, np.maximum(values, 0.0)), axis=1))

    def variances(self, scale: float) -> FloatArray:
        """Return the variances of coordinates, (k, d), with the prior variance `scale` = 1 / p."""
        variances: FloatArray = scale / (1 + scale * self.spectrum)
        variances[:, 0] = 1 / self.spectrum[:, 0]
        return variances

    def volume(self, scale: float) -> float:
        """Return the log of the determinants of precisions over priors, of all arms together."""
        return float(np.log(self.spectrum[:, 0]).sum() + np.log1p(scale * self.spectrum[:, 1:]).sum())


class _Sums(NamedTuple):
    """Totals as numbers: rewards minus 1/2, and features minus their mean over all rows.

    So the priors of intercepts refer to a usual context. The intercept stays 1. Shapes: moment (k,
    d), in the coordinates of `arms`, and centring (d, d), by which contexts are multiplied.
    """

    n: int
    arms: _Ridge
    moment: FloatArray
    squares: float
    centring: FloatArray
    mean_square: float  # E|x|^2 over all rows, without the intercept

    @classmethod
    def of(cls, totals: Sequence[LinearTotals]) -> "_Sums":
        if not 1 <= len(totals) <= ARMS_MAX:
            raise InvalidInput(f"there must be between 1 and {ARMS_MAX} arms, got {len(totals)}")
        d = totals[0].d
        if any(total.d != d for total in totals):
            raise InvalidInput("all arms must have the same number of features")
        gram = _symmetric(np.array([total.gram for total in totals]) / UNIT**2, d)
        moment = np.array([total.moment for total in totals]) / (UNIT * REWARD_UNIT) - 0.5 * gram[:, 0]
        n = sum(total.n for total in totals)
        # sum (r - 1/2)^2 = sum r^2 - sum r + n / 4, in whole numbers until the end.
        per_reward = SQUARE_UNIT // REWARD_UNIT
        squares = sum(total.squares - int(total.moment[0]) // UNIT * per_reward for total in totals)
        squares += n * (SQUARE_UNIT // 4)
        centring = np.eye(d)
        centring[1:, 0] = -gram[:, 0, 1:].sum(axis=0) / max(n, 1)
        gram = centring @ gram @ centring.T
        mean_square = np.trace(gram, axis1=1, axis2=2).sum() / n - 1 if n else 1.0
        # Features that never varied leave rounding errors, about which nothing can be learned
        # either way.
        mean_square = max(float(mean_square), 1e-6)
        arms = _Ridge.of(gram)
        moment = np.vecdot(arms.basis, (moment @ centring.T)[:, None, :])
        return cls(n, arms, moment, squares / SQUARE_UNIT, centring, mean_square)


class _Alone(NamedTuple):
    """Sums that do not depend on the prior of the shared part b, for one ratio of own slopes.

    In units of the noise. With A_k = G_k + L (L the prior precision of deviations), the rewards of
    arm k say of b what a normal likelihood with precision L - L A_k^-1 L and linear term L A_k^-1
    c_k says.
    """

    own_ratio: float
    deviation_precision: FloatArray  # (d,), the diagonal of L
    variances: FloatArray  # (k, d), of the arms' coordinates
    information: FloatArray  # (d, d), the precision of the rewards about b
    linear: FloatArray  # (d,)
    fitted: float
    volume: float

    @classmethod
    def of(cls, sums: _Sums, own_ratio: float) -> "_Alone":
        n_arms, d = sums.moment.shape
        scale = own_ratio / sums.mean_square
        precision = np.full(d, 1 / scale)
        precision[0] = 1.0
        variances = sums.arms.variances(scale)
        means = variances * sums.moment
        basis = sums.arms.basis.reshape(-1, d)
        roots = np.sqrt(variances).reshape(-1, 1) * basis
        information = np.diag(n_arms * precision)
        information -= precision[:, None] * (roots.T @ roots) * precision
        linear = precision * (means.ravel() @ basis)
        fitted = float((sums.moment * means).sum())
        return cls(own_ratio, precision, variances, information, linear, fitted, sums.arms.volume(scale))

    def fits(self, sums: _Sums, shared_ratios: Sequence[float | None]) -> "Iterator[_Fit]":
        """Yield a fit for each prior of b, with the marginal likelihood of the totals.

        All of it is algebra that holds as well where the prior variance of b is negative, as long
        as that of the arms' coefficients together is not.
        """
        for shared_ratio in shared_ratios:
            q = 1 if shared_ratio is None else len(self.linear)
            prior = np.full(q, sums.mean_square / (shared_ratio or 1.0))
            prior[0] = 1.0
            precision = self.information[:q, :q] + np.diag(prior)
            factors, _, shared, _ = lapack.dgesv(precision, self.linear[:q])
            residual = max(sums.squares - self.fitted - float(self.linear[:q] @ shared), 0.0)
            volume = self.volume + float(np.log(abs(np.diagonal(factors) / prior)).sum())
            log_evidence = -0.5 * volume + _log_prior(self.own_ratio, shared_ratio)
            log_evidence -= (_NOISE_SHAPE + 0.5 * sums.n) * math.log(_NOISE_SCALE + 0.5 * residual)
            yield _Fit(self, shared_ratio, shared, precision, residual, log_evidence)


class _Fit(NamedTuple):
    """A fit for one choice of ratios."""

    alone: _Alone
    shared_ratio: float | None
    shared: FloatArray  # (q,), the mean of b
    shared_precision: FloatArray  # (q, q)
    residual: float
    log_evidence: float

    def posterior(self, sums: _Sums) -> LinearPosterior:
        noise = (_NOISE_SCALE + 0.5 * self.residual) / (_NOISE_SHAPE + 0.5 * sums.n)
        alone, arms, q = self.alone, sums.arms, len(self.shared)
        outer = arms.basis @ sums.centring
        scaled = outer.swapaxes(1, 2) * alone.variances[:, None, :]
        pull = scaled @ (arms.basis[:, :, :q] * alone.deviation_precision[:q])  # how b moves each arm
        means = np.vecdot(scaled, sums.moment[:, None, :]) + pull @ self.shared
        means[:, 0] += 0.5
        spread = scaled @ outer + pull @ np.linalg.inv(self.shared_precision) @ pull.swapaxes(1, 2)
        covariances = 0.5 * noise * (spread + spread.swapaxes(1, 2))
        return LinearPosterior(means, covariances, noise, alone.own_ratio, self.shared_ratio)


def _best_fit(sums: _Sums, shared: Callable[[float], Sequence[float | None]]) -> _Fit:
    """Return the fit with the greatest evidence over `RATIOS` and the `shared` ratios of each."""
    fits = (fit for ratio in RATIOS for fit in _Alone.of(sums, ratio).fits(sums, shared(ratio)))
    return max(fits, key=lambda fit: fit.log_evidence)


def _log_prior(own_ratio: float, shared_ratio: float | None) -> float:
    ratios = [own_ratio] if shared_ratio is None or shared_ratio < 0 else [own_ratio, shared_ratio]
    return -0.5 * sum((math.log(ratio) / math.log(4)) ** 2 for ratio in ratios)


def _rival_ratios(n_arms: int, own_ratio: float) -> list[float | None]:
    if n_arms == 1:
        return [None]
    return [None, *(-rivalry * own_ratio / n_arms for rivalry in RIVALRIES)]
