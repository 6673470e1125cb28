import math

import numpy as np
import pytest

from app.cli.traffic import product
from app.experiments.checks import check

USERS = 20_000


@pytest.mark.parametrize("prompt", product.PROMPTS, ids=lambda prompt: prompt.key)
def test_the_stated_true_mean_is_what_users_give(prompt):
    """Rewards lie in [0, 1]: by Hoeffding a correct mean fails this with probability below 1e-9."""
    given = [product.reactions(prompt, np.random.default_rng([20261123, user])) for user in range(USERS)]
    rewards = [product.WORTH[reactions[-1].signal] for reactions in given if reactions]
    bound = math.sqrt(math.log(2e9) / (2 * len(rewards)))
    assert abs(np.mean(rewards) - prompt.mean_reward) < bound


def test_reactions_come_in_order_of_time_and_within_the_horizon_nearly_always():
    given = [
        product.reactions(prompt, np.random.default_rng([1, user]))
        for prompt in product.PROMPTS
        for user in range(1_000)
    ]
    assert all(0 <= first.after_s <= last.after_s for first, *_, last in (r for r in given if len(r) > 1))
    assert max(reaction.after_s for reactions in given for reaction in reactions) < product.HORIZON_S


def test_the_demo_experiment_is_a_valid_definition():
    assert check(product.definition("demo")).control_index == 0
