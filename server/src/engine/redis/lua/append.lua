-- Judges, numbers, stores and publishes a group of events of one lane of a room, one after the other. Every publish
-- passes here, so numbers become text once, and what can wait is left to tidy.lua.
-- KEYS  1 meta  2 log of the lane  3 idempotency keys (hash)  4 idempotency keys by age (zset): only with events by key
-- ARGV  1 replication id  2 epoch and 3 seq of the lane that the node saw (0: none)  4 lane (u, n or b)  5 now in ms
--       6 channel of the room  7 most bytes to publish of a group; of records above INLINE_RECORD_BYTES_MAX none
--       then four for each event: publisher, number, after, record
--         by number: field of the watermark, the number in 16 digits and hours since 1970 in six, after in 16 digits
--         by key:    API key and key, 'k', 32 bytes of digest
--         else:      '', 'u', ''
-- Answers 'stale' if the room must be opened anew first and nothing was done; else the text
--   '<epoch> <first seq> <first order> <publishers forgotten early> <verdicts>', or an array of it and one text for each
--   verdict r and f. Verdicts, a letter an event: s stored, d duplicate, o out of order, r replayed, c key conflict, f keys full.
local call, sub = redis.call, string.sub
local m
if #ARGV == 11 then
  m = call('HMGET', KEYS[1], 'r', 'e', 'o', ARGV[4], ARGV[8])
else
  local ask = { 'r', 'e', 'o', ARGV[4] }
  for at = 8, #ARGV, 4 do ask[#ask + 1] = ARGV[at] end
  m = call('HMGET', KEYS[1], unpack(ask))
end
local epoch = m[2]
if m[1] ~= ARGV[1] then return 'stale' end
if ARGV[2] == epoch then
  if tonumber(ARGV[3]) > tonumber(m[4]) then return 'stale' end
elseif ARGV[2] ~= '0' and tonumber(ARGV[2]) > tonumber(epoch) then
  return 'stale'
end

-- The usual case of an unloaded room: one event by number, of a publisher that is known, in its turn.
local known = m[5]
if #ARGV == 11 and known and #ARGV[9] == 22 and sub(ARGV[9], 1, 16) > known and ARGV[10] < known then
  local seq, order, record = (m[4] + 1) .. '', (m[3] + 1) .. '', ARGV[11]
  local answer = epoch .. ' ' .. seq .. ' ' .. order .. ' 0 s'
  call('XADD', KEYS[2], seq .. '-' .. ARGV[5], 'o', order, 'd', record)
  call('HSET', KEYS[1], 'o', order, ARGV[4], seq, ARGV[8], ARGV[9])
  local head = '1 e ' .. epoch .. ' ' .. ARGV[4] .. ' ' .. seq .. ' ' .. order .. ' 1\n'
  if #record > INLINE_RECORD_BYTES_MAX then record = '' end
  call('PUBLISH', ARGV[6], head .. record)
  return answer
end

local seq, order = tonumber(m[4]), tonumber(m[3])
local first = (seq + 1) .. ' ' .. (order + 1)
local seq_text, order_text
local suffix = '-' .. ARGV[5]
local stored, marks, count, newcomers = {}, {}, 0, 0
local numbered, extra

local function store(record)
  seq, order, count = seq + 1, order + 1, count + 1
  seq_text, order_text = seq .. '', order .. ''
  call('XADD', KEYS[2], seq_text .. suffix, 'o', order_text, 'd', record)
  stored[count] = record
end

