-- What every script begins with.
--
-- KEYS[1]  the prefix of all keys, with its hash tag: all of them lie in one slot
-- ARGV[1]  the time, for tests that move the clock; "" for the server's own
-- ARGV[2]  the rules, see below
--
-- Keys (see keys.py for their meaning):
--   r:<run> hash     d:<run> hash      e:<event> hash     due zset        s:<state> zset
--   u:<sub> zset     subs hash         ev zset            n:<name> zset   g:<sub> zset
--   wp:<name> hash   wv:<name>:<hash> set                 untold zset     paused hash    news zset
local K, call = KEYS[1], redis.call
local now = tonumber(ARGV[1])
if not now then
  local t = call('TIME')
  now = tonumber(t[1]) + tonumber(t[2]) / 1000000
end
local rules = {}
for word in string.gmatch(ARGV[2], '%S+') do rules[#rules + 1] = tonumber(word) end
local LEASE, WINDOW, SUCCESS, FAILURE, EVENTS, CRASHES, GRACE, REPUBLISH, UNREGISTERED =
  rules[1], rules[2], rules[3], rules[4], rules[5], rules[6], rules[7], rules[8], rules[9]

-- How much longer than its retention a record stays, so that the sweep still finds its indexes.
local SLACK = 3600
local FINAL = {succeeded = true, failed = true, cancelled = true}

-- A time in full; Lua's own tostring() would cut it to 14 digits.
local function f(x) return string.format('%.6f', x) end
local function copy(list, into) for i = 1, #list do into[#into + 1] = list[i] end end

local function rkey(id) return K .. ':r:' .. id end
local function dkey(id) return K .. ':d:' .. id end
local function ekey(key) return K .. ':e:' .. key end
local function subhash(sub) return string.sub(redis.sha1hex(sub), 1, 12) end

local function hash(key)
  local flat, t = call('HGETALL', key), {}
  if #flat == 0 then return nil end
  for i = 1, #flat, 2 do t[flat[i]] = flat[i + 1] end
  return t
end

local function rec(id)
  local r = hash(rkey(id))
  if r then r.id = id end
  return r
end

-- Ids of runs that are due now because of this script, and whom nobody has been told of.
local woken = {}

-- Change a run's state; `due` is its timer, nil for none; more pairs of fields and values follow.
local function enter(r, to, due, ...)
  if r.s and r.s ~= to then call('ZREM', K .. ':s:' .. r.s, r.id) end
  r.s = to
  call('ZADD', K .. ':s:' .. to, f(now), r.id)
  if due then
    call('ZADD', K .. ':due', f(due), r.id)
  else
    call('ZREM', K .. ':due', r.id)
  end
  call('HSET', rkey(r.id), 's', to, 'm', f(now), ...)
end

local function drop(r, ...)
  call('HDEL', rkey(r.id), ...)
  for i = 1, select('#', ...) do r[select(i, ...)] = nil end
end

-- Make a suspended run due now.
local function wake(p)
  drop(p, 'w')
  p.i = f(now)
  call('HSET', rkey(p.id), 'i', p.i)
  call('ZADD', K .. ':due', p.i, p.id)
  woken[#woken + 1] = p.id
end

local function log_attempt(r, outcome, err)
  local number = tonumber(r.n or '0')
  local entry = '{"number":' .. number .. ',"started":' .. (r.a2 or r.a or f(now)) .. ',"ended":' .. f(now)
    .. ',"outcome":' .. cjson.encode(outcome) .. ',"error":' .. cjson.encode(err or '') .. '}'
  call('HSET', dkey(r.id), 'a' .. number, entry)
  if number > 100 then call('HDEL', dkey(r.id), 'a' .. (number - 100)) end
end

-- One value of a match, so that what is equal as JSON is the same text.
local function canonical(v)
  if v == nil then return nil end
  if v == cjson.null then return 'z' end
  if type(v) == 'number' then return 'n' .. string.format('%.17g', v + 0) end -- -0 + 0 is 0
  if type(v) == 'boolean' then return 'b' .. tostring(v) end
  if type(v) == 'string' then return 's' .. v end
  return nil
end

local function at_path(data, path)
  for part in string.gmatch(path, '[^.]+') do
    if type(data) ~= 'table' then return nil end
    local index = tonumber(part)
    local found = data[part]
    -- cjson makes both objects and lists tables; a list counts from 1
    if found == nil and index and string.match(part, '^%d+$') and data[1] ~= nil then
      found = data[index + 1]
    end
    data = found
    if data == nil then return nil end
  end
  return data
end

local function sorted_paths(match)
  local paths = {}
  for path in pairs(match) do paths[#paths + 1] = path end
  table.sort(paths)
  return paths
end

-- Return what an event's data is filed under for these paths; nil if one of them is missing.
-- The paths are part of it: {"a": 1} and {"b": 1} are not the same.
local function filed(paths, lookup)
  local parts = {}
  for _, path in ipairs(paths) do
    local value = canonical(lookup(path))
    if value == nil then return nil end
    parts[#parts + 1] = #path .. ':' .. path .. #value .. ':' .. value
  end
  return redis.sha1hex(table.concat(parts))
end

-- File an entry under an event name and a match; return what unfile() needs.
local function file(name, match_json, entry)
  local match = cjson.decode(match_json)
  local paths = sorted_paths(match)
  local set = filed(paths, function(path) return match[path] end)
  local spec = #paths == 0 and '[]' or cjson.encode(paths)
  local key = K .. ':wv:' .. name .. ':' .. set
  if call('SADD', key, entry) == 1 and call('SCARD', key) == 1 then
    call('HINCRBY', K .. ':wp:' .. name, spec, 1)
  end
  return cjson.encode({name, spec, set, entry})
end

local function unfile(place)
  local name, spec, set, entry = unpack(cjson.decode(place))
  local key = K .. ':wv:' .. name .. ':' .. set
  if call('SREM', key, entry) == 1 and call('EXISTS', key) == 0 then
    if call('HINCRBY', K .. ':wp:' .. name, spec, -1) <= 0 then call('HDEL', K .. ':wp:' .. name, spec) end
  end
end

-- Drop all waits of a run.
local function unfile_all(r)
  if not r.ws then return end
  local data = hash(dkey(r.id)) or {}
  for field, place in pairs(data) do
    if string.sub(field, 1, 1) == 'w' then
      unfile(place)
      call('HDEL', dkey(r.id), field)
    end
  end
  drop(r, 'ws')
end

-- An event has one more run that is not final. An event that is gone stays so.
local function open_event(event, kind)
  local e = ekey(event)
  if event == '' or call('EXISTS', e) == 0 then return end
  if call('HINCRBY', e, 'o', 1) == 1 then call('PERSIST', e) end
  if kind == 'event' or kind == 'then' then call('HINCRBY', e, 'of', 1) end
end

-- File an event in the indexes.
local function index_event(key, name)
  for _, index in ipairs({K .. ':ev', K .. ':n:' .. name}) do
    call('ZADD', index, f(now), key)
    call('ZREMRANGEBYSCORE', index, '-inf', '(' .. f(now - EVENTS))
    call('EXPIRE', index, math.ceil(EVENTS))
  end
end

-- Write a new run that is to be pending; nothing if it exists.
local function add(id, kind, sub, event, due, ...)
  if call('EXISTS', rkey(id)) == 1 then return false end
  local h = subhash(sub)
  call('HSETNX', K .. ':subs', h, sub)
  local r = {id = id}
  local paused = sub ~= '' and call('HEXISTS', K .. ':paused', sub) == 1
  if paused then
    call('ZADD', K .. ':g:' .. h, f(now), id)
    due = nil
  end
  enter(r, paused and 'gated' or 'pending', due,
    'v', 1, 'k', kind, 'e', event, 'u', h, 'c', f(now), ...)
  call('ZADD', K .. ':u:' .. h, f(now), id)
  open_event(event, kind)
  return true
end

local function add_message(id, message)
  if message ~= '' then call('HSET', dkey(id), 'M', message) end
end

-- The fan-in of an event, once its last run is final.
local function fan_in(key)
  local then_id, message, gen, done = unpack(call('HMGET', ekey(key), 'ti', 'tm', 'g', 'td'))
  if not then_id or done == gen then return end
  call('HSET', ekey(key), 'td', gen)
  if add(then_id, 'fan-in', '', key, now, 'g', gen) then
    add_message(then_id, message or '')
    woken[#woken + 1] = then_id
  end
end

-- One run of an event is final.
local function close_event(r)
  local e = ekey(r.e)
  if r.e == '' or call('EXISTS', e) == 0 then return end
  if (r.k == 'event' or r.k == 'then') and call('HINCRBY', e, 'of', -1) <= 0 then fan_in(r.e) end
  -- never shorter than its runs, each of which may be reopened or replayed
  local keep = math.ceil(math.max(EVENTS, FAILURE, SUCCESS)) + SLACK
  if call('HINCRBY', e, 'o', -1) <= 0 then call('EXPIRE', e, keep) end
end

-- The outcome of a child becomes a checkpoint of its parent.
local function deliver(r, reason)
  if not r.p or not r.pf then return end
  local p = rec(r.p)
  if not p or FINAL[p.s] then return end
  local text
  if r.s == 'succeeded' then
    text = '{"v":1,"s":"done","n":1,"r":' .. (call('HGET', dkey(r.id), 'R') or 'null') .. ',"t":' .. f(now) .. '}'
  else
    local found = call('HGET', dkey(r.id), 'E')
    local err = {type = 'RunCancelled', message = reason or ''}
    if r.s == 'failed' and found then
      local e = cjson.decode(found)
      err = {type = e.type or '?', message = e.message or ''}
    end
    text = '{"v":1,"s":"failed","n":' .. (r.n or 0) .. ',"e":' .. cjson.encode(err) .. ',"t":' .. f(now) .. '}'
  end
  local d = dkey(r.p)
  -- A child that was reopened ends again: its parent has an outcome, and counts each child once.
  -- A parent that was reopened has no count until it asks for the child again, see spawn.lua.
  local first = call('HSETNX', d, r.pf, text) == 1
  local n = 'n' .. r.pg
  if not first or call('HEXISTS', d, n) == 0 then return end
  if call('HINCRBY', d, n, -1) <= 0 and p.s == 'suspended' and p.w == r.pg then wake(p) end
end

-- End a run. Its records expire by themselves.
local function finalise(r, to, reason)
  unfile_all(r)
  if r.s == 'gated' then call('ZREM', K .. ':g:' .. r.u, r.id) end
  enter(r, to, nil, 'f', f(now), 'z', reason or '')
  drop(r, 'b', 'w', 'i', 'y', 'rl')
  local keep = math.ceil(to == 'failed' and FAILURE or SUCCESS) + SLACK
  call('EXPIRE', rkey(r.id), keep)
  call('EXPIRE', dkey(r.id), keep)
  if to ~= 'succeeded' and r.k ~= 'on_failure' and r.k ~= 'parallel' then
    call('ZADD', K .. ':untold', f(now + GRACE), r.id)
  end
  deliver(r, reason)
  close_event(r)
end

local function fail(r, err_json, reason)
  call('HSET', dkey(r.id), 'E', err_json)
  finalise(r, 'failed', reason)
end

-- A worker has died with a run. Return whether that was its last crash.
local function crash(r, message)
  local crashes = tonumber(r.x or '0') + 1
  r.x = tostring(crashes)
  call('HSET', rkey(r.id), 'x', r.x)
  log_attempt(r, 'crashed', message)
  drop(r, 'b', 'y')
  if crashes >= CRASHES then
    fail(r, cjson.encode({type = 'WorkerCrashed', traceback = '',
      message = 'The worker died ' .. crashes .. ' times while it executed this run. ' .. message}), 'crashed')
    return true
  end
  return false
end

-- The steps among the fields of a run's data.
local function steps(id)
  local flat, found = call('HGETALL', dkey(id)), {}
  for i = 1, #flat, 2 do
    if string.sub(flat[i], 1, 1) == 's' then
      found[#found + 1] = flat[i]
      found[#found + 1] = flat[i + 1]
    end
  end
  return found
end

-- Whether a checkpoint's text is one that will not change any more.
local function is_final(text)
  return text and (string.find(text, '^{"v":%d+,"s":"done"') or string.find(text, '^{"v":%d+,"s":"failed"'))
end

-- Whether a token is that of the run's holder.
local function holds(r, token) return r and r.s == 'running' and r.n == token end

-- Record an event's children of whatever kind. Each has 9 values from ARGV[at] on:
-- id, kind, subscription, queue, message, field, group, cancel_on (JSON), checkpoints (JSON).
-- `due` is their first timer; `resume`: they may not start before.
local function add_runs(at, count, event, due, generation, parent, expires, resume)
  local added = {}
  for n = 0, count - 1 do
    local b = at + n * 9
    local id, kind, sub, queue, message, field, group, cancels, checkpoints = unpack(ARGV, b, b + 8)
    -- an item of step.parallel is a message of its parent's subscription: it goes the same way
    if queue == '' and kind == 'parallel' and parent then queue = call('HGET', rkey(parent), 'q') or '' end
    local extra = {'g', generation}
    if queue ~= '' then copy({'q', queue}, extra) end
    if parent then copy({'p', parent}, extra) end
    if field ~= '' then copy({'pf', field, 'pg', group}, extra) end
    if resume then copy({'i', f(resume)}, extra) end
    if expires then copy({'o', f(expires)}, extra) end
    if add(id, kind, sub, event, due, unpack(extra)) then
      added[#added + 1] = id
      add_message(id, message)
      if checkpoints ~= '' then
        for name, text in pairs(cjson.decode(checkpoints)) do call('HSET', dkey(id), name, text) end
      end
      if cancels ~= '' then
        for i, pair in ipairs(cjson.decode(cancels)) do
          call('HSET', dkey(id), 'w!' .. i, file(pair[1], pair[2], 'c|' .. id))
        end
        call('HSET', rkey(id), 'ws', 1)
      end
    end
  end
  return added
end

-- Run a dead letter or a cancelled run again.
local function reopen(r, reason)
  for field, text in pairs(hash(dkey(r.id)) or {}) do
    local kind = string.sub(field, 1, 1)
    if (kind == 's' and not string.find(text, '^{"v":%d+,"s":"done"')) or kind == 'n' or field == 'E' then
      call('HDEL', dkey(r.id), field)
    end
  end
  call('PERSIST', rkey(r.id))
  call('PERSIST', dkey(r.id))
  call('ZREM', K .. ':untold', r.id)
  drop(r, 'r', 'x', 'f', 'o', 'un', 'h')
  enter(r, 'pending', now, 'z', reason, 're', tonumber(r.re or '0') + 1)
  open_event(r.e, r.k)
end

-- Cancel a run, and the runs that it invoked. Collects ids in `done`.
local function cancel(id, reason, done)
  local r = rec(id)
  if not r or FINAL[r.s] or r.s == 'completing' then return end
  if r.s == 'running' then log_attempt(r, 'cancelled', reason) end
  r.n = tostring(tonumber(r.n or '0') + (r.s == 'running' and 1 or 0))
  call('HSET', rkey(id), 'n', r.n)
  finalise(r, 'cancelled', reason)
  done[#done + 1] = id
  for field, kind in pairs(hash(dkey(id)) or {}) do
    if string.sub(field, 1, 1) == 'c' and (kind == 'invoke' or kind == 'parallel') then
      cancel(string.sub(field, 2), reason, done)
    end
  end
end

-- Look through the events of a name since a time, some at a time, for one that fits.
-- Returns attributes, data, key, how many it looked at; the first three are nil if there is none.
local function look_back(name, match_json, since, own, from, chunk)
  local match = cjson.decode(match_json)
  local paths = sorted_paths(match)
  local wanted = filed(paths, function(path) return match[path] end)
  local keys = call('ZRANGEBYSCORE', K .. ':n:' .. name, since, '+inf', 'LIMIT', from, chunk)
  for _, key in ipairs(keys) do
    local attributes, data = unpack(call('HMGET', ekey(key), 'a', 'd'))
    if data and key ~= own then
      local decoded = #paths > 0 and cjson.decode(data)
      if #paths == 0 or filed(paths, function(path) return at_path(decoded, path) end) == wanted then
        return attributes, data, key, #keys
      end
    end
  end
  return nil, nil, nil, #keys
end

-- Whether an event of another shard concerns a run: not if it was recorded before the run, as a
-- keeper may tell of it late.
local function concerns(id, at, key)
  local created, event = unpack(call('HMGET', rkey(id), 'c', 'e'))
  return created and tonumber(created) <= at and event ~= key
end

-- Tell the runs that wait for an event of this name, and cancel those that it cancels.
-- `at`, `key`: of an event of another shard.
local function announce(name, attributes, data_json, at, key)
  local specs = call('HKEYS', K .. ':wp:' .. name)
  if #specs == 0 then return end
  local data = cjson.decode(data_json)
  for _, spec in ipairs(specs) do
    local set = filed(cjson.decode(spec), function(path) return at_path(data, path) end)
    for _, entry in ipairs(set and call('SMEMBERS', K .. ':wv:' .. name .. ':' .. set) or {}) do
      local id, field = string.match(entry, '^.|([^|]+)|?(.*)$')
      if at and not concerns(id, at, key) then -- nothing
      elseif string.sub(entry, 1, 1) == 'c' then
        cancel(id, 'cancel_on ' .. name, {})
      else
        local d = dkey(id)
        local place = call('HGET', d, 'w' .. field)
        if place then -- else this same event has cancelled the run
          unfile(place)
          call('HDEL', d, 'w' .. field)
          call('HSET', d, field, '{"v":1,"s":"done","n":1,"r":{"a":' .. attributes .. ',"d":' .. data_json
            .. '},"t":' .. f(now) .. '}', 'n' .. field, 0)
          local p = rec(id)
          if p and p.s == 'suspended' and p.w == field then wake(p) end
        end
      end
    end
  end
end
