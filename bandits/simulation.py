"""How policies fare on traffic like yours: many runs at once, vectorised.

Time is counted in rounds, one pull each. Allocations are made for a batch of rounds, and the rewards of a
batch become known `delay` rounds after its last. Thompson sampling draws from the posteriors here, where a
server would draw from P(best): pulls of one batch are then independent draws of the arm with exactly that
distribution, so runs are equal in distribution, and no run needs a quadrature.

Simulated regret is expected regret: the gap between the best mean of the round and that of the arm pulled.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import special

from bandits import ucb
from bandits.allocation import Allocation, greatest
from bandits.arms import BetaArms, NormalArms, answers_per_reward
from bandits.exp3 import learning_rate
from bandits.identification import Decision, Winner
from bandits.thompson import DEFAULT_SAMPLING, top_two
from bandits.totals import ArmTotals, FloatArray
from stats.errors import InvalidInput

_DRAWS_MAX: Final = 2_000_000
"""Posterior draws held in memory at a time."""
_TIE_BREAK: Final = 1e-13
_VALUES_MAX: Final = 1_000


class Environment(Protocol):
    """Where rewards come from."""

    @property
    def n_arms(self) -> int:
        """The number of arms."""

    def means(self, rounds: FloatArray) -> FloatArray:
        """Expected rewards, shape (rounds, n_arms)."""

    def rewards(self, rng: Generator, mean: FloatArray, pulls: FloatArray, before: FloatArray) -> "Rewards":
        """Rewards of a batch of pulls, shape (runs, n_arms), after `before` earlier ones.

        `mean` are the expected rewards of the batch, averaged over its rounds, shape (n_arms,).
        """


@dataclass(frozen=True, slots=True, eq=False)
class Rewards:
    """Sums and sums of squares of one batch, each of shape (runs, n_arms)."""

    sum: FloatArray
    sum_squares: FloatArray


class _Bernoulli:
    """Rewards of 0 and 1. Where the mean moves within a batch, pulls fall on its rounds at random."""

    def rewards(self, rng: Generator, mean: FloatArray, pulls: FloatArray, before: FloatArray) -> Rewards:
        """Binomial counts with the batch's mean."""
        del before
        wins = rng.binomial(pulls.astype(np.int64), mean).astype(np.float64)
        return Rewards(wins, wins)


@dataclass(frozen=True, slots=True)
class Stationary(_Bernoulli):
    """Bernoulli arms whose means stay."""

    arm_means: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_means(self.arm_means)

    @property
    def n_arms(self) -> int:
        """The number of arms."""
        return len(self.arm_means)

    def means(self, rounds: FloatArray) -> FloatArray:
        """The same in every round."""
        return np.broadcast_to(np.array(self.arm_means), (len(rounds), self.n_arms))


@dataclass(frozen=True, slots=True)
class Changing(_Bernoulli):
    """Bernoulli arms whose means jump: `arm_means[i]` hold from round `starts[i]` on, the first from 0."""

    starts: tuple[int, ...]
    arm_means: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        ascending = all(first < second for first, second in zip(self.starts, self.starts[1:], strict=False))
        if len(self.starts) != len(self.arm_means) or not self.starts or self.starts[0] or not ascending:
            raise InvalidInput("starts must begin with 0 and ascend, one for each set of means")
        if len({len(means) for means in self.arm_means}) != 1:
            raise InvalidInput("every set of means needs the same number of arms")
        for means in self.arm_means:
            _check_means(means)

    @property
    def n_arms(self) -> int:
        """The number of arms."""
        return len(self.arm_means[0])

    def means(self, rounds: FloatArray) -> FloatArray:
        """Those of the latest start."""
        found: FloatArray = np.array(self.arm_means)[np.searchsorted(self.starts, rounds, side="right") - 1]
        return found


