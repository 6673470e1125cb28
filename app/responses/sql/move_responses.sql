-- Move responses to later days of expiry.
WITH moved AS (
    SELECT * FROM unnest(%(keys)s::uuid[], %(days)s::date[]) AS moved (response_key, new_day)
), keys AS (
    UPDATE response_keys
    SET expires_on = moved.new_day
    FROM moved
    WHERE response_keys.response_key = moved.response_key
)
UPDATE responses
SET expires_on = moved.new_day
FROM moved
WHERE responses.expires_on = %(day)s AND responses.response_key = moved.response_key
