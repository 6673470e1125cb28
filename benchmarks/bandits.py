"""Regret of the policies and of other libraries' on the same rewards, and what a decision costs.

Rewards are drawn beforehand by run, arm and number of the pull, so that all policies have the same luck. The
textbook Thompson sampler draws from Beta(1 + successes, 1 + failures); `exact` is what the server does:
P(best) by quadrature, then a draw from that vector. The two are equal in distribution, so their ratio
should be 1 within its error: that is the control. Expect nothing to be gained where a batch is half of all
rounds: the first batch is blind, and no rule that treats arms alike can spend it better than evenly.

Environments A, B and C were looked at when `optimistic_thompson` was chosen; D to G were not.
Libraries other than ours run if they are installed, on the first of the same tables: on fewer, as they are
slow, and slower the smaller the batch.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

from bandits.allocation import Allocation, fixed
from bandits.arms import BetaArms
from bandits.best import probability_best
from bandits.environments import Change, Changing, Stationary
from bandits.identification import Decision, Undecided, Winner, decide, optimal_shares, track_and_stop
from bandits.pulls import (
    FromTotals,
    Policy,
    epsilon_greedy_pulls,
    exact_pulls,
    index_pulls,
    optimistic_pulls,
    thompson_pulls,
)
from bandits.simulation import Regret, simulate
from bandits.thompson import optimistic_thompson, thompson, top_two
from bandits.totals import ArmTotals
from bandits.ucb import bernoulli_divergence
from benchmarks import harness
from benchmarks.figure import Curve, line_chart
from benchmarks.simulated import Tables, identify
from stats.errors import InsufficientData
from stats.sequences import Contrast, difference_sequence, units_to_tell
from stats.totals import MeanTotals

ROUNDS = 20_000
RUNS = 1_000
CHUNK = 250
SEED = 20260101
BATCHES = (1, 100, 2_000, 10_000)
FIGURES = Path(__file__).parents[1] / "docs" / "figures"

CHOSEN_ON = {"A": (0.10, 0.12), "B": (*[0.05] * 9, 0.06), "C": (0.5, 0.45, 0.4)}
HELD_OUT = {
    "D": (0.30, 0.33),
    "E": (0.90, 0.88, 0.85, 0.80),
    "F": (0.010, 0.015, 0.005, 0.005, 0.005),
    "G": tuple(np.linspace(0.2, 0.4, 20).tolist()),
}
CHANGES = {
    "best of 2 falls": ((0.10, 0.12), (0.14, 0.12)),
    "order of 3 reversed": ((0.50, 0.45, 0.40), (0.40, 0.45, 0.50)),
    "2 swapped": ((0.30, 0.20), (0.20, 0.30)),
}
IDENTIFIED = {
    "C": (0.5, 0.45, 0.4),
    "one of 10": (*[0.1] * 9, 0.2),
    "5 steps": (0.2, 0.15, 0.1, 0.1, 0.05),
    "A": (0.10, 0.12),
}


TEXTBOOK = "textbook thompson"
TRACKED_RUNS = 40
USUAL, PEER, SAME_RULE = "even split, Jeffreys", "even split, confidence sequence", "even split"
HELD_OUT_POLICIES = (TEXTBOOK, "optimistic_thompson")
SIMULATED: dict[str, Policy] = {
    "thompson": FromTotals(thompson_pulls),
    "optimistic_thompson": FromTotals(optimistic_pulls),
    "kl_ucb_plus": FromTotals(index_pulls("kl_ucb_plus")),
    "epsilon_greedy": FromTotals(epsilon_greedy_pulls(0.1)),
    "discounted_thompson": FromTotals(thompson_pulls, memory=0.9995),
}
DRAWN = ("thompson", "optimistic_thompson", "kl_ucb_plus", "epsilon_greedy")
CHANGE_DRAWN = "best of 2 falls"


class Contender(NamedTuple):
    """A policy, with the batches it is fast enough for."""

    policy: Policy
    batches: tuple[int, ...] = BATCHES
    runs: int = RUNS


def contenders(runs: int) -> dict[str, Contender]:
    """The textbook sampler first: the others are measured by it."""
    optimistic = FromTotals(
        exact_pulls(lambda totals: optimistic_thompson(BetaArms.from_totals(totals), exploration_floor=0))
    )
    return {
        TEXTBOOK: Contender(SIMULATED["thompson"], runs=runs),
        "thompson, by posterior draws": Contender(SIMULATED["thompson"], BATCHES[:1], runs),
        "thompson, exact P(best)": Contender(FromTotals(exact_pulls(_exact)), BATCHES[1:], runs),
        "optimistic_thompson": Contender(SIMULATED["optimistic_thompson"], runs=runs),
        "optimistic_thompson, exact": Contender(optimistic, BATCHES[2:], runs),
        "kl_ucb_plus": Contender(SIMULATED["kl_ucb_plus"], BATCHES[:1], min(runs, CHUNK)),
        "epsilon_greedy": Contender(SIMULATED["epsilon_greedy"], runs=runs),
    }


def _exact(totals: ArmTotals) -> Allocation:
    return thompson(BetaArms.from_totals(totals), exploration_floor=0)


def measure(*, runs: int = RUNS, only: Sequence[str] = ()) -> dict[str, Any]:
    """Run the parts, print their tables, write their figures, and give the numbers for `policies.json`."""
    named = contenders(runs)
    few = {
        name: one._replace(batches=BATCHES[1:2]) for name, one in named.items() if name in HELD_OUT_POLICIES
    }
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        **{name: partial(_environment, name, means, named) for name, means in CHOSEN_ON.items()},
        **{name: partial(_environment, name, means, few) for name, means in HELD_OUT.items()},
        "change": partial(_changes, runs),
        "identification": partial(_identification, runs),
    }
    return {name: part() for name, part in parts.items() if not only or name in only}


def _environment(name: str, means: tuple[float, ...], found: dict[str, Contender]) -> dict[str, Any]:
    rows, figures = [], {}
    for batch in BATCHES:
        finals: dict[str, np.ndarray] = {}
        for label, contender in found.items():
            if batch in contender.batches:
                # Our own draws are others than the textbook's, so that the two are not one run.
                finals[label] = _over_chunks(means, contender, batch, draws=len(finals)).final
        if name in CHOSEN_ON:
            runs = found[TEXTBOOK].runs
            finals |= {label: _peer(peer, means, batch, runs) for label, peer in PEERS.items()}
        for label, final in finals.items():
            if len(final) < 2:
                rows.append([label, f"{batch:,}", "not run", "", "", ""])
                continue
            rows.append(_row(label, batch, final, finals[TEXTBOOK]))
            figures[f"{label} / {batch}"] = _numbers(final, finals[TEXTBOOK])
    columns = ["policy", "batch", "runs", "mean regret", "95th pct.", "of textbook, same luck"]
    harness.show(f"{name}: {_shown(means)}, {ROUNDS:,} rounds", columns, rows)
    _draw_environment(name, means, min(CHUNK, found[TEXTBOOK].runs))
    return figures


def _draw_environment(name: str, means: tuple[float, ...], runs: int) -> None:
    curves = []
    for label in DRAWN:
        contender = Contender(SIMULATED[label], runs=runs)
        regret = _over_chunks(means, contender, BATCHES[1])
        curves.append(Curve(label, regret.rounds, regret.mean, regret.lower, regret.upper))
    line_chart(
        FIGURES / f"bandit-regret-{name[0].lower()}.svg",
        title=f"Environment {name}: mean rewards {_shown(means)}",
        subtitle=f"updated every {BATCHES[1]} requests; mean of {runs} runs and its 95 % interval",
        x_label="requests",
        y_label="rewards lost so far (regret)",
        curves=curves,
    )


def _shown(means: tuple[float, ...]) -> str:
    """Repeated ones once, and of many the ends."""
    if len(set(means)) > 5:
        return f"{len(means)} from {min(means):g} to {max(means):g}"
    runs = [(len(list(equal)), mean) for mean, equal in groupby(means)]
    return ", ".join(f"{mean:g}" if n == 1 else f"{n} x {mean:g}" for n, mean in runs)


def _over_chunks(means: tuple[float, ...], contender: Contender, batch: int, *, draws: int = 0) -> Regret:
    """The same runs in pieces that fit into memory; all get the same tables, and `draws` of their own."""
    found = []
    for chunk in range(0, contender.runs, CHUNK):
        runs = min(CHUNK, contender.runs - chunk)
        tables = Tables(means, rounds=ROUNDS, runs=runs, rng=np.random.default_rng(SEED + chunk))
        rng = np.random.default_rng((SEED + chunk + 1, draws))
        found.append(simulate(tables, contender.policy, rounds=ROUNDS, batch=batch, runs=runs, rng=rng))
    final = np.concatenate([one.final for one in found])
    mean = np.mean([one.mean for one in found], axis=0)
    radius = np.mean([one.upper - one.mean for one in found], axis=0) / np.sqrt(len(found))
    settled = np.concatenate([one.settled for one in found])
    lost = float(np.mean([one.lost for one in found]))
    return Regret(found[0].rounds, mean, mean - radius, mean + radius, final, settled, lost)


def _numbers(final: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Mean, 95th percentile and ratio of means on the runs that both had, with standard errors."""
    same = base[: len(final)]
    ratio = final.mean() / same.mean()
    numbers = {
        "runs": len(final),
        "mean": final.mean(),
        "error": final.std(ddof=1) / np.sqrt(len(final)),
        "p95": np.quantile(final, 0.95),
        "ratio": ratio,
        "ratio_error": (final - ratio * same).std(ddof=1) / np.sqrt(len(final)) / same.mean(),
    }
    return {name: harness.middle([float(number)]) for name, number in numbers.items()}


