-- Responses of a day of expiry that are needed longer, with their new day: those of experiments that now keep texts for
-- longer, and held ones, which are looked at again tomorrow.
SELECT response_key, new_day
FROM (
    SELECT
        responses.response_key,
        greatest(
            CASE WHEN held.response_key IS NOT NULL THEN %(today)s::date + 1 END,
            (responses.received_at AT TIME ZONE 'UTC')::date + plans.days + 1
        ) AS new_day
    FROM responses
    LEFT JOIN unnest(%(experiment_ids)s::integer[], %(days)s::integer[]) AS plans (experiment_id, days)
        USING (experiment_id)
    LEFT JOIN (SELECT DISTINCT response_key FROM response_holds) AS held USING (response_key)
    WHERE responses.expires_on = %(day)s
) AS days
WHERE new_day > %(today)s
