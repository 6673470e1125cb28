--[[ advance: tell a shard's stream how far the ledger is.
  KEYS[1] wald:{shard}:events     stream
  KEYS[2] wald:{shard}:appended   string: events appended
  ARGV[1] position, the id of the last entry applied ('0-0': none)   ARGV[2] events applied
  Drops what lies before the position, and never anything behind it. When nothing is behind it, the stream's
  count and last id are made to agree with the ledger: after a loss of Valkey's data ids must not begin below
  the position, where nobody would read them.
  Returns 1 if entries wait behind the position, else 0. Running it twice is harmless. ]]
local position = ARGV[1]
redis.call('XTRIM', KEYS[1], 'MINID', '=', position)
if #redis.call('XRANGE', KEYS[1], '(' .. position, '+', 'COUNT', 1) > 0 then
  return 1
end
if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  redis.call('SET', KEYS[2], ARGV[2])
end
if position ~= '0-0' and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XADD', KEYS[1], position, 'k', '')
  redis.call('XDEL', KEYS[1], position)
end
return 0
