-- Record an event and its runs, and publish their messages if they are given.
--
-- ARGV[3] JSON: key, name, gen, replay, resume, expires, then_id, trace, news
-- ARGV[4] attributes  ARGV[5] data  ARGV[6] message of the fan-in  ARGV[7] number of runs
-- then 9 values for each run (see add_runs in lib.lua), then the number of lists, and for each the
-- name of the list, how many messages, and the messages
-- Returns {status, generation, [id, state, ...], woken}
local m = cjson.decode(ARGV[3])
local e = ekey(m.key)
local known = hash(e)
local count = tonumber(ARGV[7])

local function states(ids)
  local found = {}
  for _, id in ipairs(ids) do
    found[#found + 1] = id
    found[#found + 1] = call('HGET', rkey(id), 's') or 'succeeded'
  end
  return found
end

local generation = 0
if known and not m.replay then
  if tonumber(known.t) + WINDOW > now then
    return {'repeat', tonumber(known.ge), states(cjson.decode(known.r)), woken}
  end
  generation = tonumber(known.g) + 1
elseif known then
  -- the same replay again, whose answer was lost
  if tonumber(known.g) == m.gen and count > 0 and call('EXISTS', rkey(ARGV[8])) == 1 then
    local ids = {}
    for n = 0, count - 1 do ids[#ids + 1] = ARGV[8 + n * 9] end
    return {'new', m.gen, states(ids), woken}
  end
  generation = tonumber(known.g) + 1
end
if generation ~= m.gen then return {'generation', generation, {}, woken} end

local ids = {}
for n = 0, count - 1 do ids[#ids + 1] = ARGV[8 + n * 9] end
if m.replay and known then
  local all = cjson.decode(known.rr or '[]')
  copy(ids, all)
  call('HSET', e, 'g', generation, 'rr', #all == 0 and '[]' or cjson.encode(all))
else
  call('HSET', e, 'v', 1, 'nm', m.name, 'a', ARGV[4], 'd', ARGV[5], 't', f(now), 'g', generation,
    'ge', generation, 'r', #ids == 0 and '[]' or cjson.encode(ids))
  call('HDEL', e, 'ti', 'tm', 'td', 'tr')
  if m.trace then call('HSET', e, 'tr', m.trace) end
  if m.then_id ~= '' then call('HSET', e, 'ti', m.then_id, 'tm', ARGV[6]) end
  index_event(m.key, m.name)
end

-- before its own runs are there: an event cancels none of them
if not m.replay then announce(m.name, ARGV[4], ARGV[5]) end
if m.news then call('ZADD', K .. ':news', f(now), m.key) end

local resume = tonumber(m.resume)
add_runs(8, count, m.key, resume or now + GRACE, generation, nil, tonumber(m.expires), resume)
if count == 0 then
  -- unless runs of an earlier generation are open
  if tonumber(call('HGET', e, 'o') or '0') <= 0 then call('EXPIRE', e, math.ceil(EVENTS) + SLACK) end
  if m.then_id ~= '' then fan_in(m.key) end
end

local at = 8 + count * 9
for _ = 1, tonumber(ARGV[at]) do
  local list, many = ARGV[at + 1], tonumber(ARGV[at + 2])
  for start = 1, many, 5000 do -- Lua's unpack has a limit
    call('LPUSH', list, unpack(ARGV, at + 2 + start, at + 2 + math.min(start + 4999, many)))
  end
  at = at + 2 + many
end
if at > 8 + count * 9 then
  for _, id in ipairs(ids) do
    -- what is gated gets a message too, which its claim refuses
    local r = {id = id, s = call('HGET', rkey(id), 's')}
    if r.s == 'pending' then enter(r, 'published', now + REPUBLISH, 'h', 1) end
  end
end

return {'new', generation, states(ids), woken}
