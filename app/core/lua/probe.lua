--[[ probe: check that a shard takes events, by writing a key that no process reads.
  KEYS[1] wald:{shard}:events     KEYS[2] wald:{shard}:appended     KEYS[3] wald:{shard}:probe   string
  ARGV[1] value to write
  Returns 1, or the error of an append: Valkey is full, a replica, cannot write to its disk, ... ]]
for number, kind in ipairs({'stream', 'string'}) do
  local actual = redis.call('TYPE', KEYS[number]).ok
  if actual ~= 'none' and actual ~= kind then
    return redis.error_reply('WRONGTYPE ' .. KEYS[number] .. ' must be a ' .. kind .. '; it is a ' .. actual)
  end
end
redis.call('SET', KEYS[3], ARGV[1])
return 1
