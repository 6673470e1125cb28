-- The policies in force in each epoch of some experiments, of those that learn more than the reward totals.
SELECT experiment_id, epoch, policy
FROM epochs
WHERE experiment_id = ANY(%(experiment_ids)s) AND (policy ->> 'kind' = ANY(%(kinds)s) OR policy ? 'forgetting')
