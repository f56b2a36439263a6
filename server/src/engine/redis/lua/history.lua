-- Reads what a page of history may need of each lane.
-- KEYS  1 meta  2 forks  3 4 5 logs of the lanes
-- ARGV  1 replication id  2 now in ms  3 epoch of the cursor (0: no cursor)  4 its order  5 'f' forward or 'b' backward
--       6 lanes, such as 'un'  7 most events of a lane  8 most bytes of a lane, beyond two events
-- Answers 'stale' if the room must be opened anew first; else epoch, order, heads, firsts, orders below which was trimmed,
--   the forks, then for each lane an array of seq, order, record …, in rising order, and last whether it has more.
--   If the cursor is of another epoch no events are read.
local m = call('HMGET', KEYS[1], 'r', 'e', 'o', 'u', 'n', 'b', 'k', 'a')
if m[1] ~= ARGV[1] then return 'stale' end
local now, newest = tonumber(ARGV[2]), tonumber(m[3])
local kept, age = tonumber(m[7] or 2 ^ 53), tonumber(m[8] or 2 ^ 53)
local elsewhere = ARGV[3] ~= '0' and ARGV[3] ~= m[2]
local cursor, forward = tonumber(ARGV[4]), ARGV[5] == 'f'
local heads, firsts, trimmed, lanes = {}, {}, {}, {}
for lane, letter in ipairs(LANES) do
  local log, head = KEYS[2 + lane], tonumber(m[3 + lane])
  local first = first_kept(log, head, kept, age, now)
  heads[lane], firsts[lane], trimmed[lane] = head, first, 0
  if first > 1 then
    local entry = call('XRANGE', log, int(first), '+', 'COUNT', 1)[1]
    trimmed[lane] = entry and tonumber(entry[2][2]) - 1 or newest
  end
  local records, more = {}, 0
  if not elsewhere and string.find(ARGV[6], letter, 1, true) then
    local from, to = first, head
    if ARGV[3] ~= '0' then
      local split = lowest(log, first, head, function(entry)
        local order = tonumber(entry[2][2])
        if forward then return order > cursor else return order >= cursor end
      end)
      if forward then from = split else to = split - 1 end
    end
    local left, bytes, beyond = tonumber(ARGV[7]), 0, 0
    while from <= to do
      if left <= 0 or beyond > 1 then
        more = 1
        break
      end
      local entries
      if forward then
        entries = call('XRANGE', log, int(from), int(to), 'COUNT', math.min(left, 50))
      else
        entries = call('XREVRANGE', log, int(to), int(from), 'COUNT', math.min(left, 50))
      end
      if #entries == 0 then break end
      for _, entry in ipairs(entries) do
        local seq, record = (seq_and_ms(entry[1])), entry[2][4]
        bytes, left = bytes + #record, left - 1
        if bytes > tonumber(ARGV[8]) then beyond = beyond + 1 end
        records[#records + 1] = { seq, tonumber(entry[2][2]), record }
        if forward then from = seq + 1 else to = seq - 1 end
        if beyond > 1 then break end
      end
    end
  end
  local flat = {}
  for at = 1, #records do
    local record = records[forward and at or #records + 1 - at]
    for part = 1, 3 do flat[#flat + 1] = record[part] end
  end
  flat[#flat + 1] = more
  lanes[lane] = flat
end
return { m[2], newest, heads, firsts, trimmed, call('LRANGE', KEYS[2], 0, -1), lanes[1], lanes[2], lanes[3] }
