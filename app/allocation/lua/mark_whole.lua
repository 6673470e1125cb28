--[[ mark_whole: say that everything which servers load is published.
  KEYS[1] wald:{registry}:filling    token of the worker that refills Valkey; gone if Valkey was emptied meanwhile
  KEYS[2] wald:{registry}:whole      the mark: the token of the worker that set it
  KEYS[3] wald:{registry}:revision   counter that servers poll
  ARGV[1] token   ARGV[2] channel   ARGV[3] message to announce it with
  Returns 1 marked, 0 Valkey was emptied or another worker refills it: nothing was changed. ]]
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[1])
redis.call('INCR', KEYS[3])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
