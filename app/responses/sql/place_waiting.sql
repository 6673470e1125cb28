-- Give responses the assignments that were found for them, and their places in the order.
WITH given AS (
    SELECT *
    FROM unnest(
        %(keys)s::uuid[], %(days)s::date[], %(bodies)s::bytea[], %(assignments)s::uuid[], %(epochs)s::integer[],
        %(variants)s::smallint[]
    ) AS given (response_key, expires_on, body, assignment, epoch, variant)
), placed AS (
    UPDATE response_keys
    SET assignment = given.body, seq = nextval('response_seq')
    FROM given
    WHERE response_keys.response_key = given.response_key AND response_keys.seq IS NULL
)
UPDATE responses
SET assignment = given.assignment, epoch = given.epoch, variant = given.variant
FROM given
WHERE responses.expires_on = given.expires_on AND responses.response_key = given.response_key
