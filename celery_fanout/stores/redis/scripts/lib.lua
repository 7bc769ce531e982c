-- What scripts have in common. Each gets the parts that it uses: a part is what stands between empty
-- lines, and defines what others call. Before it come the rules, as LEASE, GRACE and so on.
--
-- KEYS[1]  the prefix of all keys, with its hash tag: all of them lie in one slot
-- ARGV[1]  the time, for tests that move the clock; "" for the server's own
-- What else a script takes it declares in its header, as `-- args: id token ids...`: these are locals
-- of its own, the last one here a list of all that follow. See scripting.py, and calls.py for Python.
--
-- Keys (see keys.py for their meaning):
--   r:<run> hash     d:<run> hash      e:<event> hash     t:<event> string
--   due zset         s:<state> zset
--   u:<sub> zset     subs hash         ev zset            n:<name> zset   g:<sub> zset
--   wp:<name> hash   wv:<name>:<hash> set                 untold zset     paused hash    news zset
-- and those of limits.lua, which stands in the place that is marked below

local K, call = KEYS[1], redis.call

local now = tonumber(ARGV[1])
if not now then
  local t = call('TIME')
  now = tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- How much longer than its retention a record stays, so that the sweep still finds its indexes.
local SLACK = 3600

local FINAL = {succeeded = true, failed = true, cancelled = true}

-- A time in full; Lua's own tostring() would cut it to 14 digits.
local function f(x) return string.format('%.6f', x) end

local function copy(list, into) for i = 1, #list do into[#into + 1] = list[i] end end

-- Publish messages. `lists`: how many there are; then for each its name, how many messages, and the
-- messages. More may follow.
local function push(lists)
  local at = 1
  for _ = 1, tonumber(lists[1]) do
    local list, many = lists[at + 1], tonumber(lists[at + 2])
    for start = 1, many, 5000 do -- Lua's unpack has a limit
      call('LPUSH', list, unpack(lists, at + 2 + start, at + 2 + math.min(start + 4999, many)))
    end
    at = at + 2 + many
  end
end

local function rkey(id) return K .. ':r:' .. id end

local function dkey(id) return K .. ':d:' .. id end

local function lekey(id) return K .. ':le:' .. id end

local function ekey(key) return K .. ':e:' .. key end

local function tkey(key) return K .. ':t:' .. key end

-- What an event says, beside its hash: one long field would make Redis unpack that, to twice its size.
-- None of the texts but the last contains a line break.
local function write_text(key, ids, attributes, trace, data)
  call('SET', tkey(key), ids .. '\n' .. attributes .. '\n' .. trace .. '\n' .. data)
end

