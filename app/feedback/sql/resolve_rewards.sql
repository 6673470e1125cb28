-- Recompute the rewards of `affected` from the log, store what changed and add the differences to the totals.
-- The caller holds the locks of the affected rows. %(silent_until)s: assignments without a signal whose
-- deadline is not after it are silent; silence that was resolved before stays so. Returns the experiments
-- whose totals changed.
--
-- Values become whole billionths of the width of the reward's range before they are combined, so sums are exact
-- and do not depend on the order of events.
WITH rule AS MATERIALIZED (
    SELECT
        id AS experiment_id,
        definition -> 'reward' -> 'signals' AS catalogue,
        definition -> 'reward' ->> 'combine' AS combine,
        (definition -> 'reward' -> 'range' ->> 0)::numeric AS low,
        (definition -> 'reward' -> 'range' ->> 1)::numeric
        - (definition -> 'reward' -> 'range' ->> 0)::numeric AS width,
        round((definition -> 'reward' ->> 'silence')::numeric * 1e9)::integer AS silence
    FROM experiments
    WHERE id IN (SELECT experiment_id FROM affected)
),
before AS MATERIALIZED (
    SELECT assignments.*, affected.counted
    FROM affected
    JOIN assignments USING (experiment_id, unit_hash, id)
),
fact AS (
    SELECT before.id, before.experiment_id, signals.signal, signals.source, signals.at, signals.value
    FROM before
    JOIN signals ON signals.assignment_id = before.id
    WHERE signals.at <= before.deadline
    UNION ALL
    SELECT before.id, before.experiment_id, unit_signals.signal, unit_signals.source, unit_signals.at, unit_signals.value
    FROM before
    JOIN unit_signals USING (experiment_id, unit_hash)
    WHERE before.exposed AND unit_signals.at BETWEEN before.assigned_at AND before.deadline
        AND NOT EXISTS (
            SELECT FROM assignments AS later
            WHERE later.experiment_id = before.experiment_id AND later.unit_hash = before.unit_hash
                AND later.id > before.id AND later.exposed AND later.assigned_at <= unit_signals.at
        )
),
current AS (
    SELECT DISTINCT ON (fact.id, signal, source)
        fact.id, combine, at, value, round(value::numeric * 1e9 / width) AS amount, round(low * 1e9 / width) AS base
    FROM fact
    JOIN rule USING (experiment_id)
    WHERE catalogue ? signal
    ORDER BY fact.id, signal, source, at DESC, value DESC
),
combined AS (
    SELECT
        id,
        least(greatest(
            CASE combine
                WHEN 'sum' THEN sum(amount)
                WHEN 'max' THEN max(amount)
                ELSE (array_agg(amount ORDER BY at DESC, value DESC))[1]
            END - min(base), 0), 1000000000)::integer AS reward
    FROM current
    GROUP BY id, combine
),
resolved AS MATERIALIZED (
    SELECT
        before.*,
        CASE
            WHEN combined.id IS NOT NULL THEN 1
            WHEN before.outcome NOT IN (2, 3) AND before.deadline > %(silent_until)s THEN 0
            WHEN rule.silence IS NULL THEN 3
            ELSE 2
        END AS new_outcome,
        coalesce(combined.reward, rule.silence) AS reward_if_resolved
    FROM before
    JOIN rule USING (experiment_id)
    LEFT JOIN combined ON combined.id = before.id
),
after AS MATERIALIZED (
    SELECT
        experiment_id, unit_hash, id, epoch, variant, exposed, counted, outcome, reward, new_outcome,
        CASE WHEN new_outcome IN (1, 2) THEN reward_if_resolved END AS new_reward
    FROM resolved
),
stored AS (
    UPDATE assignments
    SET outcome = after.new_outcome, reward = after.new_reward
    FROM after
    WHERE assignments.experiment_id = after.experiment_id AND assignments.unit_hash = after.unit_hash
        AND assignments.id = after.id
        AND (after.outcome, after.reward) IS DISTINCT FROM (after.new_outcome, after.new_reward)
),
difference AS (
    SELECT
        experiment_id, epoch, variant,
        count(*) FILTER (WHERE NOT counted) AS assignments,
        count(new_reward) - count(reward) FILTER (WHERE counted) AS rewards,
        count(*) FILTER (WHERE new_outcome = 3) - count(*) FILTER (WHERE outcome = 3 AND counted) AS censored,
        coalesce(sum(new_reward), 0) - coalesce(sum(reward) FILTER (WHERE counted), 0) AS reward_sum,
        coalesce(sum(new_reward::bigint * new_reward), 0)
        - coalesce(sum(reward::bigint * reward) FILTER (WHERE counted), 0) AS reward_square_sum
    FROM after
    WHERE exposed
    GROUP BY experiment_id, epoch, variant
),
added AS (
    INSERT INTO totals (
        experiment_id, epoch, variant, assignments, rewards, censored, reward_sum, reward_square_sum
    )
    SELECT experiment_id, epoch, variant, assignments, rewards, censored, reward_sum, reward_square_sum
    FROM difference
    WHERE (assignments, rewards, censored, reward_sum, reward_square_sum) <> (0, 0, 0, 0, 0)
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
