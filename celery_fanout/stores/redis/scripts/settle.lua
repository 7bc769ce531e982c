-- Leave a claim.
-- args: id token to how result error checkpoints link
--   how: JSON: reason, due, retries, group, error, trace
--   result, error, checkpoints: JSON or ""
--   link: JSON of the next link, see add_runs in lib.lua, or ""
-- Returns 0 if the token is stale; 1; or {1, woken}
local function answer() return #woken == 0 and 1 or {1, woken} end
local r = rec(id)
if not r then return 0 end
if token ~= '0' and r.n == token and (r.s == to or (to == 'completing' and r.s == 'succeeded')) then return answer() end
local completing = r.s == 'completing' and to == 'succeeded' and r.n == token
if not holds(r, token) and not completing then return 0 end
local m = cjson.decode(how)
if completing then
  -- Celery has published the next link
  local next_run = r.l and rec(r.l)
  if next_run and next_run.s == 'pending' then enter(next_run, 'published', now + REPUBLISH, 'h', 1) end
  finalise(r, 'succeeded', '')
  return answer()
end
if result ~= '' then call('HSET', dkey(id), 'R', result) end
if checkpoints ~= '' then
  for field, text in pairs(cjson.decode(checkpoints)) do
    if not is_final(call('HGET', dkey(id), field)) then call('HSET', dkey(id), field, text) end
  end
end
if to ~= 'succeeded' and to ~= 'completing' or r.n ~= '1' then log_attempt(r, to, m.error) end
if to == 'succeeded' or to == 'cancelled' then
  finalise(r, to, m.reason)
elseif to == 'failed' then
  fail(r, error ~= '' and error or '{}', m.reason ~= '' and m.reason or 'error')
elseif to == 'completing' then
  if link ~= '' then
    link = cjson.decode(link)
    add_runs({link}, r.e, now + GRACE, r.g or '0', {parent = r})
    call('HSET', rkey(id), 'l', link[1])
    call('HSET', dkey(id), 'c' .. link[1], link[2])
  end
  enter(r, 'completing', now + LEASE)
else
  local due = tonumber(m.due)
  local nothing = m.group ~= '' and tonumber(call('HGET', dkey(id), 'n' .. m.group) or '0') <= 0
  if nothing then due = now end
  drop(r, 'b', 'y')
  if m.trace then call('HSET', dkey(id), 'T', m.trace) end
  local resume = due or (m.group ~= '' and 'inf' or now)
  local fields = {'i', resume == 'inf' and 'inf' or f(resume), 'z', m.reason}
  if m.retries then copy({'r', m.retries}, fields) end
  if m.group ~= '' and not nothing then copy({'w', m.group}, fields) end
  if resume == 'inf' then
    -- its children, or a wait, will wake it; should that be lost, it looks for itself once a day
    enter(r, to, now + 86400, unpack(fields))
  else
    enter(r, to, resume, unpack(fields))
  end
  if nothing then woken[#woken + 1] = id end
  -- unless it is put back, or items of step.parallel work for it
  if r.fl and to ~= 'pending' and call('HEXISTS', dkey(id), 'b' .. m.group) == 0 then flow().give(r) end
end
return answer()
