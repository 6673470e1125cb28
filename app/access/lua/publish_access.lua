--[[ publish_access: replace what servers load about access, unless it is newer.
  KEYS[1] wald:{registry}:access     hash: revision, body (MessagePack AccessSnapshot)
  KEYS[2] wald:{registry}:revision   counter that servers poll
  ARGV[1] revision   ARGV[2] body   ARGV[3] channel   ARGV[4] message to announce it with
  Returns 1 published, 0 kept a newer one, -1 revision is not a positive integer.
  Absolute values only, so running it twice is harmless. ]]
local revision = tonumber(ARGV[1])
if not revision or revision < 1 or revision % 1 ~= 0 then
  return -1
end
local present = tonumber(redis.call('HGET', KEYS[1], 'revision') or 0)
if revision < present then
  return 0
end
redis.call('HSET', KEYS[1], 'revision', ARGV[1], 'body', ARGV[2])
redis.call('INCR', KEYS[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
