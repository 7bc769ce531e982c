-- Record an event and its runs, and publish their messages if they are given.
-- args: event attributes data then_message runs lists...
--   event: JSON: key, name, gen, replay, nonce, resume, expires, then_id, trace, news
--   then_message: of the fan-in
--   runs: JSON of them, see add_runs in lib.lua
--   lists: messages, see push in lib.lua; after them those that the runs name by their place here
-- Returns {status, generation, "state state ..." of the runs, woken, their ids if they are not those given}
local m = cjson.decode(event)
local e = ekey(m.key)
local recorded = hash(e)
runs = cjson.decode(runs)
local ids = {}
for n, run in ipairs(runs) do ids[n] = run[1] end

local function states(of)
  local texts = {}
  for n, id in ipairs(of) do texts[n] = call('HGET', rkey(id), 's') or 'succeeded' end
  return table.concat(texts, ' ')
end

local generation = 0
if recorded and not m.replay then
  if tonumber(recorded.t) + WINDOW > now then
    local first = cjson.decode(read_text(m.key) or '[]')
    return {'repeat', tonumber(recorded.ge), states(first), woken, first}
  end
  generation = tonumber(recorded.g) + 1
elseif recorded then
  -- the same replay again, whose answer was lost
  if tonumber(recorded.g) == m.gen and (recorded.rn or '') == m.nonce and #ids > 0 and call('EXISTS', rkey(ids[1])) == 1 then
    return {'new', m.gen, states(ids), woken}
  end
  generation = tonumber(recorded.g) + 1
end
if generation ~= m.gen then return {'generation', generation, '', woken, {}} end

if m.replay and recorded then
  local all = cjson.decode(recorded.rr or '[]')
  copy(ids, all)
  call('HSET', e, 'g', generation, 'rn', m.nonce, 'rr', #all == 0 and '[]' or cjson.encode(all))
else
  call('HSET', e, 'v', 1, 'nm', m.name, 't', f(now), 'g', generation, 'ge', generation)
  if recorded then call('HDEL', e, 'ti', 'tm', 'td', 'rn') end
  if m.then_id ~= '' then call('HSET', e, 'ti', m.then_id, 'tm', then_message) end
  index_event(m.key, m.name)
end

-- before its own runs are there: an event cancels none of them
if not m.replay then announce(m.name, attributes, data) end
if m.news then call('ZADD', K .. ':news', f(now), m.key) end

local resume = tonumber(m.resume)
local published = tonumber(lists[1]) > 0
local due = published and now + REPUBLISH or resume or now + GRACE
if m.expires then due = math.min(due, tonumber(m.expires)) end
local _, new_states, opened, joined = add_runs(runs, m.key, due, generation,
  {expires = tonumber(m.expires), resume = resume, published = published, replay = m.replay, lists = lists})
for n, id in pairs(joined) do ids[n] = id end
if not m.replay or not recorded then
  write_text(m.key, #ids == 0 and '[]' or cjson.encode(ids), attributes, m.trace or '', data)
end
local at_rest = opened == 0 and tonumber(call('HGET', e, 'o') or '0') <= 0 -- else earlier runs are open
if #ids == 0 then
  if at_rest then expire_event(m.key, math.ceil(math.max(EVENTS, WINDOW)) + SLACK) end
  if m.then_id ~= '' then fan_in(m.key) end
elseif at_rest then -- all were dropped
  rest_event(m.key)
  fan_in(m.key)
end
if flowing then flowing.finish(cancel) end

-- what is gated gets a message too, which its claim refuses
push(lists)

return {'new', generation, table.concat(new_states, ' '), woken, next(joined) and ids or nil}
