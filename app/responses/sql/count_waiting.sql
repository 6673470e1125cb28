-- Number of responses without an assignment, and of signals by response_id in each state.
SELECT 'response', count(*) FROM response_keys WHERE seq IS NULL
UNION ALL
SELECT state, count(response_feedback.state)
FROM unnest(ARRAY['waiting', 'ambiguous', 'refused']) AS states (state)
LEFT JOIN response_feedback USING (state)
GROUP BY state
