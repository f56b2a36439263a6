-- Common to most scripts. Every script touches the keys of one room, or of rooms of one partition, so one slot.
--
-- meta (hash), the room's own record:
--   v    format of the record: 1
--   r    replication id of the Redis in which this epoch began: another one means that something may be lost
--   e    epoch            o    newest order        u n b     newest seq of each lane
--   k a  retention of the newest append: events and age in ms
--   tu tn tb  transients published in this epoch, by lane
--   w…   watermark of a publisher and lane: the number in 16 digits, then six digits of hours since 1970
-- log (stream): id <seq>-<ms>, fields o (order) and d (the record as nodes made it)
-- forks (list): ended epoch (0: not known), epoch, first seq of each lane, first order, lost_through of each lane,
--   transients of the ended epoch by lane; oldest first
local call, sub, floor, unpack = redis.call, string.sub, math.floor, unpack
local DAY_MS = 86400000
local LANES = { 'u', 'n', 'b' }

-- A number as text: Lua's own conversion keeps 14 digits only.
local function int(number)
  return string.format('%.0f', number)
end

local function seq_and_ms(id)
  local dash = string.find(id, '-', 1, true)
  return tonumber(sub(id, 1, dash - 1)), tonumber(sub(id, dash + 1))
end

-- The lowest seq of from … to for whose entry `holds` is true, or to + 1. It holds for all entries after one for which
-- it holds.
local function lowest(log, from, to, holds)
  while from <= to do
    local middle = floor((from + to) / 2)
    local entry = call('XRANGE', log, int(middle), '+', 'COUNT', 1)[1]
    if not entry or holds(entry) then to = middle - 1 else from = middle + 1 end
  end
  return from
end

-- The lowest seq that retention leaves, or the next one. Streams are trimmed late and in nodes, so more may be there.
local function first_kept(log, head, kept, age, now)
  local entry = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  if not entry then return head + 1 end
  local first, ms = seq_and_ms(entry[1])
  if first < head - kept + 1 then
    first = head - kept + 1
    entry = call('XRANGE', log, int(first), '+', 'COUNT', 1)[1]
    if not entry then return head + 1 end
    first, ms = seq_and_ms(entry[1])
  end
  if ms + age <= now then
    first = lowest(log, first, head, function(entry)
      local _, at = seq_and_ms(entry[1])
      return at + age > now
    end)
  end
  return first
end