def _row(label: str, batch: int, final: np.ndarray, base: np.ndarray) -> list[str]:
    found = _numbers(final, base)
    return [
        label,
        f"{batch:,}",
        f"{len(final):,}",
        f"{found['mean']:.1f} ± {found['error']:.1f}",
        f"{found['p95']:.0f}",
        f"{found['ratio']:.3f} ± {found['ratio_error']:.3f}",
    ]


class Learner(NamedTuple):
    """Another library's policy in one run: `pull(size)` gives arms, `learn(arms, rewards)` takes rewards."""

    pull: Callable[[int], list[int]]
    learn: Callable[[np.ndarray, np.ndarray], None]


def _mabwiser(n_arms: int, seed: int) -> Learner:
    from mabwiser.mab import MAB, LearningPolicy  # noqa: PLC0415 - may not be installed

    mab = MAB(list(range(n_arms)), LearningPolicy.ThompsonSampling(), seed=seed)
    mab.fit(list(range(n_arms)), [0] * n_arms)
    # The library wants data before its first answer; its Beta(1, 1) counts it, so this takes it back.
    for arm in range(n_arms):
        mab._imp.arm_to_fail_count[arm] = 1  # noqa: SLF001

    def pull(size: int) -> list[int]:
        # One answer for each row, whatever the row says.
        return [mab.predict()] if size == 1 else mab.predict(np.zeros((size, 1)))

    return Learner(pull, mab.partial_fit)


