-- Notes how much of a room is kept, trims a lane, and prolongs the lives of its keys. Called now and then beside appends.
-- KEYS  1 meta  2 log of the lane
-- ARGV  1 replication id  2 now in ms  3 lane  4 events and 5 age in ms that are kept
local m = call('HMGET', KEYS[1], 'r', ARGV[3])
if m[1] ~= ARGV[1] then return 'stale' end
local now, kept, age = tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
call('HSET', KEYS[1], 'k', ARGV[4], 'a', ARGV[5])
call('XTRIM', KEYS[2], 'MAXLEN', '~', ARGV[4])
call('XTRIM', KEYS[2], 'MINID', int(first_kept(KEYS[2], tonumber(m[2]), kept, age, now)))
call('PEXPIRE', KEYS[1], int(math.max(age, DAY_MS) + DAY_MS))
-- A lane without further events goes by itself, some time after the last became too old.
call('PEXPIRE', KEYS[2], int(age + math.min(age, DAY_MS)))
return 'done'
