"""Contextual policies on real data beside their peers. `python -m benchmarks.contextual [SHUFFLES]`.

Classification as a bandit: rows come once, in random order; the arm is a class; the reward is 1 if it is the
right one. The figure is the share of right answers from the first row to the last. Our policies have the
defaults they are shipped with, which were chosen on synthetic problems: nothing was tuned on these data. The
judge's scores make a third problem: the arm is a model, the reward (score - 1) / 9, the figure the mean
reward.

scikit-learn, MABWiser, bayesianbandits, Vowpal Wabbit and gittins are no dependencies of Wald: what is not
installed is left out, and said so. Everybody learns after every `BATCH` rows.
"""

# ruff: noqa: D102, PLC0415  (players share what `Player` says; peers may not be installed)

import csv
import sys
import time
import timeit
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.random import Generator, default_rng

from bandits.arms import BetaArms
from bandits.contextual import LinearArms, thompson, ucb
from bandits.features import UNIT, Categorical, Hashed, IntArray, Numeric, Schema
from bandits.linear import LinearTotals, disjoint, hybrid
from bandits.logistic import LogisticTotals, logistic
from bandits.segments import partially_pooled
from bandits.thompson import thompson as thompson_of_arms
from bandits.totals import FloatArray
from benchmarks.harness import interleaved, show
from stats.totals import RewardTotals

SHUFFLES: Final = 20
SEED: Final = 20267000
"""Of shuffles that nobody saw while a policy was made; whoever has tuned on them takes others."""
JUDGE: Final = 1
"""The feature, next to the intercept, that tells the two judges apart."""
SCORES: Final = Path(__file__).parents[2] / "shared/data/llm_judge_scores.csv"
"""The WildBench judge scores, where they lie beside this repository."""


class Problem(NamedTuple):
    """Contexts in fixed point (n, d), and the reward that each arm would earn in each row (n, n_arms).

    `segment` is the feature that tells two segments apart, 0 in one of them, where there is one.
    """

    contexts: IntArray
    rewards: FloatArray
    segment: int | None = None


class Player(Protocol):
    """Chooses an arm in a context, and learns what the arm that was chosen has earned."""

    def choose(self, context: FloatArray) -> int: ...

    def learn(self, context: IntArray, arm: int, reward: float) -> None: ...


def play(player: Player, problem: Problem, rng: Generator) -> float:
    """The mean reward over one pass in random order."""
    earned = 0.0
    for row in rng.permutation(len(problem.contexts)):
        context = problem.contexts[row]
        arm = player.choose(context / UNIT)
        player.learn(context, arm, problem.rewards[row, arm])
        earned += problem.rewards[row, arm]
    return earned / len(problem.contexts)


class Ours:
    """A policy of Wald: totals per arm, a posterior after each batch, a draw from the shares."""

    def __init__(
        self,
        totals: list[Any],
        posterior: Callable[[Any], Any],
        decide: Callable[..., FloatArray],
        *,
        batch: int,
        rng: Generator,
    ) -> None:
        self.totals, self.posterior, self.decide, self.batch, self.rng = totals, posterior, decide, batch, rng
        self.seen = 0
        self.arms = posterior(totals).arms()

    def choose(self, context: FloatArray) -> int:
        shares = self.decide(self.arms, context, exploration_floor=0.0)
        return int(self.rng.choice(len(shares), p=shares / shares.sum()))

    def learn(self, context: IntArray, arm: int, reward: float) -> None:
        self.totals[arm] += type(self.totals[arm]).of_rows(context[None], np.array([reward]))
        self.seen += 1
        if self.seen % self.batch == 0:
            self.arms = self.posterior(self.totals).arms()


