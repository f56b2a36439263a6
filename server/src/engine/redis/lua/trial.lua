-- Tries every command that the other scripts use, on keys that are gone after a second.
-- KEYS  1 hash  2 zset  3 list  4 stream  5 channel
-- Answers what Redis refused, as 'COMMAND: its words'.
local refusals = {}
local function try(...)
  local answer = redis.pcall(...)
  -- A memory that is full refuses commands to those who have the right, too.
  if type(answer) == 'table' and answer.err and not string.find(answer.err, 'OOM', 1, true) then
    refusals[#refusals + 1] = (...) .. ': ' .. answer.err
  end
end
local hash, zset, list, stream, channel = unpack(KEYS)

try('TIME')
try('HSET', hash, 'a', 1)
try('HINCRBY', hash, 'a', 1)
try('HGET', hash, 'a')
try('HMGET', hash, 'a', 'b')
try('HGETALL', hash)
try('HLEN', hash)
try('HRANDFIELD', hash, 1, 'WITHVALUES')
try('HDEL', hash, 'b')
try('ZADD', zset, 1, 'a')
try('ZRANGE', zset, 0, 0, 'WITHSCORES')
try('ZRANGEBYSCORE', zset, '-inf', 1, 'LIMIT', 0, 1)
try('ZREM', zset, 'b')
try('RPUSH', list, 'a')
try('LSET', list, 0, 'a')
try('LINSERT', list, 'BEFORE', 'a', 'b')
try('LRANGE', list, 0, -1)
try('LTRIM', list, 0, -1)
try('XADD', stream, 'MAXLEN', '~', 10, '*', 'a', 1)
try('XRANGE', stream, '-', '+', 'COUNT', 1)
try('XREVRANGE', stream, '+', '-', 'COUNT', 1)
try('XTRIM', stream, 'MINID', 1)
try('SADD', channel, 'a')
try('SMEMBERS', channel)
try('PUBLISH', channel, '')
for _, key in ipairs({ hash, zset, list, stream, channel }) do
  try('PEXPIRE', key, 1000)
end
return refusals
