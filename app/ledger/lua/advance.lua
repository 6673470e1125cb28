--[[ advance: drop the entries of a shard's stream that the ledger has applied.
  KEYS[1] wald:{shard}:events     stream
  KEYS[2] wald:{shard}:appended   string: events appended
  KEYS[3] wald:{shard}:whole      string: gone when Valkey has lost its data
  ARGV[1] position, the id of the last entry applied ('0-0': none)   ARGV[2] events applied
  Drops entries up to the position and no others. If no entry is behind it, sets the stream's count and last
  id to those of the ledger: after a loss of Valkey's data, new ids below the position would never be read.
  Returns 1 if entries wait behind the position, else 0. Returns -1, and only sets the mark, if data were lost
  and new entries lie before the position: the stream has to be read from the beginning.
  A full Valkey refuses writes but still has to be drained: no write here is needed for that.
  Running it twice is harmless. ]]
local position = ARGV[1]
if redis.call('EXISTS', KEYS[3]) == 0 then
  redis.pcall('SET', KEYS[3], 1)
  if position ~= '0-0' and #redis.call('XRANGE', KEYS[1], '-', position, 'COUNT', 1) > 0 then
    return -1
  end
end
redis.call('XTRIM', KEYS[1], 'MINID', '=', position)
if #redis.call('XRANGE', KEYS[1], '(' .. position, '+', 'COUNT', 1) > 0 then
  return 1
end
if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  redis.pcall('SET', KEYS[2], ARGV[2])
end
if position ~= '0-0' and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XADD', KEYS[1], position, 'k', '')
  redis.call('XDEL', KEYS[1], position)
end
return 0
