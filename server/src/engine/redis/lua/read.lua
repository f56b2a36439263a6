-- Reads one lane of a room.
-- KEYS  1 meta  2 log of the lane
-- ARGV  1 replication id  2 now in ms  3 lane  4 seq after which to read  5 most events  6 most bytes beyond the first event
-- Answers 'stale' if the room must be opened anew first; else epoch, first seq, head, then seq, order and record of each event.
local m = call('HMGET', KEYS[1], 'r', 'e', ARGV[3], 'k', 'a')
if m[1] ~= ARGV[1] then return 'stale' end
local head = tonumber(m[3])
local first = first_kept(KEYS[2], head, tonumber(m[4] or 2 ^ 53), tonumber(m[5] or 2 ^ 53), tonumber(ARGV[2]))
local from, left, bytes = math.max(tonumber(ARGV[4]) + 1, first), tonumber(ARGV[5]), 0
local answer = { m[2], first, head }
while left > 0 and from <= head do
  local entries = call('XRANGE', KEYS[2], int(from), int(head), 'COUNT', math.min(left, 50))
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    local seq, record = (seq_and_ms(entry[1])), entry[2][4]
    bytes = bytes + #record
    if #answer > 3 and bytes > tonumber(ARGV[6]) then return answer end
    answer[#answer + 1] = seq
    answer[#answer + 1] = tonumber(entry[2][2])
    answer[#answer + 1] = record
    from, left = seq + 1, left - 1
  end
end
return answer
