-- Revokes, lifts, or takes what a node knew of a revocation, and forgets those that have ended.
-- KEYS  1 revocations (hash: subject → changed issued_through until lifted; '#': the newest serial)
--       2 their serials (zset)  3 their ends (zset)
-- ARGV  1 now in ms  2 most subjects  3 'change', or 'known': only if it is newer
--       4 subject  5 changed  6 issued through, ms  7 until, ms  8 lifted: 0 or 1
-- Answers what holds now, as in the hash, or 'full'.
for _ = 1, 10 do
  local ended = call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[1], 'LIMIT', 0, 100)
  if #ended == 0 then break end
  call('HDEL', KEYS[1], unpack(ended))
  call('ZREM', KEYS[2], unpack(ended))
  call('ZREM', KEYS[3], unpack(ended))
end
local changed, issued, ends, lifted = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local known = call('HGET', KEYS[1], ARGV[4])
if known then
  local was_changed, was_issued, was_ends, was_lifted = string.match(known, '^(%d+) (%d+) (%d+) (%d)$')
  was_changed = tonumber(was_changed)
  if ARGV[3] == 'known' then
    if changed <= was_changed then return known end
  else
    changed = math.max(changed, was_changed + 1)
    if lifted == '1' or was_lifted == '0' then
      issued = math.max(issued, tonumber(was_issued))
      ends = math.max(ends, tonumber(was_ends))
    end
  end
elseif call('HLEN', KEYS[1]) > tonumber(ARGV[2]) then
  return 'full'
end
local serial = call('HINCRBY', KEYS[1], '#', 1)
local holds = int(changed) .. ' ' .. int(issued) .. ' ' .. int(ends) .. ' ' .. lifted
call('HSET', KEYS[1], ARGV[4], holds)
call('ZADD', KEYS[2], serial, ARGV[4])
call('ZADD', KEYS[3], ends, ARGV[4])
return holds
