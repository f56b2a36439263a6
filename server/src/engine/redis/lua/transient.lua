-- Counts transient events of a room and passes one on.
-- KEYS  1 meta
-- ARGV  1 replication id  2 field of the count (tu, tn or tb)  3 channel of the room  4 record; empty: count only
--       5 how many are counted
-- Answers 'stale' if the room must be opened anew first; else epoch and count.
local m = call('HMGET', KEYS[1], 'r', 'e')
if m[1] ~= ARGV[1] then return 'stale' end
local count = call('HINCRBY', KEYS[1], ARGV[2], ARGV[5])
if ARGV[4] ~= '' then
  call('PUBLISH', ARGV[3], '1 t ' .. m[2] .. ' ' .. sub(ARGV[2], 2) .. ' ' .. int(count) .. '\n' .. ARGV[4])
end
return { m[2], count }