def _bayesianbandits(n_arms: int, seed: int) -> Learner:
    from bayesianbandits import Arm, ContextualAgent, DirichletClassifier, ThompsonSampling  # noqa: PLC0415

    arms = [
        Arm(arm, learner=DirichletClassifier({0: 1.0, 1: 1.0}), reward_function=lambda p: p[..., 1])
        for arm in range(n_arms)
    ]
    # All rows are of one context: the library's way to draw many times at once.
    agent = ContextualAgent(arms, ThompsonSampling(), random_seed=seed)

    def learn(pulled: np.ndarray, rewards: np.ndarray) -> None:
        for arm in np.unique(pulled):
            mine = rewards[pulled == arm]
            agent.select_for_update(int(arm)).update(np.ones((len(mine), 1)), mine)

    return Learner(lambda size: agent.pull(np.ones((size, 1))), learn)


def _gittins(n_arms: int, seed: int) -> Learner:
    import gittins  # noqa: PLC0415

    state = gittins.create(bits=8, horizon=1e9)
    candidates: list[tuple[str, dict[str, float]]] = [(str(arm), {}) for arm in range(n_arms)]
    asked: list[str] = []

    def pull(size: int) -> list[int]:
        decisions = [gittins.decide(state, {}, candidates, 0.0, str(seed)) for _ in range(size)]
        asked[:] = [decision.decision_id for decision in decisions]
        return [decision.chosen for decision in decisions]

    def learn(pulled: np.ndarray, rewards: np.ndarray) -> None:
        del pulled
        for decision, reward in zip(asked, rewards, strict=True):
            gittins.learn(state, decision, float(reward), 1.0)

    return Learner(pull, learn)


