-- Store the position of a backfill behind a bounded number of assignments. The number of all of them is counted once.
UPDATE backfills
SET unit_hash = %(unit_hash)s, assignment_id = %(id)s, done = done + %(done)s, error = NULL,
    expected = coalesce(
        expected,
        (SELECT coalesce(sum(assignments), 0) FROM totals WHERE experiment_id = %(experiment_id)s)
    )
WHERE experiment_id = %(experiment_id)s
