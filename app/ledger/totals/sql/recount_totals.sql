-- Set the totals of one experiment to what its log gives. The caller's lock keeps the ledger's transactions from adding
-- to totals: this statement sees what they committed before, and they add later changes to its result. Returns the rows
-- that differed: epoch, variant, then the five totals before and after.
WITH counted AS (
    SELECT
        epoch, variant, count(*) AS assignments, count(reward) AS rewards,
        count(*) FILTER (WHERE outcome = 3) AS censored, coalesce(sum(reward), 0) AS reward_sum,
        coalesce(sum(reward::bigint * reward), 0) AS reward_square_sum
    FROM assignments
    WHERE experiment_id = %(experiment_id)s AND exposed
    GROUP BY epoch, variant
),
compared AS (
    SELECT
        epoch, variant,
        ARRAY[
            coalesce(stored.assignments, 0), coalesce(stored.rewards, 0), coalesce(stored.censored, 0),
            coalesce(stored.reward_sum, 0), coalesce(stored.reward_square_sum, 0)
        ]::numeric[] AS before,
        ARRAY[
            coalesce(counted.assignments, 0), coalesce(counted.rewards, 0), coalesce(counted.censored, 0),
            coalesce(counted.reward_sum, 0), coalesce(counted.reward_square_sum, 0)
        ]::numeric[] AS after
    FROM counted
    FULL JOIN (SELECT * FROM totals WHERE experiment_id = %(experiment_id)s) AS stored USING (epoch, variant)
),
difference AS (
    SELECT *
    FROM compared
    WHERE before <> after
),
corrected AS (
    INSERT INTO totals (
        experiment_id, epoch, variant, assignments, rewards, censored, reward_sum, reward_square_sum
    )
    SELECT %(experiment_id)s, epoch, variant, after[1], after[2], after[3], after[4], after[5]
    FROM difference
    ON CONFLICT (experiment_id, epoch, variant) DO UPDATE SET
        assignments = excluded.assignments,
        rewards = excluded.rewards,
        censored = excluded.censored,
        reward_sum = excluded.reward_sum,
        reward_square_sum = excluded.reward_square_sum
)
SELECT epoch, variant, before, after
FROM difference
ORDER BY epoch, variant
