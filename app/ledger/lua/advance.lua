--[[ advance: tell a shard's stream how far the ledger is.
  KEYS[1] wald:{shard}:events     stream
  KEYS[2] wald:{shard}:appended   string: events appended
  KEYS[3] wald:{shard}:whole      string: gone when Valkey has lost its data
  ARGV[1] position, the id of the last entry applied ('0-0': none)   ARGV[2] events applied
  Drops what lies before the position, and never anything behind it. When nothing is behind it, the stream's
  count and last id are made to agree with the ledger: after a loss of Valkey's data ids must not begin below
  the position, where nobody would read them.
  Returns 1 if entries wait behind the position, else 0; -1, having changed nothing else, if data were lost and
  entries that came since lie before the position: they have to be read from the beginning.
  A Valkey that is full must be drained all the same: nothing here has to be written for that.
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