@dataclass(frozen=True, slots=True)
class Drifting(_Bernoulli):
    """Bernoulli arms whose means move in a straight line from `first` to `last` over `rounds` rounds.

    They stay at `last` from then on.
    """

    first: tuple[float, ...]
    last: tuple[float, ...]
    rounds: int

    def __post_init__(self) -> None:
        _check_means(self.first)
        _check_means(self.last)
        if len(self.first) != len(self.last) or self.rounds < 1:
            raise InvalidInput("needs as many last means as first ones, and at least 1 round")

    @property
    def n_arms(self) -> int:
        """The number of arms."""
        return len(self.first)

    def means(self, rounds: FloatArray) -> FloatArray:
        """On the line."""
        way = np.minimum(rounds / self.rounds, 1.0)[:, None]
        means: FloatArray = (1 - way) * np.array(self.first) + way * np.array(self.last)
        return means


@dataclass(frozen=True, slots=True)
class Seasonal(_Bernoulli):
    """Bernoulli arms whose means swing by `amplitude` around theirs, once every `period` rounds.

    `phases` are the parts of a period by which each arm is ahead: equal ones leave the best arm the same,
    different ones let the lead change. Means are kept within [0, 1].
    """

    arm_means: tuple[float, ...]
    amplitude: float
    period: int
    phases: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_means(self.arm_means)
        if len(self.phases) != len(self.arm_means) or self.period < 1 or not 0 <= self.amplitude <= 1:
            raise InvalidInput("needs a phase for each arm, a period of at least 1, an amplitude in [0, 1]")

    @property
    def n_arms(self) -> int:
        """The number of arms."""
        return len(self.arm_means)

    def means(self, rounds: FloatArray) -> FloatArray:
        """Sine waves around the arms' means."""
        turn = rounds[:, None] / self.period + np.array(self.phases)
        means: FloatArray = np.array(self.arm_means) + self.amplitude * np.sin(2 * np.pi * turn)
        return np.clip(means, 0.0, 1.0)


class Logged:
    """Arms whose rewards are drawn, with replacement, from those that were logged of each.

    Rewards in [0, 1], one sequence an arm; they must come from randomised assignment to stand for what
    the arm would earn. Raises InvalidInput if an arm has none, or if there are more than 1,000
    different values: round them.
    """

    def __init__(self, logged: Sequence[FloatArray]) -> None:
        if not logged or not all(len(rewards) for rewards in logged):
            raise InvalidInput("every arm needs at least one logged reward")
        self._values = np.unique(
            np.concatenate([np.asarray(rewards, dtype=np.float64) for rewards in logged])
        )
        if not ((self._values >= 0) & (self._values <= 1)).all():
            raise InvalidInput("rewards must be in [0, 1]")
        if len(self._values) > _VALUES_MAX:
            raise InvalidInput(
                f"at most {_VALUES_MAX} different rewards, got {len(self._values)}: round them"
            )
        found = [
            np.bincount(np.searchsorted(self._values, one), minlength=len(self._values)) for one in logged
        ]
        self._shares = np.array([counts / counts.sum() for counts in found])

    @property
    def n_arms(self) -> int:
        """The number of arms."""
        return len(self._shares)

    def means(self, rounds: FloatArray) -> FloatArray:
        """The averages of the log."""
        return np.broadcast_to(self._shares @ self._values, (len(rounds), self.n_arms))

    def rewards(self, rng: Generator, mean: FloatArray, pulls: FloatArray, before: FloatArray) -> Rewards:
        """How often each logged value comes up, and the sums of that."""
        del mean, before
        counts = rng.multinomial(pulls.astype(np.int64), self._shares)
        return Rewards(counts @ self._values, counts @ self._values**2)


