-- Become the owner of a shard that has none, or whose owner has been silent for too long.
INSERT INTO stream_positions AS held (shard, owner, fence, lease_until)
VALUES (%(shard)s, %(owner)s, 1, now() + %(lease_s)s * interval '1 second')
ON CONFLICT (shard) DO UPDATE
    SET owner = excluded.owner, fence = held.fence + 1, lease_until = excluded.lease_until
    WHERE held.owner IS NULL OR held.owner = excluded.owner OR held.lease_until < now()
RETURNING fence, position, applied