-- Time of first use (13 digits), digest, then what was answered.
local function keyed(key, digest, record)
  local now, day = tonumber(ARGV[5]), 86400000
  extra = extra or {}
  local known = call('HGET', KEYS[3], key)
  if known and tonumber(sub(known, 1, 13)) + day > now then
    if sub(known, 14, 45) ~= digest then return 'c' end
    extra[#extra + 1] = sub(known, 46)
    return 'r'
  end
  local old = call('ZRANGEBYSCORE', KEYS[4], '-inf', now - day, 'LIMIT', 0, 32)
  if #old > 0 then
    call('HDEL', KEYS[3], unpack(old))
    call('ZREM', KEYS[4], unpack(old))
  end
  if call('HLEN', KEYS[3]) >= IDEMPOTENCY_KEYS_MAX then
    local oldest = call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
    extra[#extra + 1] = string.format('%.0f', (tonumber(oldest[2]) or now) + day - now)
    return 'f'
  end
  store(record)
  local answer = epoch .. ' ' .. seq_text .. ' ' .. order_text .. ' ' .. ARGV[4]
  call('HSET', KEYS[3], key, ARGV[5] .. digest .. answer)
  call('ZADD', KEYS[4], now, key)
  call('PEXPIRE', KEYS[3], day * 2)
  call('PEXPIRE', KEYS[4], day * 2)
  return 's'
end

local verdicts, item = {}, 0
for at = 8, #ARGV, 4 do
  local publisher, number, verdict = ARGV[at], ARGV[at + 1], 's'
  item = item + 1
  if number == 'u' then
    store(ARGV[at + 3])
  elseif number == 'k' then
    verdict = keyed(publisher, ARGV[at + 2], ARGV[at + 3])
  else
    -- Numbers of 16 digits compare as texts; the hours behind make an equal one the lesser.
    local mark, after = marks[publisher] or m[4 + item], ARGV[at + 2]
    if mark and sub(number, 1, 16) < mark then
      verdict = 'd'
    elseif after > (mark or '0000000000000000') then
      verdict = 'o'
    else
      if not mark then newcomers = newcomers + 1 end
      marks[publisher], numbered = number, true
      store(ARGV[at + 3])
    end
  end
  verdicts[item] = verdict
end

local evicted = '0'
if count > 0 then
  local set, size = { 'o', order_text, ARGV[4], seq_text }, 4
  if numbered then
    for publisher, number in pairs(marks) do
      set[size + 1], set[size + 2] = publisher, number
      size = size + 2
    end
  end
  call('HSET', KEYS[1], unpack(set))

  -- Each newcomer looks at a few others: what is a day old goes, and of too many the oldest of the sample.
  if newcomers > 0 and call('HLEN', KEYS[1]) > 64 then
    local full = call('HLEN', KEYS[1]) > PUBLISHERS_MAX
    local sample = call('HRANDFIELD', KEYS[1], 4 + 4 * newcomers, 'WITHVALUES')
    local hour, oldest, oldest_hour = math.floor(tonumber(ARGV[5]) / 3600000), nil, nil
    for at = 1, #sample, 2 do
      if sub(sample[at], 1, 1) == 'w' and not marks[sample[at]] then
        local last = tonumber(sub(sample[at + 1], 17))
        if last + 24 < hour then
          call('HDEL', KEYS[1], sample[at])
        elseif full and (not oldest or last < oldest_hour) then
          oldest, oldest_hour = sample[at], last
        end
      end
    end
    if oldest then
      call('HDEL', KEYS[1], oldest)
      evicted = '1'
    end
  end

  -- From the first large one on they are announced only, and read from the log by whoever has subscribers.
  local inline, bytes, bytes_max = 0, 0, tonumber(ARGV[7])
  while inline < count do
    local length = #stored[inline + 1]
    bytes = bytes + length
    if length > INLINE_RECORD_BYTES_MAX or bytes > bytes_max then break end
    inline = inline + 1
  end
  local records = table.concat(stored, '', 1, inline)
  call('PUBLISH', ARGV[6], '1 e ' .. epoch .. ' ' .. ARGV[4] .. ' ' .. first .. ' ' .. count .. '\n' .. records)
end
local answer = epoch .. ' ' .. first .. ' ' .. evicted .. ' ' .. table.concat(verdicts)
if extra then return { answer, unpack(extra) } end
return answer
