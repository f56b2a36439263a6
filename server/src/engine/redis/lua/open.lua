-- Says what a room has. If the store may have lost a part of it, a new epoch begins: the only place where one does.
-- KEYS  1 meta  2 forks  3 4 5 logs of the lanes
-- ARGV  1 replication id  2 now in ms  3 random number below 1,024  4 newest epoch that the node saw (0: none), 5 6 7 its
--       first seqs, 8 9 10 the newest seqs that the node saw in it  11 'live', 'order' or 'time'  12 events back, or a time in ms
-- Answers epoch, order, heads, firsts, transients, kept, age, positions asked for, whether an epoch began, then the forks.
local m = call('HMGET', KEYS[1], 'r', 'e', 'o', 'u', 'n', 'b', 'k', 'a', 'tu', 'tn', 'tb')
local epoch, order, now, seen = tonumber(m[2]), tonumber(m[3] or 0), tonumber(ARGV[2]), tonumber(ARGV[4])
local heads = {}
for lane = 1, 3 do heads[lane] = tonumber(m[3 + lane] or 0) end
local kept, age = tonumber(m[7] or 2 ^ 53), tonumber(m[8] or 2 ^ 53)
local transients = { tonumber(m[9] or 0), tonumber(m[10] or 0), tonumber(m[11] or 0) }

local lost = not epoch or m[1] ~= ARGV[1] or seen > epoch
for lane = 1, 3 do
  -- The log went back under the same replication id: this node saw more of it.
  if seen == epoch and tonumber(ARGV[7 + lane]) > heads[lane] then lost = true end
end

if lost then
  for lane = 1, 3 do
    -- The streams outlive a meta that was evicted.
    local last = call('XREVRANGE', KEYS[2 + lane], '+', '-', 'COUNT', 1)[1]
    if last then
      heads[lane] = math.max(heads[lane], (seq_and_ms(last[1])))
      order = math.max(order, tonumber(last[2][2]))
    end
  end
  local time = call('TIME')
  local candidate = (time[1] * 1000 + floor(time[2] / 1000)) * 1024 + tonumber(ARGV[3])
  local former = epoch or 0
  epoch = math.max(candidate, former + 1, seen + 1)
  local fork = { int(former), int(epoch) }
  for lane = 1, 3 do fork[2 + lane] = int(heads[lane] + 1) end
  fork[6] = int(order + 1)
  for lane = 1, 3 do fork[6 + lane] = int(heads[lane]) end
  for lane = 1, 3 do fork[9 + lane] = int(transients[lane]) end
  call('RPUSH', KEYS[2], table.concat(fork, ' '))
  call('LTRIM', KEYS[2], -64, -1)
  transients = { 0, 0, 0 }
  call('HSET', KEYS[1], 'v', 1, 'r', ARGV[1], 'e', int(epoch), 'o', int(order),
    'u', int(heads[1]), 'n', int(heads[2]), 'b', int(heads[3]), 'tu', 0, 'tn', 0, 'tb', 0)
end

local forks = call('LRANGE', KEYS[2], 0, -1)
if seen > 0 and seen ~= epoch then
  -- Take in what the node saw of an epoch that has ended, or that the store has forgotten altogether.
  for at, text in ipairs(forks) do
    local fork = {}
    for number in string.gmatch(text, '%d+') do fork[#fork + 1] = tonumber(number) end
    local former
    if fork[1] ~= seen and fork[2] > seen then
      -- Unknown here. If the store knows no past, it is the past. If it began behind what this fork left standing, all of
      -- it is lost. Else it tells of another past than the one that survived, and stays unknown.
      local fits = true
      for lane = 1, 3 do fits = fits and tonumber(ARGV[4 + lane]) >= fork[2 + lane] end
      if not fits and fork[1] ~= 0 then break end
      if fork[1] ~= 0 then
        former = { int(fork[1]), ARGV[4] }
        for n = 3, 6 do former[n] = int(fork[n]) end
        for lane = 1, 3 do former[6 + lane] = int(fork[2 + lane] - 1) end
        for lane = 1, 3 do former[9 + lane] = '0' end
      end
      fork[1] = seen
    end
    if fork[1] == seen then
      for lane = 1, 3 do fork[6 + lane] = math.max(fork[6 + lane], tonumber(ARGV[7 + lane])) end
      for n = 1, #fork do fork[n] = int(fork[n]) end
      local raised = table.concat(fork, ' ')
      if raised ~= text or former then
        call('LSET', KEYS[2], at - 1, raised)
        if former then call('LINSERT', KEYS[2], 'BEFORE', raised, table.concat(former, ' ')) end
        forks = call('LRANGE', KEYS[2], 0, -1)
      end
      break
    end
  end
end

local answer = { int(epoch), order, heads[1], heads[2], heads[3] }
for lane = 1, 3 do answer[5 + lane] = first_kept(KEYS[2 + lane], heads[lane], kept, age, now) end
for lane = 1, 3 do answer[8 + lane] = transients[lane] end
answer[12], answer[13] = int(kept), int(age)
for lane = 1, 3 do
  local log, first, head = KEYS[2 + lane], answer[5 + lane], heads[lane]
  local at = head + 1
  if ARGV[11] == 'order' then
    local from = order - tonumber(ARGV[12])
    at = lowest(log, first, head, function(entry) return tonumber(entry[2][2]) > from end)
  elseif ARGV[11] == 'time' then
    local since = tonumber(ARGV[12])
    at = lowest(log, first, head, function(entry)
      local _, ms = seq_and_ms(entry[1])
      return ms >= since
    end)
  end
  answer[13 + lane] = at - 1
end
answer[17] = lost and 1 or 0
local ttl = math.max(m[8] and age or 0, DAY_MS) + DAY_MS
call('PEXPIRE', KEYS[1], int(ttl))
call('PEXPIRE', KEYS[2], int(ttl))
for _, fork in ipairs(forks) do answer[#answer + 1] = fork end
return answer