-- Return the ids of an event's runs, its attributes, trace and data; nothing if it is gone.
local function read_text(key)
  return string.match(call('GET', tkey(key)) or '', '^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
end

local function expire_event(key, seconds)
  call('EXPIRE', ekey(key), seconds)
  call('EXPIRE', tkey(key), seconds)
end

local function persist_event(key)
  call('PERSIST', ekey(key))
  call('PERSIST', tkey(key))
end

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

-- When a run that waits is cancelled if nothing else happens; nil for never.
local function patience(r) return tonumber(r.a and r.fd or not r.a and r.o or nil) end

-- Change a run's state; `due` is its timer, nil for none; more pairs of fields and values follow.
local function enter(r, to, due, ...)
  if r.s and r.s ~= to then call('ZREM', K .. ':s:' .. r.s, r.id) end
  r.s = to
  local latest = patience(r)
  if latest and due and to ~= 'running' and to ~= 'completing' then due = math.min(due, latest) end
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

-- Under which paths and values an event of a name finds an entry, as unfile() takes it.
local function filing(name, match_json, entry)
  local match = cjson.decode(match_json)
  local paths = sorted_paths(match)
  local set = filed(paths, function(path) return match[path] end)
  return cjson.encode({name, #paths == 0 and '[]' or cjson.encode(paths), set, entry})
end

-- Let events find an entry; return its place.
local function file(place)
  local name, spec, set, entry = unpack(cjson.decode(place))
  local key = K .. ':wv:' .. name .. ':' .. set
  if call('SADD', key, entry) == 1 and call('SCARD', key) == 1 then
    call('HINCRBY', K .. ':wp:' .. name, spec, 1)
  end
  return place
end

local function unfile(place)
  local name, spec, set, entry = unpack(cjson.decode(place))
  local key = K .. ':wv:' .. name .. ':' .. set
  if call('SREM', key, entry) == 1 and call('EXISTS', key) == 0 then
    if call('HINCRBY', K .. ':wp:' .. name, spec, -1) <= 0 then call('HDEL', K .. ':wp:' .. name, spec) end
  end
end

-- Drop all waits of a run; `keep`: note what cancels it, as it may be retried.
local function unfile_all(r, keep)
  if not r.ws then return end
  local data = hash(dkey(r.id)) or {}
  for field, place in pairs(data) do
    if string.sub(field, 1, 1) == 'w' then
      unfile(place)
      call('HDEL', dkey(r.id), field)
      if keep and string.sub(field, 2, 2) == '!' then
        call('HSET', dkey(r.id), 'W' .. string.sub(field, 2), place)
      end
    end
  end
  drop(r, 'ws')
end

-- [limits.lua]

-- Whether a fan-in waits for runs of this kind.
local function is_chained(kind) return (kind == 'event' or kind == 'then') and 1 or 0 end

-- An event has more runs that are not final, some of them chained. An event that is gone stays so.
local function open_event(event, count, chained)
  local e = ekey(event)
  if event == '' or count == 0 or call('EXISTS', e) == 0 then return end
  if call('HINCRBY', e, 'o', count) == count then persist_event(event) end
  if chained > 0 then call('HINCRBY', e, 'of', chained) end
end

-- File an event in the indexes.
local function index_event(key, name)
  for _, index in ipairs({K .. ':ev', K .. ':n:' .. name}) do
    call('ZADD', index, f(now), key)
    call('ZREMRANGEBYSCORE', index, '-inf', '(' .. f(now - EVENTS))
    call('EXPIRE', index, math.ceil(EVENTS))
  end
end

-- Keys of the events of which a run is an open run: more than one if it, or the run whose tail it is
-- of, has collected them.
local function concerned(r) return r.cl and call('LRANGE', lekey(r.id), 0, -1) or {r.e} end

-- Write new runs. Each is a list of 9 values: id, kind, subscription, queue, message, field, group,
-- pairs of cancel_on, checkpoints; the last two may be "". There is a tenth if limits hold for it, see
-- _flow_values in packing.py.
-- `due` is their first timer; more may be given: parent (the record of the run that asks for them),
-- expires, resume (they may not start before), published (whether their messages go out with this
-- script), replay, recreate (it is one that a message speaks of), lists (an argument of record.lua).
-- Returns the ids of those that are new, the states of all, how many are open; by their places in the
-- list, the ids of the runs that the event has joined instead.
local function add_runs(runs, event, due, generation, more)
  local added, states, chained, opened, joined, stamp = {}, {}, 0, 0, {}, f(now)
  local filed_as, timers, subs = {}, {}, {}
  local gate = #runs > 0 and call('EXISTS', K .. ':paused') == 1
  local parent, events, whole = more.parent, {event}, false
  if parent and parent.cl and #runs > 0 and is_chained(runs[1][2]) == 1 then
    -- only of a link: fan-ins do not wait for the others, and a run may ask for a thousand of them
    events, whole = concerned(parent), true
  end
  -- many at a time, but not more than Lua's unpack can
  local function all(command, key, values)
    for start = 1, #values, 4000 do
      call(command, key, unpack(values, start, math.min(start + 3999, #values)))
    end
  end
  for n, run in ipairs(runs) do
    local id, kind, sub, queue, message, field, group, cancels, checkpoints, limits = unpack(run)
    local key = rkey(id)
    if call('EXISTS', key) == 1 then
      states[#states + 1] = call('HGET', key, 's')
    else
      local h = subhash(sub)
      local to, timer, fields = more.published and 'published' or 'pending', due, {}
      if limits then
        to, timer, fields, joined[n] = flow().begin(id, sub, h, limits, event, more)
      elseif gate and sub ~= '' and call('HEXISTS', K .. ':paused', sub) == 1 then
        to, timer = 'gated', more.expires
        call('ZADD', K .. ':g:' .. h, stamp, id)
      end
      if joined[n] then
        states[#states + 1] = call('HGET', rkey(joined[n]), 's')
      else
        subs[#subs + 1], subs[#subs + 2] = h, sub
        if timer then timers[#timers + 1], timers[#timers + 2] = f(timer), id end
        local same = filed_as[to] or {}
        same[#same + 1], same[#same + 2] = stamp, id
        filed_as[to] = same
        call('HSET', key, 'v', 1, 'k', kind, 'e', event, 'u', h, 'c', stamp, 's', to, 'm', stamp, 'g', generation)
        if to == 'published' then copy({'h', 1}, fields) end
        if queue ~= '' then copy({'q', queue}, fields) end
        if field ~= '' then copy({'pf', field, 'pg', group}, fields) end
        if more.resume then copy({'i', f(more.resume)}, fields) end
        if more.expires and not limits then copy({'o', f(more.expires)}, fields) end
        call('ZADD', K .. ':u:' .. h, stamp, id)
        if message ~= '' then call('HSET', dkey(id), 'M', message) end
        if parent then
          copy({'p', parent.id}, fields)
          if whole then
            copy({'cl', parent.cl}, fields)
            all('RPUSH', lekey(id), events)
          end
        end
        if checkpoints ~= '' then
          for name, text in pairs(checkpoints) do call('HSET', dkey(id), name, text) end
        end
        for i, pair in ipairs(cancels ~= '' and cancels or {}) do
          local place = filing(pair[1], pair[2], 'c|' .. id)
          if to == 'cancelled' then -- it was dropped, and may be retried
            call('HSET', dkey(id), 'W!' .. i, place)
          else
            call('HSET', dkey(id), 'w!' .. i, file(place))
            if i == 1 then copy({'ws', 1}, fields) end
          end
        end
        if #fields > 0 then call('HSET', key, unpack(fields)) end
        added[#added + 1] = id
        states[#states + 1] = to
      end
      if to == 'cancelled' then -- it was dropped, and its records expire by themselves
        call('EXPIRE', key, math.ceil(SUCCESS) + SLACK)
        call('EXPIRE', dkey(id), math.ceil(SUCCESS) + SLACK)
      else
        opened = opened + 1
        chained = chained + is_chained(kind)
      end
    end
  end
  for to, values in pairs(filed_as) do all('ZADD', K .. ':s:' .. to, values) end
  all('ZADD', K .. ':due', timers)
  all('HSET', K .. ':subs', subs)
  for _, key in ipairs(events) do open_event(key, opened, chained) end
  return added, states, opened, joined
end

-- The fan-in of an event, once its last run is final; not again after a replay.
local function fan_in(key)
  local then_id, message, gen, done = unpack(call('HMGET', ekey(key), 'ti', 'tm', 'ge', 'td'))
  if not then_id or done == gen then return end
  call('HSET', ekey(key), 'td', gen)
  copy(add_runs({{then_id, 'fan-in', '', '', message or '', '', '', '', ''}}, key, now, gen, {}), woken)
end

-- Never shorter than its runs, each of which may be reopened or replayed, and than its id is known.
local function rest_event(key)
  expire_event(key, math.ceil(math.max(EVENTS, FAILURE, SUCCESS, WINDOW)) + SLACK)
end

-- One run of an event is final.
local function close_event(key, kind)
  local e = ekey(key)
  if key == '' or call('EXISTS', e) == 0 then return end
  if is_chained(kind) == 1 and call('HINCRBY', e, 'of', -1) <= 0 then fan_in(key) end
  if call('HINCRBY', e, 'o', -1) <= 0 then rest_event(key) end
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
  if call('HINCRBY', d, n, -1) > 0 then return end
  call('HDEL', d, 'b' .. r.pg)
  if p.s == 'suspended' and p.w == r.pg then wake(p) end
end

-- End a run. Its records expire by themselves.
local function finalise(r, to, reason)
  unfile_all(r, to ~= 'succeeded')
  if r.s == 'gated' then call('ZREM', K .. ':g:' .. r.u, r.id) end
  enter(r, to, nil, 'f', f(now), 'z', reason or '')
  drop(r, 'b', 'w', 'i', 'y', 'rl')
  local keep = math.ceil(to == 'failed' and FAILURE or SUCCESS) + SLACK
  call('EXPIRE', rkey(r.id), keep)
  call('EXPIRE', dkey(r.id), keep)
  if to ~= 'succeeded' and r.k ~= 'parallel' then
    call('ZADD', K .. ':untold', f(now + GRACE), r.id)
  end
  deliver(r, reason)
  if r.cl then
    call('EXPIRE', lekey(r.id), keep)
    for _, key in ipairs(concerned(r)) do close_event(key, r.k) end
  else
    close_event(r.e, r.k)
  end
  if r.fl then flow().give(r, true) end
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

-- The steps among the fields of a run's data, but for those that begin so.
local function steps(id, but)
  local flat, found = call('HGETALL', dkey(id)), {}
  for i = 1, #flat, 2 do
    if string.sub(flat[i], 1, 1) == 's' and not (but and string.sub(flat[i], 1, #but) == but) then
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

-- Let runs of a subscription go that are held back, the oldest first; return how many.
local function let_go(sub, limit)
  local gate = K .. ':g:' .. subhash(sub)
  local ids = call('ZRANGEBYSCORE', gate, '-inf', '+inf', 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do
    call('ZREM', gate, id)
    local r = rec(id)
    if r and r.s == 'gated' then
      enter(r, 'pending', r.i and r.i ~= 'inf' and math.max(tonumber(r.i), now) or now)
    end
  end
  return #ids
end

-- Run a dead letter or a cancelled run again.
local function reopen(r, reason)
  for field, text in pairs(hash(dkey(r.id)) or {}) do
    local kind = string.sub(field, 1, 1)
    if (kind == 's' and not string.find(text, '^{"v":%d+,"s":"done"')) or kind == 'n' or field == 'E' then
      call('HDEL', dkey(r.id), field)
    elseif kind == 'W' then -- what cancels it
      call('HDEL', dkey(r.id), field)
      call('HSET', dkey(r.id), 'w' .. string.sub(field, 2), file(text))
      call('HSET', rkey(r.id), 'ws', 1)
    end
  end
  call('PERSIST', rkey(r.id))
  call('PERSIST', dkey(r.id))
  call('ZREM', K .. ':untold', r.id)
  -- the reason is gone when the run is claimed, so it is kept with what it was retried after
  local n = tonumber(r.n or '0')
  for _, field in ipairs({'a' .. n, 'a' .. (n - 1)}) do -- a cancellation takes a number of its own
    local last = call('HGET', dkey(r.id), field)
    if last then
      local more = ',"retried":' .. cjson.encode(reason) .. ',"reopened":' .. f(now) .. '}'
      call('HSET', dkey(r.id), field, string.sub(last, 1, -2) .. more)
      break
    end
  end
  drop(r, 'r', 'x', 'f', 'o', 'un', 'h', 'os', 'fd', 'lh', 'lr')
  enter(r, 'pending', now, 'z', reason, 're', tonumber(r.re or '0') + 1)
  if r.cl then call('PERSIST', lekey(r.id)) end
  for _, key in ipairs(concerned(r)) do open_event(key, 1, is_chained(r.k)) end
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
local function look_back(name, match_json, since, own_event, from, chunk)
  local match = cjson.decode(match_json)
  local paths = sorted_paths(match)
  local wanted = filed(paths, function(path) return match[path] end)
  local keys = call('ZRANGEBYSCORE', K .. ':n:' .. name, since, '+inf', 'LIMIT', from, chunk)
  for _, key in ipairs(keys) do
    local _, attributes, _, data = read_text(key)
    if data and key ~= own_event then
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
