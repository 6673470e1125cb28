-- End a backfill: from here on all totals are in the present layout.
WITH finished AS (
    UPDATE backfills SET finished_at = %(now)s, error = NULL WHERE experiment_id = %(experiment_id)s
)
UPDATE experiments SET earlier_layouts = '[]' WHERE id = %(experiment_id)s
