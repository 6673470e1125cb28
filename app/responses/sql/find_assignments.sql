-- The assignment of each unit at a time, by the number of the request: the unit's latest exposed assignment that is not
-- after the time or, within the tolerance, its first.
SELECT
    number::integer, assigned.id, assigned.epoch, assigned.policy_version, assigned.variant, assigned.propensity
FROM unnest(%(experiment_ids)s::integer[], %(unit_hashes)s::bigint[], %(times)s::timestamptz[])
    WITH ORDINALITY AS wanted (experiment_id, unit_hash, at, number)
CROSS JOIN LATERAL (
    (
        SELECT id, epoch, policy_version, variant, propensity
        FROM assignments
        WHERE experiment_id = wanted.experiment_id AND unit_hash = wanted.unit_hash AND exposed
            AND assigned_at <= wanted.at
        ORDER BY id DESC
        LIMIT 1
    )
    UNION ALL
    (
        SELECT id, epoch, policy_version, variant, propensity
        FROM assignments
        WHERE experiment_id = wanted.experiment_id AND unit_hash = wanted.unit_hash AND exposed
            AND assigned_at > wanted.at AND assigned_at <= wanted.at + %(tolerance_us)s * interval '1 microsecond'
        ORDER BY id
        LIMIT 1
    )
    LIMIT 1
) AS assigned
