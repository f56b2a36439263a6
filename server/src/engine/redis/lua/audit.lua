-- The heads of many rooms of one partition.
-- KEYS  meta and live of each room
-- ARGV  1 replication id  2 ms by which the records' lives are prolonged; 0: not
-- Answers for each room 'stale' if it must be opened anew, else epoch, heads, transients and the newest serial of signals.
local answer = {}
for at = 1, #KEYS, 2 do
  local m = call('HMGET', KEYS[at], 'r', 'e', 'u', 'n', 'b', 'tu', 'tn', 'tb', 'a')
  if m[1] ~= ARGV[1] then
    answer[#answer + 1] = 'stale'
  else
    local serial = call('HGET', KEYS[at + 1], '#')
    answer[#answer + 1] = table.concat({ m[2], m[3], m[4], m[5], m[6], m[7], m[8], serial or 0 }, ' ')
    if ARGV[2] ~= '0' then
      call('PEXPIRE', KEYS[at], int(math.max(tonumber(m[9] or 0), DAY_MS) + tonumber(ARGV[2])), 'GT')
    end
  end
end
return answer
