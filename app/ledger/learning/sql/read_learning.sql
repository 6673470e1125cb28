-- The policies of the epochs of some experiments that learn more than the reward totals.
SELECT experiment_id, epoch, policy
FROM epochs
WHERE experiment_id = ANY(%(experiment_ids)s) AND (policy ->> 'kind' = ANY(%(kinds)s) OR policy ? 'forgetting')
