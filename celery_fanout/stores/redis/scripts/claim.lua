-- Claim a run for this worker.
-- args: id boot nonce retries put_back event attributes data run
--   retries: of the message
--   put_back: "0", or "1" and the token that was left if it was put back
--   event: "" or JSON of its event to recreate it from: key, name, gen
--   run: JSON of its run, see add_runs in lib.lua
-- Returns {status, "state token retries crashes created due now", result, [field, text, ...], woken};
-- one text, because a client spends more on the number of values than on their length
retries = tonumber(retries)
local r = rec(id)

local function answer(status, extra)
  extra = extra or {}
  local facts = {r and r.s or '-', r and r.n or '0', r and r.r or '0', r and r.x or '0', r and r.c or '0',
    extra.due or '0', f(now)}
  return {status, table.concat(facts, ' '), extra.result or false, extra.steps or {}, woken}
end

local function checkpoints()
  if r.k ~= 'parallel' or not r.p then return steps(id) end
  local seen = call('HGET', dkey(r.p), 'b' .. (r.pg or '')) -- see spawn.lua
  local parent_steps = seen and cjson.decode(seen) or steps(r.p)
  copy(steps(id), parent_steps)
  return parent_steps
end

if not r then
  if event == '' then return answer('unknown') end
  local m = cjson.decode(event)
  local e = ekey(m.key)
  if call('EXISTS', e) == 0 then
    call('HSET', e, 'v', 1, 'nm', m.name, 't', f(now), 'g', m.gen, 'ge', m.gen)
    write_text(m.key, cjson.encode({id}), attributes, '', data)
    index_event(m.key, m.name)
  end
  add_runs({cjson.decode(run)}, m.key, now + GRACE, m.gen, {replay = true, recreate = true})
  r = rec(id)
end
if FINAL[r.s] then return answer('finished') end
if r.s == 'completing' then
  return answer('completing', {result = call('HGET', dkey(id), 'R') or 'null'})
end
if r.s == 'running' and r.y == nonce then return answer('claimed', {steps = checkpoints()}) end
if r.fd and tonumber(r.fd) <= now then
  cancel(id, 'finish_timeout', {})
  r = rec(id)
  return answer('expired')
end

-- one that waits for its time, or for an event, is woken first: a gated run would miss that
local waits = r.i and tonumber(r.i) > now + 0.001
if r.s ~= 'running' and (r.s == 'gated' or not waits) and call('EXISTS', K .. ':paused') == 1 then
  local sub = call('HGET', K .. ':subs', r.u) or ''
  if sub ~= '' and call('HEXISTS', K .. ':paused', sub) == 1 then
    if r.s ~= 'gated' then
      call('ZADD', K .. ':g:' .. r.u, f(now), id)
      enter(r, 'gated', patience(r))
      if r.fl then flow().give(r) end
    end
    return answer('paused')
  end
end
if r.o and not r.a and tonumber(r.o) <= now then
  finalise(r, 'cancelled', r.os and 'start_timeout' or 'expired')
  return answer('expired')
end
if r.lw or r.co then return answer('gated') end
local spent = tonumber(r.r or '0')
if r.s == 'running' then
  local due = tonumber(call('ZSCORE', K .. ':due', id) or '0')
  if due > now and put_back ~= '1' .. r.n then return answer('held', {due = f(due)}) end
  -- before the crash: it stays running, and take.lua would count the same crash again
  if retries < spent then return answer('stale') end
  if r.rl or put_back ~= '0' then
    log_attempt(r, 'released', '') -- its worker stopped, or could not reach the ledger: no crash
  elseif crash(r, 'Its lease was over.') then
    return answer('crashed')
  end
elseif r.i and tonumber(r.i) > now + 0.001 then
  return answer('early', {due = r.i})
end
if retries < spent then return answer('stale') end
-- only now: one that is early or stale stays for resume.lua to find
if r.s == 'gated' then call('ZREM', K .. ':g:' .. r.u, id) end
if r.fl then
  if not flow().admit(r) then return answer('gated') end
  local at = r.lt and not r.a and flow().too_soon(r)
  if at then
    drop(r, 'b')
    r.i = f(at)
    enter(r, 'pending', math.min(at, tonumber(r.o or at)), 'i', r.i)
    return answer('early', {due = r.i})
  end
  if r.ft and not r.fd then
    r.fd = f(now + tonumber(r.ft))
    call('HSET', rkey(id), 'fd', r.fd)
  end
end
r.n = tostring(tonumber(r.n or '0') + 1)
r.r = tostring(retries)
enter(r, 'running', now + LEASE, 'n', r.n, 'b', boot, 'y', nonce, 'r', r.r, 'a2', f(now), 'a', r.a or f(now))
drop(r, 'i', 'w', 'h', 'rl', 'un', 'z')
return answer('claimed', {steps = checkpoints()})
