-- Keep the :reservoir_max candidates with the least points in each reservoir of the rule :rule_id.
DELETE FROM judging_reservoirs AS r
USING (
    SELECT stratum, point, response_key,
           row_number() OVER (PARTITION BY stratum ORDER BY point, response_key) AS place
    FROM judging_reservoirs
    WHERE rule_id = :rule_id
) AS ranked
WHERE r.rule_id = :rule_id
  AND r.stratum = ranked.stratum
  AND r.point = ranked.point
  AND r.response_key = ranked.response_key
  AND ranked.place > :reservoir_max