class WithoutContext:
    """Thompson sampling for the arms' mean rewards."""

    def __init__(self, n_arms: int, *, batch: int, rng: Generator) -> None:
        self.totals, self.batch, self.rng, self.seen = [RewardTotals()] * n_arms, batch, rng, 0
        self.shares = np.full(n_arms, 1 / n_arms)

    def choose(self, context: FloatArray) -> int:
        del context
        return int(self.rng.choice(len(self.shares), p=self.shares / self.shares.sum()))

    def learn(self, context: IntArray, arm: int, reward: float) -> None:
        del context
        self.totals[arm] += RewardTotals(1, reward, reward**2)
        self.seen += 1
        if self.seen % self.batch == 0:
            arms = BetaArms.from_totals(self.totals)
            self.shares = thompson_of_arms(arms, exploration_floor=0.0).shares


class InSegments:
    """Thompson sampling in each of two segments, the arms' mean rewards partially pooled."""

    def __init__(self, n_arms: int, *, feature: int, batch: int, rng: Generator) -> None:
        self.totals = [[RewardTotals()] * n_arms for _ in range(2)]
        self.feature, self.batch, self.rng, self.seen = feature, batch, rng, 0
        self.shares = [np.full(n_arms, 1 / n_arms)] * 2

    def choose(self, context: FloatArray) -> int:
        shares = self.shares[int(context[self.feature] != 0)]
        return int(self.rng.choice(len(shares), p=shares / shares.sum()))

    def learn(self, context: IntArray, arm: int, reward: float) -> None:
        self.totals[int(context[self.feature] != 0)][arm] += RewardTotals(1, reward, reward**2)
        self.seen += 1
        if self.seen % self.batch == 0:
            arms = partially_pooled(self.totals).segments
            self.shares = [thompson_of_arms(one, exploration_floor=0.0).shares for one in arms]


class MABWiser:
    """MABWiser's contextual policies, as a server would have to feed them."""

    def __init__(self, policy: Any, d: int, n_arms: int, seed: int) -> None:
        from mabwiser.mab import MAB

        self.mab = MAB(list(range(n_arms)), policy, seed=seed)
        self.mab.fit(np.zeros(n_arms, int) + np.arange(n_arms), np.zeros(n_arms), np.zeros((n_arms, d)))

    def choose(self, context: FloatArray) -> int:
        return int(self.mab.predict(context[None]))

    def learn(self, context: IntArray, arm: int, reward: float) -> None:
        self.mab.partial_fit(np.array([arm]), np.array([reward]), context[None] / UNIT)


class BayesianBandits:
    """bayesianbandits' linear Thompson sampler with a known noise of variance 1 / beta."""

    def __init__(self, beta: float, d: int, n_arms: int, seed: int) -> None:
        del d
        from bayesianbandits import Arm, ContextualAgent, NormalRegressor, ThompsonSampling

        arms = [Arm(arm, learner=NormalRegressor(alpha=1.0, beta=beta)) for arm in range(n_arms)]
        self.agent = ContextualAgent(arms, ThompsonSampling(), random_seed=seed)

    def choose(self, context: FloatArray) -> int:
        (arm,) = self.agent.pull(context[None])
        return int(arm)

    def learn(self, context: IntArray, arm: int, reward: float) -> None:
        self.agent.select_for_update(arm).update(context[None] / UNIT, np.array([reward]))


class VowpalWabbit:
    """Vowpal Wabbit's contextual bandit; what it was asked last is what it learns from."""

    def __init__(self, options: str, n_arms: int, rng: Generator) -> None:
        from vowpalwabbit import Workspace

        self.workspace = Workspace(f"--cb_explore {n_arms} {options} --quiet")
        self.rng = rng
        self.asked = ("", 1.0)

    @staticmethod
    def text(context: FloatArray) -> str:
        """The context as Vowpal Wabbit reads it."""
        return "| " + " ".join(f"{index}:{entry:.5f}" for index, entry in enumerate(context) if entry)

    def choose(self, context: FloatArray) -> int:
        features = self.text(context)
        shares = np.array(self.workspace.predict(features))
        arm = int(self.rng.choice(len(shares), p=shares / shares.sum()))
        self.asked = features, shares[arm]
        return arm

    def learn(self, context: IntArray, arm: int, reward: float) -> None:
        del context
        features, propensity = self.asked
        self.workspace.learn(f"{arm + 1}:{-reward:.6f}:{propensity:.6f} {features}")


