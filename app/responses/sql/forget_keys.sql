-- Delete the oldest addresses whose texts expired before a day.
DELETE FROM response_keys
WHERE response_key IN (
    SELECT response_key
    FROM (SELECT response_key, expires_on FROM response_keys ORDER BY seq LIMIT %(limit)s) AS oldest
    WHERE expires_on < %(before)s
)
