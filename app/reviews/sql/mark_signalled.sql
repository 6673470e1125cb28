-- Note the number of answers that the signal of each item takes in. It never falls.
UPDATE review_items AS i
SET signalled = greatest(i.signalled, sent.answers)
FROM unnest(CAST(:item_ids AS bigint[]), CAST(:answers AS integer[])) AS sent (id, answers)
WHERE i.id = sent.id
