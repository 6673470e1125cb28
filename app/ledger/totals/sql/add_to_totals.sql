-- Add differences to the totals, in key order.
INSERT INTO totals (
    experiment_id, epoch, variant, assignments, rewards, censored, reward_sum, reward_square_sum
)
SELECT *
FROM unnest(
    %(experiment_id)s::integer[], %(epoch)s::integer[], %(variant)s::smallint[], %(assignments)s::bigint[],
    %(rewards)s::bigint[], %(censored)s::bigint[], %(reward_sum)s::bigint[], %(reward_square_sum)s::numeric[]
) AS difference (
    experiment_id, epoch, variant, assignments, rewards, censored, reward_sum, reward_square_sum
)
ORDER BY experiment_id, epoch, variant
ON CONFLICT (experiment_id, epoch, variant) DO UPDATE SET
    assignments = totals.assignments + excluded.assignments,
    rewards = totals.rewards + excluded.rewards,
    censored = totals.censored + excluded.censored,
    reward_sum = totals.reward_sum + excluded.reward_sum,
    reward_square_sum = totals.reward_square_sum + excluded.reward_square_sum
