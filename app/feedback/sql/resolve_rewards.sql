-- Recompute the rewards of the locked assignments from the log, store what changed and add the differences, and
-- the newly exposed, to the totals. %(silent_until)s: an assignment without a signal is silent when its deadline is not after it; silence
-- that was resolved before stays so. Returns the experiments whose totals changed.
--
-- Values become whole billionths of the width of the reward's range before they are combined: sums are exact and
-- do not depend on the order of events. No join on anything computed here, whose size the planner cannot know.
WITH rule AS MATERIALIZED (
    SELECT
        id AS experiment_id,
        (definition -> 'reward' -> 'signals')::jsonb AS catalogue,
        definition -> 'reward' ->> 'combine' AS combine,
        width,
        round(low * 1e9 / width) AS lowest,
        round((definition -> 'reward' ->> 'silence')::numeric * 1e9)::integer AS silence
    FROM experiments
    CROSS JOIN LATERAL (SELECT (definition -> 'reward' -> 'range' ->> 0)::numeric AS low) AS range_start
    CROSS JOIN LATERAL (SELECT (definition -> 'reward' -> 'range' ->> 1)::numeric - low AS width) AS range_width
    WHERE id IN (SELECT experiment_id FROM locked)
),
current AS (
    -- One value per assignment, signal and source: the newest. An assignment without signals is one row of nulls.
    SELECT DISTINCT ON (place, signal, source)
        locked.*, combine, silence, lowest, given.at, value, round(value::numeric * 1e9 / width) AS amount
    FROM locked
    JOIN rule USING (experiment_id)
    LEFT JOIN LATERAL (
        SELECT signal, source, at, value
        FROM signals
        WHERE assignment_id = locked.id AND at <= locked.deadline
        UNION ALL
        SELECT signal, source, at, value
        FROM unit_signals
        WHERE experiment_id = locked.experiment_id AND unit_hash = locked.unit_hash AND locked.exposed
            AND at BETWEEN locked.assigned_at AND locked.deadline
            AND NOT EXISTS (
                SELECT FROM assignments AS later
                WHERE later.experiment_id = locked.experiment_id AND later.unit_hash = locked.unit_hash
                    AND later.id > locked.id AND later.exposed AND later.assigned_at <= unit_signals.at
            )
    ) AS given ON catalogue ? signal
    ORDER BY place, signal, source, at DESC, value DESC
),
combined AS (
    SELECT
        place, experiment_id, epoch, variant, exposed, counted, outcome, reward, deadline, silence, lowest,
        CASE combine
            WHEN 'sum' THEN sum(amount)
            WHEN 'max' THEN max(amount)
            ELSE (array_agg(amount ORDER BY at DESC, value DESC))[1]
        END AS amount
    FROM current
    GROUP BY
        place, experiment_id, epoch, variant, exposed, counted, outcome, reward, deadline, silence, lowest,
        combine
),
resolved AS MATERIALIZED (
    SELECT
        place, experiment_id, epoch, variant, exposed, counted, outcome, reward,
        CASE
            WHEN amount IS NOT NULL THEN 1
            WHEN outcome NOT IN (2, 3) AND deadline > %(silent_until)s THEN 0
            WHEN silence IS NOT NULL THEN 2
            ELSE 3
        END AS new_outcome,
        CASE
            WHEN amount IS NOT NULL THEN least(greatest(amount - lowest, 0), 1000000000)::integer
            WHEN outcome IN (2, 3) OR deadline <= %(silent_until)s THEN silence
        END AS new_reward
    FROM combined
),
stored AS (
    UPDATE assignments
    SET outcome = new_outcome, reward = new_reward
    FROM resolved
    WHERE assignments.ctid = place
        AND (resolved.outcome, resolved.reward) IS DISTINCT FROM (new_outcome, new_reward)
),
difference AS (
    SELECT
        experiment_id, epoch, variant, 0 AS assignments,
        count(new_reward) - count(reward) FILTER (WHERE counted) AS rewards,
        count(*) FILTER (WHERE new_outcome = 3) - count(*) FILTER (WHERE outcome = 3 AND counted) AS censored,
        coalesce(sum(new_reward), 0) - coalesce(sum(reward) FILTER (WHERE counted), 0) AS reward_sum,
        coalesce(sum(new_reward::bigint * new_reward), 0)
        - coalesce(sum(reward::bigint * reward) FILTER (WHERE counted), 0) AS reward_square_sum
    FROM resolved
    WHERE exposed
    GROUP BY experiment_id, epoch, variant
    UNION ALL
    SELECT experiment_id, epoch, variant, count(*), 0, 0, 0, 0
    FROM newly_exposed
    GROUP BY experiment_id, epoch, variant
),
added AS (
    INSERT INTO totals (
        experiment_id, epoch, variant, assignments, rewards, censored, reward_sum, reward_square_sum
    )
    SELECT
        experiment_id, epoch, variant, sum(assignments), sum(rewards), sum(censored), sum(reward_sum),
        sum(reward_square_sum)
    FROM difference
    WHERE (assignments, rewards, censored, reward_sum, reward_square_sum) <> (0, 0, 0, 0, 0)
    GROUP BY experiment_id, epoch, variant
    ORDER BY experiment_id, epoch, variant
    ON CONFLICT (experiment_id, epoch, variant) DO UPDATE SET
        assignments = totals.assignments + excluded.assignments,
        rewards = totals.rewards + excluded.rewards,
        censored = totals.censored + excluded.censored,
        reward_sum = totals.reward_sum + excluded.reward_sum,
        reward_square_sum = totals.reward_square_sum + excluded.reward_square_sum
    RETURNING experiment_id
)
INSERT INTO publications (experiment_id)
SELECT DISTINCT experiment_id
FROM added
ORDER BY experiment_id
ON CONFLICT (experiment_id) DO UPDATE SET wanted = publications.wanted + 1
RETURNING experiment_id
