-- Judges, numbers, stores, trims and publishes a group of events of one lane of a room, one after the other.
-- KEYS  1 meta  2 log of the lane  3 idempotency keys (hash)  4 idempotency keys by age (zset)
-- ARGV  1 replication id  2 epoch and 3 seq of the lane that the node saw (0: none)  4 lane (u, n or b)
--       5 events and 6 age in ms that are kept  7 now in ms  8 channel of the room  9 most bytes to publish
--       10 hours since 1970, six digits  11 most publishers  12 most idempotency keys
--       then four for each event: publisher, number, after, record
--         by number: field of the watermark, the number, after
--         by key:    API key and key, 'k', 32 bytes of digest
--         else:      '', 'u', ''
-- Answers 'stale' if the room must be opened anew first and nothing was done; else
--   epoch, first seq, first order, verdicts, publishers forgotten early, then one for each verdict r and f.
--   Verdicts, a letter an event: s stored, d duplicate, o out of order, r replayed, c key conflict, f keys full.
local ask = { 'r', 'e', 'o', ARGV[4], 't', 'k', 'a' }
local FIXED = #ask
for at = 13, #ARGV, 4 do ask[#ask + 1] = ARGV[at] end
local m = call('HMGET', KEYS[1], unpack(ask))
if m[1] ~= ARGV[1] then return 'stale' end
if ARGV[2] == m[2] then
  if tonumber(ARGV[3]) > tonumber(m[4]) then return 'stale' end
elseif tonumber(ARGV[2]) > tonumber(m[2]) then
  return 'stale'
end

local seq, order, now = tonumber(m[4]), tonumber(m[3]), tonumber(ARGV[7])
local first_seq, first_order = seq + 1, order + 1
local marks, texts, newcomers = {}, {}, 0
local verdicts, stored, extra = {}, {}, {}

local function store(record)
  seq, order = seq + 1, order + 1
  local id = seq .. '-' .. ARGV[7]
  if #stored == 0 then
    call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], id, 'o', order, 'd', record)
  else
    call('XADD', KEYS[2], id, 'o', order, 'd', record)
  end
  stored[#stored + 1] = record
end

-- By idempotency key: time of first use (13 digits), digest, then what was answered.
local function keyed(key, digest, record)
  local known = call('HGET', KEYS[3], key)
  if known and tonumber(sub(known, 1, 13)) + DAY_MS > now then
    if sub(known, 14, 45) ~= digest then return 'c' end
    extra[#extra + 1] = sub(known, 46)
    return 'r'
  end
  local old = call('ZRANGEBYSCORE', KEYS[4], '-inf', now - DAY_MS, 'LIMIT', 0, 32)
  if #old > 0 then
    call('HDEL', KEYS[3], unpack(old))
    call('ZREM', KEYS[4], unpack(old))
  end
  if call('HLEN', KEYS[3]) >= tonumber(ARGV[12]) then
    local oldest = call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
    extra[#extra + 1] = int((tonumber(oldest[2]) or now) + DAY_MS - now)
    return 'f'
  end
  store(record)
  local answer = m[2] .. ' ' .. int(seq) .. ' ' .. int(order) .. ' ' .. ARGV[4]
  call('HSET', KEYS[3], key, ARGV[7] .. digest .. answer)
  call('ZADD', KEYS[4], now, key)
  call('PEXPIRE', KEYS[3], DAY_MS * 2)
  call('PEXPIRE', KEYS[4], DAY_MS * 2)
  return 's'
end

local item = 0
for at = 13, #ARGV, 4 do
  item = item + 1
  local publisher, text = ARGV[at], ARGV[at + 1]
  local number = tonumber(text)
  if number then
    local mark = marks[publisher]
    if not mark then
      local known = m[FIXED + item]
      mark = known and tonumber(sub(known, 1, -7)) or 0
    end
    if number <= mark then
      verdicts[item] = 'd'
    elseif tonumber(ARGV[at + 2]) > mark then
      verdicts[item] = 'o'
    else
      if not m[FIXED + item] and not marks[publisher] then newcomers = newcomers + 1 end
      marks[publisher], texts[publisher] = number, text
      store(ARGV[at + 3])
      verdicts[item] = 's'
    end
  elseif text == 'k' then
    verdicts[item] = keyed(publisher, ARGV[at + 2], ARGV[at + 3])
  else
    store(ARGV[at + 3])
    verdicts[item] = 's'
  end
end

local evicted = 0
if #stored > 0 then
  local set = { 'o', order, ARGV[4], seq }
  for publisher, text in pairs(texts) do
    set[#set + 1] = publisher
    set[#set + 1] = text .. ARGV[10]
  end
  if m[6] ~= ARGV[5] or m[7] ~= ARGV[6] then
    set[#set + 1] = 'k'
    set[#set + 1] = ARGV[5]
    set[#set + 1] = 'a'
    set[#set + 1] = ARGV[6]
  end
  if tonumber(m[5] or 0) <= now then
    local age = tonumber(ARGV[6])
    local first = first_kept(KEYS[2], seq, tonumber(ARGV[5]), age, now)
    call('XTRIM', KEYS[2], 'MINID', int(first))
    call('PEXPIRE', KEYS[1], int(math.max(age, DAY_MS) + DAY_MS))
    -- A lane without further events goes by itself, some time after the last became too old.
    call('PEXPIRE', KEYS[2], int(age + math.min(age, DAY_MS)))
    set[#set + 1] = 't'
    set[#set + 1] = int(now + math.max(1000, math.min(age / 16, 600000)))
  end
  call('HSET', KEYS[1], unpack(set))

  -- Each newcomer looks at a few others: what is a day old goes, and of too many the oldest of the sample.
  if newcomers > 0 and call('HLEN', KEYS[1]) > 64 then
    local full = call('HLEN', KEYS[1]) > tonumber(ARGV[11])
    local sample = call('HRANDFIELD', KEYS[1], 4 + 4 * newcomers, 'WITHVALUES')
    local hour, oldest, oldest_hour = tonumber(ARGV[10]), nil, nil
    for at = 1, #sample, 2 do
      if sub(sample[at], 1, 1) == 'w' and not marks[sample[at]] then
        local last = tonumber(sub(sample[at + 1], -6))
        if last + 24 < hour then
          call('HDEL', KEYS[1], sample[at])
        elseif full and (not oldest or last < oldest_hour) then
          oldest, oldest_hour = sample[at], last
        end
      end
    end
    if oldest then
      call('HDEL', KEYS[1], oldest)
      evicted = 1
    end
  end

  local head = '1 e ' .. m[2] .. ' ' .. ARGV[4] .. ' ' .. int(first_seq) .. ' ' .. int(first_order) .. ' ' .. #stored .. '\n'
  local records = table.concat(stored)
  -- Large ones are announced only, and read from the log by whoever has subscribers.
  if #records > tonumber(ARGV[9]) then records = '' end
  call('PUBLISH', ARGV[8], head .. records)
end
return { m[2], first_seq, first_order, table.concat(verdicts), evicted, unpack(extra) }