class Peer(NamedTuple):
    """How to make one, and how many of 1,000 runs it gets at each of `BATCHES`."""

    make: Callable[[int, int], Learner]
    runs: tuple[int, ...]


PEERS: dict[str, Peer] = {
    "MABWiser Thompson": Peer(_mabwiser, (20, 100, 100, 100)),
    "bayesianbandits Thompson": Peer(_bayesianbandits, (0, 20, 50, 50)),
    "gittins": Peer(_gittins, (100, 100, 100, 100)),
}


def _peer(peer: Peer, means: tuple[float, ...], batch: int, runs: int) -> np.ndarray:
    """Final regrets on the first of the tables that everybody has; none if it is not installed."""
    few = peer.runs[BATCHES.index(batch)]
    few = min(few, CHUNK, max(2, few * runs // RUNS)) if few else 0
    tables = Tables(means, rounds=ROUNDS, runs=min(runs, CHUNK), rng=np.random.default_rng(SEED))
    gaps, final = max(means) - np.array(means), []
    for run in range(few):
        try:
            learner = peer.make(len(means), SEED + run)
        except ImportError:
            return np.empty(0)
        rewards, pulled = tables.of_run(run), np.zeros(len(means), dtype=int)
        for _ in range(ROUNDS // batch):
            arms = np.array(learner.pull(batch))
            seen = np.empty(batch, dtype=int)
            for arm in np.unique(arms):
                mine = arms == arm
                first, count = pulled[arm], int(mine.sum())
                seen[mine] = rewards[arm, first : first + count]
                pulled[arm] += count
            learner.learn(arms, seen)
        final.append(float(pulled @ gaps))
    return np.array(final)


def _changes(runs: int) -> dict[str, Any]:
    rows, figures = [], {}
    for name, means in CHANGES.items():
        environment = Changing(means[0], (Change(ROUNDS // 2, means[1]),))
        half = ROUNDS // 2 // BATCHES[1] - 1
        regret, curves = {}, []
        for label in ("thompson", "discounted_thompson"):
            found = simulate(
                environment,
                SIMULATED[label],
                rounds=ROUNDS,
                batch=BATCHES[1],
                runs=min(runs, CHUNK),
                rng=np.random.default_rng(SEED),
            )
            regret[label] = (found.mean[half], found.mean[-1] - found.mean[half])
            curves.append(Curve(label, found.rounds, found.mean, found.lower, found.upper))
        if name == CHANGE_DRAWN:
            line_chart(
                FIGURES / "bandit-regret-change.svg",
                title="The best of two variants falls behind after 10,000 requests",
                subtitle=f"updated every {BATCHES[1]} requests; mean of {min(runs, CHUNK)} runs, with 95 %",
                x_label="requests",
                y_label="rewards lost so far (regret)",
                curves=curves,
            )
        plain, forgetful = regret["thompson"], regret["discounted_thompson"]
        ratio = forgetful[1] / plain[1]
        figures[name] = harness.middle([ratio])
        numbers = (plain[0], forgetful[0], plain[1], forgetful[1])
        rows.append([name, *(f"{number:.0f}" for number in numbers), f"{ratio:.2f}"])
    columns = [
        "change after 10,000 rounds",
        "before: plain",
        "discounted",
        "after: plain",
        "discounted",
        "ratio",
    ]
    harness.show("Regret before and in the 10,000 rounds after a change", columns, rows)
    return figures


Rule = Callable[..., Decision]
Stop = Callable[[ArmTotals, Decision | None], Decision]


def _decided(rule: Rule, totals: ArmTotals, previous: Decision | None) -> Decision:
    return rule(totals, delta=0.05, previous=previous)


def _jeffreys(totals: ArmTotals, *, delta: float, previous: Decision | None) -> Decision:
    """As `decide`, with Jeffreys' prior for each arm (Kaufmann & Koolen, 2021)."""
    del previous
    wins, losses = totals.sum, totals.n - totals.sum
    leader, threshold = int(totals.mean.argmax()), math.log((totals.n_arms - 1) / delta)
    marginal = special.betaln(0.5 + wins, 0.5 + losses) - special.betaln(0.5, 0.5)
    won, lost = wins + wins[leader], losses + losses[leader]
    # Their greatest likelihood with equal means, at the pooled average.
    null = special.xlogy(won, won) + special.xlogy(lost, lost) - special.xlogy(won + lost, won + lost)
    weakest = float(np.delete(marginal + marginal[leader] - null, leader).min())
    if weakest >= threshold:
        return Winner(leader, float(totals.n.sum()), weakest, threshold)
    return Undecided(leader, weakest, threshold)


def _fewest(means: np.ndarray) -> float:
    """Evidence per reward of an even split over that of the optimal shares (Garivier & Kaufmann, 2016)."""
    best = int(means.argmax())

    def weakest(shares: np.ndarray) -> float:
        own, rivals = shares[best], np.delete(shares, best)
        others = np.delete(means, best)
        between = (own * means[best] + rivals * others) / (own + rivals)
        evidence = own * bernoulli_divergence(np.full_like(others, means[best]), between)
        return float((evidence + rivals * bernoulli_divergence(others, between)).min())

    return weakest(np.full(len(means), 1 / len(means))) / weakest(optimal_shares(means))


def _confidence_sequence(means: tuple[float, ...]) -> Rule:
    """Asymptotic confidence sequences of the differences, at delta / (K - 1) each, tuned to the true gap.

    That is, to the effective units at which they tell apart the best two. Other tunings may need less: on A
    2,500 units, on C 500.
    """
    second, best = np.sort(means)[-2:]
    middle = (best + second) / 2

    def rule(totals: ArmTotals, *, delta: float, previous: Decision | None) -> Decision:
        del previous
        alpha, leader = delta / (totals.n_arms - 1), int(totals.mean.argmax())
        tuned_to = units_to_tell(
            best - second, math.sqrt(2 * middle * (1 - middle)), alpha=alpha, alternative="greater"
        )
        n, wins = np.maximum(totals.n, 1), totals.sum
        arms = [MeanTotals(*arm) for arm in zip(n.astype(int), wins / n, wins - wins**2 / n, strict=True)]
        for rival in range(totals.n_arms):
            if rival == leader:
                continue
            try:
                contrast = Contrast.of((arms[rival], arms[leader]))
            except InsufficientData:
                return Undecided(leader, 0.0, 0.0)
            found = difference_sequence(contrast, alpha=alpha, tuned_to=tuned_to, alternative="greater")
            if found.lower <= 0:
                return Undecided(leader, 0.0, 0.0)
        return Winner(leader, float(totals.n.sum()), 0.0, 0.0)

    return rule


def _rules(means: tuple[float, ...]) -> dict[str, tuple[Callable[[ArmTotals], Allocation], Stop, int]]:
    """Allocation, stopping rule, and the most runs; the baselines first."""
    even = fixed([1 / len(means)] * len(means))
    ours = partial(_decided, decide)
    return {
        USUAL: (lambda _: even, partial(_decided, _jeffreys), RUNS),
        PEER: (lambda _: even, partial(_decided, _confidence_sequence(means)), RUNS),
        SAME_RULE: (lambda _: even, ours, RUNS),
        "top two": (
            lambda totals: top_two(BetaArms.from_totals(totals), exploration_floor=0),
            ours,
            RUNS,
        ),
        "track and stop": (lambda totals: track_and_stop(totals, exploration_floor=0.05), ours, TRACKED_RUNS),
    }


def _identification(runs: int) -> dict[str, Any]:
    """Rounds until an arm is declared best at delta = 0.05.

    The baselines split evenly: the usual test takes Jeffreys' prior for each arm, the other one confidence
    sequences of the differences that are tuned to the true gap. `fewest` is the least part of an even split's
    rounds that any allocation needs with the same rule, as delta goes to 0.
    """
    rows, figures = [], {}
    for name, means in IDENTIFIED.items():
        found: dict[str, float] = {}
        for label, (allocate, stop, runs_max) in _rules(means).items():
            few = min(runs, runs_max)
            one = identify(
                Stationary(means),
                allocate,
                stop,
                rounds_max=1_000_000,
                batch=500 if name == "A" else 100,
                runs=few,
                rng=np.random.default_rng(SEED),
            )
            found[label] = float(one.rounds.mean())
            wrong = int((one.arm != int(np.argmax(means))).sum())
            error = one.rounds.std(ddof=1) / np.sqrt(few)
            parts = [found[label] / found.get(base, math.nan) for base in (USUAL, PEER, SAME_RULE)]
            figures[f"{name}: {label}"] = harness.middle([parts[0]])
            if label != USUAL:
                figures[f"{name}: {label}, of the sequence"] = harness.middle([parts[1]])
            rows.append(
                [
                    f"{name}: {label}",
                    f"{found[label]:,.0f} ± {error:,.0f}",
                    *(f"{part:.2f}" for part in (*parts, _fewest(np.array(means)))),
                    f"{wrong} of {few:,}",
                ]
            )
    columns = ["", "rounds", "of the usual test", "of the sequence", "of even, same rule", "fewest", "wrong"]
    harness.show("Rounds to identify the best arm, delta = 0.05", columns, rows)
    return figures


def decision_times() -> dict[str, dict[str, float]]:
    """Time of P(best) without context, and its error against finer panels with scipy's distributions."""
    rows, figures = [], {}
    for n_arms in (2, 10, 50):
        rng = np.random.default_rng(SEED + n_arms)
        size, rate = 10 ** rng.uniform(0, 4, n_arms), rng.uniform(0.2, 0.4, n_arms)
        arms = BetaArms(1 + size * rate, 1 + size * (1 - rate))
        times = []
        for _ in range(200):
            started = perf_counter()
            probability_best(arms)
            times.append((perf_counter() - started) * 1_000)
        error = np.abs(probability_best(arms) - _by_panels(arms)).max()
        figures[f"probability_best_{n_arms}_ms"] = harness.middle(times)
        rows.append([f"P(best) of {n_arms} Beta arms", f"{np.median(times):.3f}", f"{error:.1e}"])
    harness.show("Decision without context", ["", "median ms", "largest error"], rows)
    return {"decision": figures}


def _by_panels(arms: BetaArms) -> np.ndarray:
    own = [stats.beta(alpha, beta) for alpha, beta in zip(arms.alpha, arms.beta, strict=True)]
    tails = np.array([1e-9, 1e-4, 0.02, 0.2, 0.5, 0.8, 0.98, 1 - 1e-4, 1 - 1e-9])
    cuts = np.unique(np.concatenate([[0.0, 1.0], *(beta.ppf(tails).round(9) for beta in own)]))
    nodes, weights = np.polynomial.legendre.leggauss(30)
    half, middle = np.diff(cuts) / 2, (cuts[1:] + cuts[:-1]) / 2
    x, weight = (middle[:, None] + half[:, None] * nodes).ravel(), (half[:, None] * weights).ravel()
    distribution = np.array([beta.cdf(x) for beta in own])
    density = np.array([beta.pdf(x) for beta in own])
    others = [np.delete(distribution, arm, axis=0).prod(axis=0) for arm in range(len(own))]
    return (density * np.array(others) * weight).sum(axis=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--only", nargs="*", default=(), help="parts to run, such as A or change; else all")
    arguments = parser.parse_args()
    decision_times()
    print(json.dumps(measure(runs=arguments.runs, only=arguments.only), indent=1))
