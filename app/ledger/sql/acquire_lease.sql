-- Become the owner of a shard without an owner, of a shard whose owner's session has ended, or of a shard whose row has
-- not changed since the caller read it so long ago that its owner must have stopped. No clock is compared.
INSERT INTO stream_positions AS held (shard, owner, fence, lease_until, session)
SELECT %(shard)s, %(owner)s, 1, %(until)s, pid || '/' || extract(epoch FROM backend_start)
FROM pg_stat_activity
WHERE pid = pg_backend_pid()
ON CONFLICT (shard) DO UPDATE
    SET owner = excluded.owner, fence = held.fence + 1, lease_until = excluded.lease_until, session = excluded.session
    WHERE held.owner IS NULL
        OR held.owner = excluded.owner
        OR (held.fence = %(stalled_fence)s AND held.lease_until = %(stalled_until)s)
        OR NOT EXISTS (
            SELECT FROM pg_stat_activity AS a
            WHERE a.pid::text = split_part(held.session, '/', 1)
                -- Null: the session belongs to another role, whose sessions this role may not read.
                AND coalesce(extract(epoch FROM a.backend_start)::text = split_part(held.session, '/', 2), true)
        )
RETURNING fence, position, applied
