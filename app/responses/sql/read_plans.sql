-- What storing the responses of an experiment depends on: its horizon, its retention, and the signals that it reads.
SELECT id, definition -> 'reward', definition -> 'metrics', definition -> 'responses'
FROM experiments
WHERE id = ANY(%(ids)s)
