"""Regret of Thompson sampling with and without segments. `python -m benchmarks.segments [RUNS]`.

The log-odds of a reward are the sum of three normal terms: the arm, the effect of the segment on
all arms, and an interaction. Three policies play the same requests with the same rewards. One
ignores segments, one learns each segment separately, and one pools them partially.
"""

import sys
from collections.abc import Callable
from statistics import mean, stdev
from typing import Final, NamedTuple

from numpy.random import Generator, default_rng
from scipy import special

from bandits.arms import BetaArms
from bandits.features import IntArray
from bandits.segments import partially_pooled
from bandits.totals import FloatArray
from benchmarks.harness import show
from stats.totals import RewardTotals

REQUESTS: Final = 1_500
BATCH: Final = 25
SEED: Final = 20260400
ARM_DEVIATION: Final = 0.3

Totals = list[list[RewardTotals]]


class Environment(NamedTuple):
    """Numbers of segments and arms, and the deviations of effects and interactions in log-odds."""

    segments: int
    arms: int
    effect: float
    interaction: float

    def rates(self, rng: Generator) -> FloatArray:
        """Draw the rate of each arm in each segment, shape (segments, arms)."""
        logit = rng.normal(0, ARM_DEVIATION, self.arms) + rng.normal(0, self.effect, (self.segments, 1))
        rates: FloatArray = special.expit(logit + rng.normal(0, self.interaction, (self.segments, self.arms)))
        return rates


ENVIRONMENTS: Final = {
    "2 segments that do not matter, 6 arms": Environment(2, 6, 0.0, 0.0),
    "5 segments that do not matter, 4 arms": Environment(5, 4, 0.0, 0.0),
    "2, one better for all of 6 arms": Environment(2, 6, 0.6, 0.0),
    "5, better and worse for all of 4 arms": Environment(5, 4, 0.8, 0.0),
    "2, one better, and 6 arms in another order": Environment(2, 6, 0.6, 0.4),
    "5, 4 arms in another order": Environment(5, 4, 0.0, 0.5),
}


def without(totals: Totals) -> list[BetaArms]:
    """Return the arms of all segments together, for each segment."""
    together = [sum(arm, start=RewardTotals()) for arm in zip(*totals, strict=True)]
    return [BetaArms.from_totals(together)] * len(totals)


def apart(totals: Totals) -> list[BetaArms]:
    """Return the arms of each segment separately."""
    return [BetaArms.from_totals(arms) for arms in totals]


def pooled(totals: Totals) -> list[BetaArms]:
    """Return the arms of each segment, partially pooled."""
    return list(partially_pooled(totals).segments)


POLICIES: Final[dict[str, Callable[[Totals], list[BetaArms]]]] = {
    "without": without,
    "apart": apart,
    "pooled": pooled,
}


def regret(rates: FloatArray, posterior: Callable[[Totals], list[BetaArms]], rng: Generator) -> float:
    """Return the expected regret; segments are equally frequent."""
    segments: IntArray = rng.integers(0, len(rates), REQUESTS)
    # Draw rewards before the arms, so that all policies meet the same.
    rewards = rng.random((REQUESTS, 1)) < rates[segments]
    totals = [[RewardTotals()] * rates.shape[1] for _ in rates]
    arms = posterior(totals)
    lost = 0.0
    for request, segment in enumerate(segments):
        arm = int(arms[segment].draw(rng, 1)[0].argmax())
        reward = float(rewards[request, arm])
        totals[segment][arm] += RewardTotals(1, reward, reward)
        lost += rates[segment].max() - rates[segment, arm]
        if (request + 1) % BATCH == 0:
            arms = posterior(totals)
    return lost


def main(runs: int) -> None:
    """Play all environments; print mean regrets, and the gain of pooling over no segments."""
    rows = []
    for name, environment in ENVIRONMENTS.items():
        lost: dict[str, list[float]] = {policy: [] for policy in POLICIES}
        for run in range(runs):
            rates = environment.rates(default_rng(SEED + run))
            for policy, posterior in POLICIES.items():
                lost[policy].append(regret(rates, posterior, default_rng((SEED, run))))
        saved = [pooled - plain for pooled, plain in zip(lost["pooled"], lost["without"], strict=True)]
        rows.append([name, *(f"{mean(regrets):.1f}" for regrets in lost.values()), f"{mean(saved):+.1f}"])
        rows[-1].append(f"{stdev(saved) / runs**0.5:.1f}")
        print(*rows[-1], flush=True)
    show("Regret in segments", ["environment", *POLICIES, "pooled - without", "error"], rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