class Tables:
    """Bernoulli arms whose rewards are drawn beforehand by run, arm and number of the pull.

    Policies that are given the same tables meet the same luck (common random numbers): their differences are
    then known more exactly than their regrets.
    """

    def __init__(self, arm_means: Sequence[float], *, rounds: int, runs: int, rng: Generator) -> None:
        _check_means(arm_means)
        self._means = np.array(arm_means)
        small = rounds <= np.iinfo(np.int16).max
        self._sums = np.zeros((runs, len(arm_means), rounds + 1), dtype=np.int16 if small else np.int32)
        for run in self._sums:
            np.cumsum(rng.random(run[:, 1:].shape) < self._means[:, None], axis=1, out=run[:, 1:])

    @property
    def n_arms(self) -> int:
        """The number of arms."""
        return len(self._means)

    def of_run(self, run: int) -> FloatArray:
        """The rewards of one run by arm and number of the pull, shape (n_arms, rounds)."""
        return np.diff(self._sums[run].astype(np.float64), axis=1)

    def means(self, rounds: FloatArray) -> FloatArray:
        """The same in every round."""
        return np.broadcast_to(self._means, (len(rounds), self.n_arms))

    def rewards(self, rng: Generator, mean: FloatArray, pulls: FloatArray, before: FloatArray) -> Rewards:
        """The next `pulls` rewards of each arm's table."""
        del rng, mean
        start, end = (
            np.take_along_axis(self._sums, index.astype(np.int64)[:, :, None], axis=2)[:, :, 0]
            for index in (before, before + pulls)
        )
        wins = end.astype(np.float64) - start
        return Rewards(wins, wins)