class Gittins:
    """gittins' engine with its defaults: features are named numbers, the arms are told apart by name."""

    def __init__(self, n_arms: int, seed: int) -> None:
        import gittins

        self.engine, self.seed = gittins, str(seed)
        self.state = gittins.create(bits=12, horizon=1e9)
        self.candidates: list[tuple[str, dict[str, float]]] = [(str(arm), {}) for arm in range(n_arms)]
        self.asked = ""

    @staticmethod
    def named(context: FloatArray) -> dict[str, float]:
        """The context as gittins reads it."""
        return {f"x{index}": float(entry) for index, entry in enumerate(context) if entry}

    def choose(self, context: FloatArray) -> int:
        decision = self.engine.decide(self.state, self.named(context), self.candidates, 0.0, self.seed)
        self.asked = decision.decision_id
        return int(decision.chosen)

    def learn(self, context: IntArray, arm: int, reward: float) -> None:
        del context, arm
        self.engine.learn(self.state, self.asked, reward, 1.0)


def players(
    d: int, n_arms: int, seed: int, *, segment: int | None = None
) -> dict[str, Callable[[], Player] | None]:
    """All policies by name; None for what is not installed. `segment` as in `Problem`."""
    rng = default_rng(seed)

    def linear(make: Callable[[Any], Any], decide: Callable[..., FloatArray], batch: int) -> Player:
        return Ours([LinearTotals.empty(d)] * n_arms, make, decide, batch=batch, rng=rng)

    def mabwiser(policy: str, alpha: float) -> Player:
        from mabwiser.mab import LearningPolicy

        return MABWiser(getattr(LearningPolicy, policy)(alpha=alpha), d, n_arms, seed)

    found: dict[str, Callable[[], Player] | None] = {
        "lin_ucb (default)": lambda: linear(disjoint, ucb, 1),
        "lin_ucb, batches of 25": lambda: linear(disjoint, ucb, 25),
        "lin_ts, batches of 5": lambda: linear(disjoint, thompson, 5),
        "lin_ucb hybrid, batches of 10": lambda: linear(hybrid, ucb, 10),
        "logistic_ts, batches of 25": lambda: Ours(
            [LogisticTotals.empty(d)] * n_arms, logistic, thompson, batch=25, rng=rng
        ),
        "no context, thompson": lambda: WithoutContext(n_arms, batch=1, rng=rng),
    }
    if segment is not None:
        found["no context, batches of 10"] = lambda: WithoutContext(n_arms, batch=10, rng=rng)
        found["segments, batches of 10"] = lambda: InSegments(n_arms, feature=segment, batch=10, rng=rng)
    peers: dict[str, Callable[[], Player]] = {
        "MABWiser LinUCB 1.0": lambda: mabwiser("LinUCB", 1.0),
        "MABWiser LinUCB 0.2": lambda: mabwiser("LinUCB", 0.2),
        "MABWiser LinTS 1.0": lambda: mabwiser("LinTS", 1.0),
        "MABWiser LinTS 0.2": lambda: mabwiser("LinTS", 0.2),
        "bayesianbandits LinTS beta=1": lambda: BayesianBandits(1.0, d, n_arms, seed),
        "bayesianbandits LinTS beta=25": lambda: BayesianBandits(25.0, d, n_arms, seed),
        "vowpalwabbit squarecb": lambda: VowpalWabbit("--squarecb", n_arms, rng),
        "vowpalwabbit epsilon 0.05": lambda: VowpalWabbit("--epsilon 0.05", n_arms, rng),
        "gittins": lambda: Gittins(n_arms, seed),
    }
    for name, make in peers.items():
        module = name.split(maxsplit=1)[0].lower()
        found[name] = make if find_spec(module) else None
    return found


def digits() -> Problem:
    """Handwritten digits of scikit-learn: 1,797 rows, 64 pixels from 0 to 16, scaled to [0, 1]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return _of_classes(data.data, data.target, [0.0] * 64, [16.0] * 64)


def breast_cancer() -> Problem:
    """569 rows, 30 measurements; as one would declare them, by mean and deviation of an earlier sample."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return _of_classes(data.data, data.target, data.data.mean(axis=0), data.data.std(axis=0))


