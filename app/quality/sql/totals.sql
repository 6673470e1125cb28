-- Totals of each variant: sums of six values per unit, and sums of their products.
--
-- a = weight of a judged response, b = weight of one with a human label, c = weight of one with both;
-- f is the judge's score, y the human one. A weight is the inverse of the probabilities of being served
-- this variant, judged, and labelled. Assignments without a stored exposure do not count.
WITH current AS (
    SELECT DISTINCT ON (r.item_id, r.reviewer) r.item_id, r.label
    FROM reviews AS r
    JOIN review_items AS i ON i.id = r.item_id
    WHERE i.experiment_id = :experiment_id AND i.queue = 'sample' AND i.epoch >= :first_epoch
    ORDER BY r.item_id, r.reviewer, r.revision DESC
), digits AS (
    SELECT revision, min(digit::int) AS low, max(digit::int) AS high
    FROM review_settings, jsonb_object_keys(labels) AS digit
    WHERE experiment_id = :experiment_id
    GROUP BY revision
), labelled AS (
    SELECT i.response_key, i.variant, i.unit_hash, i.assignment, 1 / i.inclusion_probability AS w,
           (avg(c.label) - d.low)::float8 / (d.high - d.low) AS y
    FROM current AS c
    JOIN review_items AS i ON i.id = c.item_id
    JOIN digits AS d ON d.revision = i.revision
    WHERE c.label IS NOT NULL
    GROUP BY i.id, d.low, d.high
), judged AS (
    SELECT response_key, variant, unit_hash, assignment, 1 / inclusion_probability AS w, score AS f
    FROM judgements
    WHERE experiment_id = :experiment_id AND version_hash = :version AND state = 'judged'
      AND repetition = 0 AND epoch >= :first_epoch
), responses AS (
    SELECT coalesce(l.variant, j.variant) AS variant, coalesce(l.unit_hash, j.unit_hash) AS unit_hash,
           coalesce(l.assignment, j.assignment) AS assignment,
           l.w AS labelling, j.w AS judging, coalesce(l.y, 0) AS y, coalesce(j.f, 0) AS f
    FROM labelled AS l
    FULL JOIN judged AS j ON j.response_key = l.response_key
), units AS (
    SELECT r.variant, r.unit_hash, count(r.labelling) AS n_labelled, count(r.judging) AS n_judged,
           coalesce(sum(r.judging / s.propensity), 0) AS a,
           coalesce(sum(r.judging * r.f / s.propensity), 0) AS af,
           coalesce(sum(r.labelling / s.propensity), 0) AS b,
           coalesce(sum(r.labelling * r.y / s.propensity), 0) AS bf,
           coalesce(sum(r.judging * r.labelling / s.propensity), 0) AS c,
           coalesce(sum(r.judging * r.labelling * r.f / s.propensity), 0) AS cf
    FROM responses AS r
    JOIN assignments AS s
      ON s.experiment_id = :experiment_id AND s.unit_hash = r.unit_hash AND s.id = r.assignment AND s.exposed
     AND s.propensity > 0
    GROUP BY r.variant, r.unit_hash
)
SELECT variant, count(*) AS units, sum(n_labelled)::bigint AS n_labelled, sum(n_judged)::bigint AS n_judged,
       ARRAY[sum(a), sum(af), sum(b), sum(bf), sum(c), sum(cf)] AS sums,
       ARRAY[
           sum(a * a),
           sum(af * a), sum(af * af),
           sum(b * a), sum(b * af), sum(b * b),
           sum(bf * a), sum(bf * af), sum(bf * b), sum(bf * bf),
           sum(c * a), sum(c * af), sum(c * b), sum(c * bf), sum(c * c),
           sum(cf * a), sum(cf * af), sum(cf * b), sum(cf * bf), sum(cf * c), sum(cf * cf)
       ] AS products
FROM units
GROUP BY variant