def _check_means(means: Sequence[float]) -> None:
    if len(means) < 2 or not all(0 <= mean <= 1 for mean in means):
        raise InvalidInput(f"needs at least 2 means within [0, 1], got {means}")


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of a batch: pulls and the shares they were drawn with, (runs, n_arms), and rewards."""

    pulls: FloatArray
    shares: FloatArray | None
    rewards: Rewards
    rounds: int


class Policy(Protocol):
    """A policy over many runs. `draw` gives pulls of shape (runs, n_arms) that add up to `size` a run."""

    def start(self, runs: int, n_arms: int) -> FloatArray:
        """What it knows before the first reward, shape (facts, runs, n_arms)."""

    def draw(
        self, known: FloatArray, pending: FloatArray, size: int, rng: Generator
    ) -> tuple[FloatArray, FloatArray | None]:
        """The pulls of a batch, and the shares if the policy learns from them."""

    def learn(self, known: FloatArray, outcome: Outcome) -> FloatArray:
        """What it knows after a batch."""


Draw = Callable[[ArmTotals, int, Generator], FloatArray]


@dataclass(frozen=True, slots=True)
class FromTotals:
    """A policy that reads totals; each round leaves `memory` of what was known before (1: everything)."""

    pulls: Draw
    memory: float = 1.0

    def start(self, runs: int, n_arms: int) -> FloatArray:
        """Number, sum and sum of squares: zero."""
        return np.zeros((3, runs, n_arms))

    def draw(
        self, known: FloatArray, pending: FloatArray, size: int, rng: Generator
    ) -> tuple[FloatArray, None]:
        """As the totals say."""
        return self.pulls(ArmTotals(known[0], known[1], known[2], pending), size, rng), None

    def learn(self, known: FloatArray, outcome: Outcome) -> FloatArray:
        """Adds the batch to what is left of the past."""
        batch = np.stack((outcome.pulls, outcome.rewards.sum, outcome.rewards.sum_squares))
        return known * self.memory**outcome.rounds + batch


@dataclass(frozen=True, slots=True)
class Exp3Ix:
    """EXP3-IX with the learning rate of a horizon (`bandits.exp3`), its shares mixed with a floor."""

    horizon: int
    exploration_floor: float = 0.0

    def start(self, runs: int, n_arms: int) -> FloatArray:
        """No losses."""
        return np.zeros((1, runs, n_arms))

    def draw(
        self, known: FloatArray, pending: FloatArray, size: int, rng: Generator
    ) -> tuple[FloatArray, FloatArray]:
        """In proportion to the exponential of the losses."""
        del pending
        eta = learning_rate(known.shape[2], self.horizon)
        weight = np.exp(-eta * (known[0] - known[0].min(axis=1, keepdims=True)))
        shares: FloatArray = weight / weight.sum(axis=1, keepdims=True)
        shares = (1 - self.exploration_floor) * shares + self.exploration_floor / known.shape[2]
        return rng.multinomial(size, shares).astype(np.float64), shares

    def learn(self, known: FloatArray, outcome: Outcome) -> FloatArray:
        """Adds importance-weighted losses."""
        if outcome.shares is None:
            raise InvalidInput("EXP3-IX learns from the shares with which arms were drawn")
        gamma = learning_rate(known.shape[2], self.horizon) / 2
        losses: FloatArray = known + (outcome.pulls - outcome.rewards.sum) / (outcome.shares + gamma)
        return losses


def thompson_pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
    """Draws from the posteriors of `BetaArms`, the greatest of which is pulled."""
    alpha, beta = _beta(totals)
    return _times_greatest(lambda shape: rng.beta(alpha, beta, size=shape), totals, size)


def _beta(totals: ArmTotals) -> tuple[FloatArray, FloatArray]:
    """Parameters of the posteriors, under the uniform prior: shape (runs, 1, n_arms)."""
    worth = answers_per_reward(totals)
    return (1 + worth * totals.sum)[:, None], (1 + worth * (totals.n - totals.sum))[:, None]


def optimistic_pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
    """As `bandits.thompson.optimistic_thompson`: means, or draws where they are greater and made at all."""
    alpha, beta = _beta(totals)
    mean = alpha / (alpha + beta)

    def draw(shape: tuple[int, int, int]) -> FloatArray:
        drawn = np.where(rng.random(shape) < DEFAULT_SAMPLING, rng.beta(alpha, beta, size=shape), 0.0)
        # Noise below the resolution of any posterior breaks ties of means at random.
        return np.maximum(drawn, mean) + _TIE_BREAK * rng.random(shape)

    return _times_greatest(draw, totals, size)


def normal_pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
    """Draws from the posteriors of `NormalArms`, the greatest of which is pulled."""
    n = totals.n
    arms = NormalArms.from_moments(n.ravel(), totals.mean.ravel(), (n * totals.variance).ravel())
    location, scale, degrees = (
        array.reshape(n.shape)[:, None] for array in (arms.location, arms.scale, arms.degrees)
    )
    return _times_greatest(lambda shape: location + scale * rng.standard_t(degrees, size=shape), totals, size)


def even_pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
    """Each arm equally likely: a test with an even split."""
    return rng.multinomial(size, np.full(totals.n.shape, 1 / totals.n_arms)).astype(np.float64)


def index_pulls(index: ucb.Index) -> Draw:
    """An upper confidence bound, its batch spread as the index would spread it."""

    def pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
        shares = ucb.shares_ahead(index, totals, size)
        return rng.multinomial(size, shares).astype(np.float64)

    return pulls


def epsilon_greedy_pulls(epsilon: float) -> Draw:
    """The best average, and a part of the pulls spread evenly."""

    def pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
        shares = greatest(np.where(totals.n > 0, totals.mean, np.inf))
        return rng.multinomial(size, (1 - epsilon) * shares + epsilon / totals.n_arms).astype(np.float64)

    return pulls


def exact_pulls(policy: Callable[[ArmTotals], Allocation]) -> Draw:
    """Any policy on its exact vector, one run after the other: as a server draws, and slow."""

    def pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
        fields = (totals.n, totals.sum, totals.sum_squares, totals.pending)
        shares = [policy(ArmTotals(*run)).shares for run in zip(*fields, strict=True)]
        return rng.multinomial(size, shares).astype(np.float64)

    return pulls


def with_floor_pulls(draw: Draw, exploration_floor: float) -> Draw:
    """A part of the pulls is spread evenly, whatever the policy says."""

    def pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
        explored = rng.binomial(size, exploration_floor, size=len(totals.n))
        even = rng.multinomial(explored, np.full(totals.n_arms, 1 / totals.n_arms))
        # The pulls of one batch are exchangeable, so any of them may be those that the floor replaces.
        chosen = draw(totals, size, rng).astype(np.int64)
        return (even + _without_replacement(chosen, size - explored, rng)).astype(np.float64)

    return pulls


def _without_replacement(counts: NDArray[np.int64], kept: NDArray[np.int64], rng: Generator) -> FloatArray:
    """Of the pulls in each row of `counts`, `kept` at random: arm after arm is hypergeometric."""
    left, rest = kept.copy(), counts.sum(axis=1)
    taken = np.zeros_like(counts)
    for arm in range(counts.shape[1]):
        rest = rest - counts[:, arm]
        taken[:, arm] = rng.hypergeometric(counts[:, arm], rest, left)
        left = left - taken[:, arm]
    return taken.astype(np.float64)


def capped_pulls(draw: Draw, draws_max: int) -> Draw:
    """As `draw`, but a batch above `draws_max` is spread in the proportions of that many draws.

    Expected pulls stay the same. Those of one batch are then no longer independent: their proportions carry a
    standard error of at most 0.5 / sqrt(draws_max) from batch to batch.
    """

    def pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
        if size <= draws_max:
            return draw(totals, size, rng)
        shares = draw(totals, draws_max, rng) / draws_max
        return rng.multinomial(size, shares).astype(np.float64)

    return pulls


def policies(*, horizon: int) -> dict[str, Policy]:
    """The policies of this package by name, without a floor; `horizon` is for those that need to know it."""
    exact_top_two = exact_pulls(lambda totals: top_two(BetaArms.from_totals(totals), exploration_floor=0.0))
    return {
        "even": FromTotals(even_pulls),
        "thompson": FromTotals(thompson_pulls),
        "optimistic_thompson": FromTotals(optimistic_pulls),
        "normal_thompson": FromTotals(normal_pulls),
        "top_two": FromTotals(exact_top_two),
        "ucb1": FromTotals(index_pulls(ucb.ucb1_index)),
        "ucb1_tuned": FromTotals(index_pulls(ucb.ucb1_tuned_index)),
        "kl_ucb": FromTotals(index_pulls(ucb.kl_ucb_index)),
        "kl_ucb_plus": FromTotals(index_pulls(ucb.kl_ucb_plus_index)),
        "epsilon_greedy": FromTotals(epsilon_greedy_pulls(0.1)),
        "discounted_thompson": FromTotals(thompson_pulls, memory=0.9995),
        "exp3_ix": Exp3Ix(horizon),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Regret:
    """Cumulative regret of one policy, by the end of each batch; arrays of shape (batches,) but for two.

    `lower` and `upper` hold the mean over runs with 95 % (normal approximation). `final` is the regret of
    each run, shape (runs,); `settled` the round from which on the best average was that of the arm that is
    best at the end, shape (runs,), and `horizon + 1` where it is another's at the end. `lost` is the
    regret as a part of what always pulling the best arm would have earned: the cost of exploration.
    """

    rounds: FloatArray
    mean: FloatArray
    lower: FloatArray
    upper: FloatArray
    final: FloatArray
    settled: FloatArray
    lost: float

    @property
    def standard_error(self) -> float:
        """Of the mean final regret."""
        return float(self.final.std(ddof=1) / np.sqrt(len(self.final)))


def simulate(
    environment: Environment,
    policy: Policy,
    *,
    rounds: int,
    batch: int,
    runs: int,
    rng: Generator,
    delay: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Regret:
    """Runs a policy `runs` times over `rounds` rounds in batches of `batch`.

    1,000 runs of 20,000 rounds of two arms in batches of 100 take a few seconds for Thompson sampling.
    `progress` hears of the rounds done, batch by batch.

    Raises InvalidInput if rounds, batch or delay make no sense, or runs < 2.
    """
    if rounds < 1 or not 1 <= batch <= rounds or delay < 0 or runs < 2:
        raise InvalidInput("needs rounds >= 1, 1 <= batch <= rounds, delay >= 0 and runs >= 2")
    shape = (runs, environment.n_arms)
    known, pulled, pending = policy.start(*shape), np.zeros(shape), np.zeros(shape)
    seen, seen_sum = np.zeros(shape), np.zeros(shape)
    waiting: deque[tuple[int, Outcome]] = deque()
    regret, settled = np.zeros(runs), np.ones(runs)
    best_at_end = int(environment.means(np.array([rounds - 1.0]))[0].argmax())
    ends, squares, sums, earned = [], [], [], 0.0
    for first in range(0, rounds, batch):
        last = min(first + batch, rounds)
        while waiting and waiting[0][0] <= first:
            outcome = waiting.popleft()[1]
            known, pending = policy.learn(known, outcome), pending - outcome.pulls
            seen, seen_sum = seen + outcome.pulls, seen_sum + outcome.rewards.sum
        settled = np.where(_leads(seen, seen_sum, best_at_end), settled, last + 1.0)
        pulls, shares = policy.draw(known, pending, last - first, rng)
        means = environment.means(np.arange(first, last, dtype=np.float64))
        mean, best = means.mean(axis=0), float(means.max(axis=1).mean())
        rewards = environment.rewards(rng, mean, pulls, pulled)
        waiting.append((last + delay, Outcome(pulls, shares, rewards, last - first)))
        pulled, pending = pulled + pulls, pending + pulls
        regret = regret + pulls @ (best - mean)
        earned += best * (last - first)
        ends.append(float(last))
        sums.append(regret.mean())
        squares.append(regret.std(ddof=1) / np.sqrt(runs))
        progress(last - first)
    for _, outcome in waiting:
        seen, seen_sum = seen + outcome.pulls, seen_sum + outcome.rewards.sum
    settled = np.where(_leads(seen, seen_sum, best_at_end), settled, rounds + 1.0)
    mean, radius = np.array(sums), -special.ndtri(0.025) * np.array(squares)
    lost = float(mean[-1] / earned) if earned else 0.0  # where no arm ever earns, nothing can be lost
    return Regret(np.array(ends), mean, mean - radius, mean + radius, regret, settled, lost)


@dataclass(frozen=True, slots=True, eq=False)
class Identification:
    """For each run the round at which an arm was declared best, and which; both of shape (runs,).

    A run that was undecided at the end has infinity and -1.
    """

    rounds: FloatArray
    arm: NDArray[np.int_]


def identify(
    environment: Environment,
    allocate: Callable[[ArmTotals], Allocation],
    stop: Callable[[ArmTotals, Decision | None], Decision],
    *,
    rounds_max: int,
    batch: int,
    runs: int,
    rng: Generator,
) -> Identification:
    """Lets a policy and a stopping rule look after every `batch` rounds until an arm is declared best.

    Raises InvalidInput if batch or runs < 1 or rounds_max < batch.
    """
    if batch < 1 or runs < 1 or rounds_max < batch:
        raise InvalidInput("needs batch >= 1, runs >= 1 and rounds_max >= batch")
    rounds, arm = np.full(runs, np.inf), np.full(runs, -1)
    zero = np.zeros(environment.n_arms)
    for run in range(runs):
        totals, decision = ArmTotals(zero, zero, zero, zero), None
        for first in range(0, rounds_max, batch):
            pulls = rng.multinomial(batch, allocate(totals).shares).astype(np.float64)[None]
            mean = environment.means(np.arange(first, first + batch, dtype=np.float64)).mean(axis=0)
            rewards = environment.rewards(rng, mean, pulls, totals.n[None])
            totals = totals + ArmTotals(pulls[0], rewards.sum[0], rewards.sum_squares[0], zero)
            decision = stop(totals, decision)
            if isinstance(decision, Winner):
                rounds[run], arm[run] = first + batch, decision.arm
                break
    return Identification(rounds, arm)


def _leads(n: FloatArray, total: FloatArray, arm: int) -> FloatArray:
    """Whether an arm has the best average, alone, shape (runs,)."""
    average = np.where(n > 0, total / np.maximum(n, 1.0), np.inf)
    others = np.delete(average, arm, axis=1).max(axis=1)
    leads: FloatArray = average[:, arm] > others
    return leads


def _times_greatest(
    draw: Callable[[tuple[int, int, int]], FloatArray], totals: ArmTotals, size: int
) -> FloatArray:
    """How often each arm is the greatest of `size` draws, shape (runs, n_arms)."""
    runs, n_arms = totals.n.shape
    counts = np.zeros((runs, n_arms))
    step = max(1, _DRAWS_MAX // counts.size)
    offset = np.arange(runs)[:, None] * n_arms
    for done in range(0, size, step):
        winner = draw((runs, min(step, size - done), n_arms)).argmax(axis=2) + offset
        counts += np.bincount(winner.ravel(), minlength=counts.size).reshape(counts.shape)
    return counts
