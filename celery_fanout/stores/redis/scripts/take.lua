-- Collect what is due, to be published.
-- args: limit grace ids...
--   grace: "1": leave running ones alone
--   ids: none for all
-- Returns {now, next due or false, [ended ...],
--   [id, kind, subscription, event, attributes, data, retries, message, generation, trace, ...],
--   [id, JSON of the keys of the events that it collected, ...], 1 if throttles let in runs now}
limit, grace = tonumber(limit), grace == '1'
local due_key = K .. ':due'
local due, of_all = {}, #ids == 0
if not of_all then
  local seen = {}
  for _, id in ipairs(ids) do
    local score = not seen[id] and call('ZSCORE', due_key, id)
    if score and tonumber(score) <= now + 0.000001 then due[#due + 1] = id end
    seen[id] = true
  end
else
  if limit > 0 and call('EXISTS', K .. ':gates') == 1 then flow().pump_due() end
  due = call('ZRANGEBYSCORE', due_key, '-inf', f(now), 'LIMIT', 0, limit)
end
local ended, out, events, collected = {}, {}, {}, {}
local function text(key)
  if not events[key] then events[key] = {read_text(key)} end
  return unpack(events[key])
end
for _, id in ipairs(due) do
  local r = rec(id)
  if not r or FINAL[r.s] then
    call('ZREM', due_key, id)
  elseif grace and (r.s == 'running' or r.s == 'completing') then
    call('ZADD', due_key, f(now + LEASE), id)
  elseif r.s == 'completing' then
    finalise(r, 'succeeded', '')
  elseif r.o and not r.a and tonumber(r.o) <= now then
    finalise(r, 'cancelled', r.os and 'start_timeout' or 'expired')
    ended[#ended + 1] = id
  elseif r.fd and tonumber(r.fd) <= now then
    cancel(id, 'finish_timeout', ended)
  elseif r.s == 'running' and not r.rl and crash(r, 'Its lease was over.') then
    ended[#ended + 1] = id
  elseif r.i == 'inf' then
    call('ZADD', due_key, f(math.min(now + 86400, tonumber(r.fd or 'inf'))), id)
  elseif r.fl and r.s ~= 'running' and not flow().ready(r) then -- it is gated
  else
    if r.s == 'running' and r.rl then log_attempt(r, 'released', '') end
    enter(r, 'pending', now + GRACE)
    drop(r, 'b', 'y', 'w', 'i', 'rl')
    local keys = r.cl and concerned(r)
    local _, attributes, traced, data = text(keys and keys[#keys] or r.e)
    if keys then
      if r.cl == 'batch' then
        local list = {}
        for _, key in ipairs(keys) do list[#list + 1] = select(4, text(key)) end
        data = '[' .. table.concat(list, ',') .. ']'
      end
      collected[#collected + 1], collected[#collected + 2] = id, cjson.encode(keys)
    end
    local message, trace = unpack(call('HMGET', dkey(id), 'M', 'T'))
    copy({id, r.k, call('HGET', K .. ':subs', r.u) or '', r.e, attributes or '', data or '',
      r.r or '0', message or '', r.g or '0', trace or traced or ''}, out)
  end
end
local next_due = call('ZRANGE', due_key, 0, 0, 'WITHSCORES')[2]
local gate = call('ZRANGE', K .. ':gates', 0, 0, 'WITHSCORES')[2]
if gate and (not next_due or tonumber(gate) < tonumber(next_due)) then next_due = gate end
local busy = of_all and tonumber(call('GET', K .. ':busy') or '0') > now and 1 or 0
return {f(now), next_due or false, ended, out, collected, busy}
