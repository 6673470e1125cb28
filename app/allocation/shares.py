"""From the totals of each variant to shares, for every policy that looks at nothing else. Pure.

Shares are a function of the totals alone: equal totals, equal bits.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, assert_never

from app.allocation.objective import Moments, constrained
from app.experiments.model import (
    BestArmPolicy,
    ConstrainedThompsonPolicy,
    ContextualPolicy,
    DecreasingEpsilon,
    Definition,
    EpsilonGreedyPolicy,
    Exp3IxPolicy,
    FixedPolicy,
    OptimisticThompsonPolicy,
    PosteriorPolicy,
    SegmentedThompsonPolicy,
    TopTwoPolicy,
    UcbPolicy,
)
from bandits.allocation import Allocation, fixed
from bandits.arms import Arms, BetaArms, GammaArms, NormalArms
from bandits.exp3 import LossTotals, exp3_ix
from bandits.greedy import decreasing_epsilon, epsilon_greedy
from bandits.identification import track_and_stop
from bandits.thompson import optimistic_thompson, thompson, top_two
from bandits.totals import ArmTotals
from bandits.ucb import kl_ucb, kl_ucb_plus, ucb1, ucb1_tuned

_UPPER_BOUNDS: Final[dict[str, Callable[..., Allocation]]] = {
    "ucb1": ucb1,
    "ucb1_tuned": ucb1_tuned,
    "kl_ucb": kl_ucb,
    "kl_ucb_plus": kl_ucb_plus,
}


def shares(  # noqa: PLR0911 - one per policy
    definition: Definition, totals: ArmTotals, losses: LossTotals, moments: Moments
) -> Allocation:
    """What the definition's policy makes of totals of rewards in [0, 1], in the order of the variants.

    `losses` are read by `exp3_ix` alone, `moments` of other metrics by `constrained_thompson` alone.

    Of a policy that reads contexts: what serves where one cannot be read, Thompson sampling. Of `best_arm`:
    what serves until it has decided.
    """
    match definition.policy:
        case FixedPolicy(weights=weights):
            return fixed([weights[variant.key] for variant in definition.variants])
        case PosteriorPolicy() as policy:
            return _matched(policy, definition, _arms(policy, definition, totals), moments)
        case Exp3IxPolicy(exploration_floor=floor, eta=eta):
            return exp3_ix(losses, eta=eta, exploration_floor=floor)
        case UcbPolicy(exploration_floor=floor, index=index, rounds_ahead=rounds_ahead):
            return _UPPER_BOUNDS[index](totals, exploration_floor=floor, rounds_ahead=rounds_ahead)
        case EpsilonGreedyPolicy(epsilon=DecreasingEpsilon(gap=gap, c=c)):
            return decreasing_epsilon(totals, c=c, gap=gap)
        case EpsilonGreedyPolicy(epsilon=float(epsilon)):
            return epsilon_greedy(totals, epsilon=epsilon)
        case BestArmPolicy() as policy:
            return _undecided(policy, totals)
        case ContextualPolicy(exploration_floor=floor) | SegmentedThompsonPolicy(exploration_floor=floor):
            return thompson(BetaArms.from_totals(totals), exploration_floor=floor)
        case EpsilonGreedyPolicy():
            raise AssertionError("epsilon is a number, or decreases")
        case policy:
            assert_never(policy)


def _undecided(policy: BestArmPolicy, totals: ArmTotals) -> Allocation:
    """The split from which the best variant is known soonest."""
    floor = policy.exploration_floor
    if policy.rule == "track_and_stop":
        return track_and_stop(totals, exploration_floor=floor)
    return top_two(BetaArms.from_totals(totals), exploration_floor=floor)


def _matched(policy: PosteriorPolicy, definition: Definition, arms: Arms, moments: Moments) -> Allocation:
    """The probability matching of Thompson sampling and its kin."""
    floor = policy.exploration_floor
    match policy:
        case OptimisticThompsonPolicy(sampling=sampling):
            return optimistic_thompson(arms, sampling=sampling, exploration_floor=floor)
        case ConstrainedThompsonPolicy():
            return constrained(policy, definition, arms, moments)
        case TopTwoPolicy(leader_share=leader_share):
            return top_two(arms, leader_share=leader_share, exploration_floor=floor)
        case _:
            return thompson(arms, exploration_floor=floor)


def _arms(policy: PosteriorPolicy, definition: Definition, totals: ArmTotals) -> Arms:
    """The posteriors that the policy reads."""
    alpha, beta = policy.prior.alpha, policy.prior.beta
    match policy.family:
        case "beta":
            return BetaArms.from_totals(totals, prior_alpha=alpha, prior_beta=beta)
        case "normal":
            squared_deviations = totals.n * totals.variance
            return NormalArms.from_moments(
                totals.n,
                totals.mean,
                squared_deviations,
                prior_mean=alpha / (alpha + beta),
                prior_n=(alpha + beta) / 2,
            )
        case "gamma":
            width = definition.reward.range[1]
            counts = replace(totals, sum=width * totals.sum)
            return GammaArms.from_totals(counts, prior_shape=alpha, prior_rate=beta)
        case posterior:
            assert_never(posterior)
