--[[ probe: whether a shard takes events, asked by writing something that nobody reads.
  KEYS[1] wald:{shard}:events     KEYS[2] wald:{shard}:appended     KEYS[3] wald:{shard}:probe   string
  ARGV[1] what to write
  Returns 1, or the error that an append would get: Valkey is full, a replica, cannot write to its disk, ... ]]
for number, kind in ipairs({'stream', 'string'}) do
  local found = redis.call('TYPE', KEYS[number]).ok
  if found ~= 'none' and found ~= kind then
    return redis.error_reply('WRONGTYPE ' .. KEYS[number] .. ' must be a ' .. kind .. '; it is a ' .. found)
  end
end
redis.call('SET', KEYS[3], ARGV[1])
return 1
