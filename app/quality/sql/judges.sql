-- Judge versions with a score in an experiment, the most trusted first.
SELECT v.name, v.hash AS version, v.trust, count(*) AS judgements, avg(j.cost_usd) AS cost_usd
FROM judgements AS j
JOIN judge_versions AS v ON v.hash = j.version_hash
WHERE j.experiment_id = :experiment_id AND j.state = 'judged' AND j.repetition = 0 AND j.epoch >= :first_epoch
GROUP BY v.name, v.hash, v.trust, v.created_at
ORDER BY array_position(ARRAY['promoted', 'calibrated', 'shadow'], v.trust), count(*) DESC, v.created_at DESC
