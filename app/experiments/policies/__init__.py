"""The policies. Each is one file of this package and one row of `Policy`.

A policy's class is its JSON, the same in a definition, in `/simulate` and in `/evaluate`; its
methods say how it allocates, what it learns, and what it can be used for (`rule.PolicyRule`).
"""

from typing import Final, get_args

from app.experiments.policies.best_arm import BestArmPolicy
from app.experiments.policies.constrained_thompson import ConstrainedThompsonPolicy
from app.experiments.policies.epsilon_greedy import EpsilonGreedyPolicy
from app.experiments.policies.exp3_ix import Exp3IxPolicy
from app.experiments.policies.fixed import FixedPolicy
from app.experiments.policies.lin_ts import LinTsPolicy
from app.experiments.policies.lin_ucb import LinUcbPolicy
from app.experiments.policies.logistic_ts import LogisticTsPolicy
from app.experiments.policies.optimistic_thompson import OptimisticThompsonPolicy
from app.experiments.policies.rule import PolicyRule
from app.experiments.policies.segmented_thompson import SegmentedThompsonPolicy
from app.experiments.policies.thompson import ThompsonPolicy
from app.experiments.policies.top_two import TopTwoPolicy
from app.experiments.policies.ucb import UcbPolicy

Policy = (
    FixedPolicy
    | ThompsonPolicy
    | OptimisticThompsonPolicy
    | TopTwoPolicy
    | ConstrainedThompsonPolicy
    | UcbPolicy
    | EpsilonGreedyPolicy
    | BestArmPolicy
    | Exp3IxPolicy
    | LinTsPolicy
    | LinUcbPolicy
    | LogisticTsPolicy
    | SegmentedThompsonPolicy
)
"""The rule that turns totals into an allocation, by its `kind`."""

KINDS: Final[dict[str, type[PolicyRule]]] = {
    str(policy.__struct_config__.tag): policy for policy in get_args(Policy)
}
"""The class of each kind of policy."""

__all__ = [
    "KINDS",
    "BestArmPolicy",
    "ConstrainedThompsonPolicy",
    "EpsilonGreedyPolicy",
    "Exp3IxPolicy",
    "FixedPolicy",
    "LinTsPolicy",
    "LinUcbPolicy",
    "LogisticTsPolicy",
    "OptimisticThompsonPolicy",
    "Policy",
    "PolicyRule",
    "SegmentedThompsonPolicy",
    "ThompsonPolicy",
    "TopTwoPolicy",
    "UcbPolicy",
]
