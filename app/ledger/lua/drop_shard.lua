--[[ drop_shard: forget a shard that is no longer used, unless entries wait in it.
  KEYS[1] wald:{shard}:events     stream
  KEYS[2] wald:{shard}:appended   string: events appended
  ARGV[1] position, the id of the last entry applied ('0-0': none)
  Returns 1 if it was dropped, 0 if entries wait behind the position. Running it twice is harmless. ]]
if #redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 1) > 0 then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
