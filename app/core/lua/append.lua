--[[ append: put an entry on the stream of a shard and count its events, both or neither.
  KEYS[1] wald:{shard}:events     stream: k kind, n events inside, b body
  KEYS[2] wald:{shard}:appended   string: events appended since the stream began
  ARGV[1] kind   ARGV[2] n, a positive whole number   ARGV[3] body
  Returns the id of the entry. Not idempotent: the log drops what was appended twice. ]]
local n = tonumber(ARGV[2])
if not n or n < 1 or n ~= math.floor(n) then
  return redis.error_reply('ERR n must be a positive whole number')
end
local id = redis.call('XADD', KEYS[1], '*', 'k', ARGV[1], 'n', ARGV[2], 'b', ARGV[3])
redis.call('INCRBY', KEYS[2], ARGV[2])
return id
