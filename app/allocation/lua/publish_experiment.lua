--[[ publish_experiment: replace what servers load about an experiment, unless something newer is there.
  KEYS[1] wald:{registry}:experiments   hash: experiment key -> MessagePack PublishedExperiment
  KEYS[2] wald:{registry}:versions      hash: experiment key -> its version
  KEYS[3] wald:{registry}:revision      counter that servers poll
  ARGV[1] experiment key   ARGV[2] version   ARGV[3] body   ARGV[4] channel to announce the key on; empty: no announcement
  ARGV[5] a newer version to replace all the same: PostgreSQL no longer knows it; 0: none
  Returns 1 published, 2 the same is there already, 0 kept a newer one, -1 a version is not a whole number.
  Absolute values only, so running it twice is harmless. ]]
local version, disowned = tonumber(ARGV[2]), tonumber(ARGV[5])
if not version or not disowned or version < 1 or version % 1 ~= 0 or disowned % 1 ~= 0 then
  return -1
end
local present = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0)
if present > version and present ~= disowned then
  return 0
end
if present == version and redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[3] then
  return 2
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('INCR', KEYS[3])
if ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[4], ARGV[1])
end
return 1
