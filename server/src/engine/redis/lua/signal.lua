-- Keeps a signal if it is the newest of its key, and passes it on.
-- KEYS  1 live (hash: key → serial in 16 digits, then the record; '#': the newest serial)
-- ARGV  1 key  2 start  3 counter  4 now in ms  5 most keys  6 how long a dead one is remembered, ms  7 channel  8 record
--       9 how long the hash lives, ms
-- Answers 'newest', 'stale' or 'full'.
local function age_and_death(value)
  -- Serial, format, then start, counter and death in eight bytes each.
  return struct.unpack('>I8I8I8', value, 18)
end
local known = call('HGET', KEYS[1], ARGV[1])
if known then
  local start, counter = age_and_death(known)
  local asked_start, asked_counter = tonumber(ARGV[2]), tonumber(ARGV[3])
  if start > asked_start or (start == asked_start and counter >= asked_counter) then return 'stale' end
elseif call('HLEN', KEYS[1]) > tonumber(ARGV[5]) then
  local all, now = call('HGETALL', KEYS[1]), tonumber(ARGV[4])
  for at = 1, #all, 2 do
    if all[at] ~= '#' then
      local _, _, dies = age_and_death(all[at + 1])
      if dies + tonumber(ARGV[6]) <= now then call('HDEL', KEYS[1], all[at]) end
    end
  end
  if call('HLEN', KEYS[1]) > tonumber(ARGV[5]) then return 'full' end
end
local serial = string.format('%016.0f', call('HINCRBY', KEYS[1], '#', 1))
call('HSET', KEYS[1], ARGV[1], serial .. ARGV[8])
call('PEXPIRE', KEYS[1], ARGV[9])
call('PUBLISH', ARGV[7], '1 s ' .. serial .. '\n' .. ARGV[8])
return 'newest'