def judge_scores() -> Problem:
    """Tasks scored by two judges, and the six models that both judged: the arm is the model.

    The context is what a server knows of a task before it is answered: who will judge it (a segment), and its
    id, hashed. How long answers are is known only after the choice, and no part of it.
    """
    scores: dict[tuple[str, str], dict[str, float]] = {}
    models: dict[str, set[str]] = {}
    with SCORES.open() as file:
        for row in csv.DictReader(file):
            models.setdefault(row["judge"], set()).add(row["model"])
            task = scores.setdefault((row["task_id"], row["judge"]), {})
            task[row["model"]] = (float(row["score"]) - 1) / 9
    both = sorted(set.intersection(*models.values()))
    schema = Schema((Categorical("judge", tuple(sorted(models)[1:])), Hashed("task", buckets=4)))
    contexts, rewards = [], []
    for (key, judge), task in scores.items():
        if task.keys() >= set(both):
            contexts.append(schema.vector_fixed({"judge": judge, "task": key}))
            rewards.append([task[model] for model in both])
    return Problem(np.array(contexts), np.array(rewards), segment=JUDGE)


def _of_classes(features: Any, classes: Any, locations: Any, scales: Any) -> Problem:
    names = [f"x{index}" for index in range(features.shape[1])]
    schema = Schema(
        tuple(
            Numeric(name, location=float(location), scale=float(scale))
            for name, location, scale in zip(names, locations, scales, strict=True)
        )
    )
    rows = [schema.vector_fixed(dict(zip(names, map(float, row), strict=True))) for row in features]
    return Problem(np.array(rows), (classes[:, None] == np.unique(classes)).astype(float))


def compare(title: str, problem: Problem, shuffles: int) -> dict[str, list[float]]:
    """Play everybody on the same shuffles and print the table."""
    n, d = problem.contexts.shape
    n_arms = problem.rewards.shape[1]
    earned: dict[str, list[float]] = {}
    rows = []
    for name, make in players(d, n_arms, SEED, segment=problem.segment).items():
        if make is None:
            rows.append([name, "not installed", *[""] * 4])
            continue
        started = time.perf_counter()
        runs = earned[name] = [
            play(make(), problem, default_rng(SEED + shuffle)) for shuffle in range(shuffles)
        ]
        spent = (time.perf_counter() - started) / shuffles / n * 1e3
        beside = _differences(runs, next(iter(earned.values())))
        figures = mean(runs), _error(runs), mean(beside), _error(beside)
        rows.append([name, *(f"{figure:.4f}" for figure in figures), f"{spent:.2f}"])
        print(*rows[-1], flush=True)
    best, arms = problem.rewards.max(axis=1).mean(), problem.rewards.mean(axis=0)
    rows.append(["always the best single arm", f"{arms.max():.4f}", *[""] * 4])
    rows.append(["the best arm of each row", f"{best:.4f}", *[""] * 4])
    show(
        f"{title}: {n} rows, d = {d}, {n_arms} arms, {shuffles} shuffles",
        ["policy", "mean reward", "standard error", "less the first", "its error", "ms per row"],
        rows,
    )
    return earned


def decision_times() -> dict[str, dict[str, float]]:
    """Microseconds of the processor for one decision with its exact propensity, 8 arms; prints its table."""
    found = _micros({f"{name}, d = {d}": one for d in (16, 64) for name, one in _decisions(d).items()})
    show("One decision, 8 arms", ["policy", "us"], [[name, f"{one:.1f}"] for name, one in found.items()])
    return {"decision in context, us": found}


