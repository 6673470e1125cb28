"""Seeded runs of `wald demo` in this process: how often they end with the right winner in words.

The simulated users of the command meet the draws, the ledger's rewards and strata, and the readout
of a server, with a reallocation every quarter of a second. Only engines and sockets are missing.

    python -m benchmarks.demo [--runs N]
"""

import argparse
import heapq
from collections.abc import Iterator
from typing import Final

import numpy as np

from app.cli.limits import DEMO_REQUESTS
from app.cli.traffic import product
from app.experiments.policies import Policy
from benchmarks.validity import SEED_OFFSET, Parts, Row, Simulated, at_least, at_most
from benchmarks.whole_path import Signal, WholePath

BATCH_S: Final = 0.25
RATE: Final = 100
"""Requests per second by default of the command."""


def ended(
    seed: int, *, requests: int = DEMO_REQUESTS, policy: Policy | None = None
) -> tuple[str | None, str]:
    """Return the variant that a run declares the best, and the sentence that says so."""
    definition = product.definition("demo")
    path = WholePath(
        policy or definition.policy, n_variants=len(product.PROMPTS), horizon_s=product.HORIZON_S
    )
    rng = np.random.default_rng([seed, 1])
    due: list[tuple[float, int, int, float]] = []
    batch, now_s, number = round(RATE * BATCH_S), 0.0, 0
    while number < requests or due:
        size = min(batch, requests - number)
        if size:
            served = path.assign(size, round(1e6 * now_s), rng).tolist()
            for variant in served:
                reactions = product.reactions(product.PROMPTS[variant], np.random.default_rng([seed, number]))
                for order, reaction in enumerate(reactions):
                    at_s = now_s + reaction.after_s
                    heapq.heappush(due, (at_s, order, number, product.WORTH[reaction.signal]))
                number += 1
        now_s += BATCH_S
        signals = []
        while due and due[0][0] <= now_s:
            at_s, _, owner, worth = heapq.heappop(due)
            signals.append(Signal(owner, worth, round(1e6 * at_s)))
        path.commit(signals, round(1e6 * now_s))
        path.allocate()
    readout = path.readout(plan=definition.plan)
    leader = readout.leader
    declared = readout.recommendation.action == "ship" and leader is not None and leader.declared
    winner = leader.variant if declared and leader is not None else None
    return winner, readout.recommendation.sentence


def best() -> str:
    """Return the name of the truly best prompt in the simulation."""
    means = [prompt.mean_reward for prompt in product.PROMPTS]
    return f"v{means.index(max(means))}"


def rows(*, full: bool) -> Iterator[Row]:
    """Yield how many runs end with the best prompt declared, and with another one."""
    runs, first = (100, SEED_OFFSET.get()) if full else (10, 0)
    winners = [ended(first + seed)[0] for seed in range(runs)]
    right = sum(winner == best() for winner in winners)
    wrong = sum(winner not in (best(), None) for winner in winners)
    name = "demo: ends with the best prompt declared"
    yield at_least(name, Simulated.share(right / runs, runs), 0.95 if full else 0.7)
    name = "demo: ends with another prompt declared"
    yield at_most(name, Simulated.share(wrong / runs, runs), 0.02 if full else 0.1)


PARTS: Parts = {"wald demo": rows}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    n = parser.parse_args().runs
    results = [ended(first) for first in range(n)]
    print(f"{sum(winner == best() for winner, _ in results)} of {n} runs end with the best prompt declared")
    print(f"{sum(winner not in (best(), None) for winner, _ in results)} end with another one")
    print("For example:", results[0][1])