def _decisions(d: int) -> dict[str, Callable[[], object]]:
    """What to call for a decision in one context, everybody having learned from the same 800 rewards."""
    rng = default_rng(SEED + d)
    contexts = np.rint(rng.normal(size=(800, d)).clip(-8, 8) * UNIT).astype(np.int64)
    contexts[:, 0] = UNIT
    arms, rewards = np.arange(800) % 8, (rng.random(800) < 0.5).astype(float)
    x = contexts[0] / UNIT
    totals = [LinearTotals.of_rows(contexts[arms == arm], rewards[arms == arm]) for arm in range(8)]
    linear: LinearArms = disjoint(totals).arms()
    found: dict[str, Callable[[], object]] = {
        "lin_ts": partial(thompson, linear, x, exploration_floor=0.05),
        "lin_ucb": partial(ucb, linear, x, exploration_floor=0.05),
    }
    for name, make in players(d, 8, SEED).items():
        if make and name in {"MABWiser LinTS 1.0", "MABWiser LinUCB 1.0", "bayesianbandits LinTS beta=1"}:
            player = make()
            for row in range(len(arms)):
                player.learn(contexts[row], int(arms[row]), float(rewards[row]))
            found[name] = partial(player.choose, x)
    if find_spec("vowpalwabbit"):
        predict = VowpalWabbit("--squarecb", 8, rng).workspace.predict
        found["vowpalwabbit squarecb, predict of a text"] = partial(predict, VowpalWabbit.text(x))
        found["vowpalwabbit squarecb of 8 actions"] = vowpal_of_actions(x)
    if find_spec("gittins"):
        engine = Gittins(8, SEED)
        named = Gittins.named(x)
        found["gittins"] = lambda: engine.engine.decide(engine.state, named, engine.candidates, 0.0, "0")
    return found


def vowpal_of_actions(x: FloatArray) -> Callable[[], object]:
    """Vowpal Wabbit with one example per arm, each crossed with the context."""
    from vowpalwabbit import Workspace

    workspace = Workspace("--cb_explore_adf --squarecb -q ca --quiet")
    lines = ["shared |c" + VowpalWabbit.text(x)[1:], *(f"|a {arm}" for arm in range(8))]
    return partial(workspace.predict, lines)


def _micros(decisions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Processor time, of 15 rounds the least; they take turns, so that a slow minute hits all.

    Not the time that passes: others on the machine would be in it.
    """
    timed = partial(timeit.timeit, timer=time.process_time)
    numbers = {name: max(int(0.02 / timed(one, number=20) * 20), 5) for name, one in decisions.items()}
    runs = {name: partial(timed, one, number=numbers[name]) for name, one in decisions.items()}
    taken = interleaved(runs, rounds=15)
    return {name: round(min(times) / numbers[name] * 1e6, 2) for name, times in taken.items()}


def measure(*, shuffles: int = SHUFFLES) -> dict[str, dict[str, float]]:
    """Play all problems, print their tables, and give the mean rewards with their standard errors."""
    problems: dict[str, Callable[[], Problem]] = {}
    if find_spec("sklearn"):
        problems |= {"Digits": digits, "Breast cancer": breast_cancer}
    else:
        print("scikit-learn is not installed: no digits, no breast cancer")
    if SCORES.exists():
        problems["Judge scores"] = judge_scores
    else:
        print(f"{SCORES} is not there: no judge scores")
    found = {name: compare(name, make(), shuffles) for name, make in problems.items()}
    return {
        name: {
            f"{who}, {what}": number
            for who, runs in one.items()
            for what, number in _numbers(runs, next(iter(one.values()))).items()
        }
        for name, one in found.items()
    }


def _numbers(runs: list[float], first: list[float]) -> dict[str, float]:
    beside = _differences(runs, first)
    figures = {
        "mean": mean(runs),
        "error": _error(runs),
        "less the first": mean(beside),
        "error of that": _error(beside),
    }
    return {name: round(figure, 4) for name, figure in figures.items()} | {"shuffles": len(runs)}


def _differences(runs: list[float], first: list[float]) -> list[float]:
    """Of the same shuffles."""
    return [one - other for one, other in zip(runs, first, strict=True)]


def _error(runs: list[float]) -> float:
    return stdev(runs) / len(runs) ** 0.5 if len(runs) > 1 else float("nan")


if __name__ == "__main__":
    decision_times()
    measure(shuffles=int(sys.argv[1]) if len(sys.argv) > 1 else SHUFFLES)
