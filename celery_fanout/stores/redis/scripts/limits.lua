-- Flow control: what has to be so before a run may start. All of it is one function, as scripts that
-- meet no run with a flow then define no more than that; so there is no empty line in it.
--
-- Of a run's record (see unpacking.py): fl "lane priority", l1 to l4 its places, "gate at_most mode",
-- lt its throttle, "gate at_most period burst", ls order number, la admitted, lh throttle charged,
-- lw the lane in which it waits, co gate where it collects, cl how it collects.
-- Its events are the list le:<run>. A place's mode is "k" or "-", whether it is kept until the run
-- has ended, and "w", "d" or "c", what happens if it is full: wait, drop, cancel.
local flowing
local function flow()
  if flowing then return flowing end
  -- for when the new runs are recorded: whom they cancel; their messages by the list that they go to
  local F = {victims = {}, lists = {}}
  flowing = F
  -- how many runs one change looks at in a lane; how late a timer may be, at least, without that
  -- costing throughput; what times may differ by; how often it is noted that a gate is used; for how
  -- long keepers look more often after a throttle has let in a run
  local TRIES, LATE, TINY, NOTE, BUSY = 50, 0.1, 0.000001, 60, 2
  local gates_key, tuned_key, where_key = K .. ':gates', K .. ':tuned', K .. ':lanes'
  local any_tuned = call('EXISTS', tuned_key) == 1
  local function lkey(gate) return K .. ':l:' .. gate end
  local function pkey(gate) return K .. ':lp:' .. gate end
  local function lanes_key(gate) return K .. ':lr:' .. gate end
  local function queue_key(lane) return K .. ':lq:' .. lane end
  --
  -- Change a run's record; one that is being recorded is written later, with all its fields.
  local function set(r, ...)
    local given = {...}
    for i = 1, #given, 2 do r[given[i]] = tostring(given[i + 1]) end
    if r.fields then copy(given, r.fields) else call('HSET', rkey(r.id), ...) end
  end
  --
  -- The limits of a run that it has to pass, in their order.
  local function limits_of(r)
    if r.limits then return r.limits end
    r.limits = {}
    for _, spot in ipairs({'1', '2', '3', '4', 't'}) do
      local text = r['l' .. spot]
      if text then
        local gate, at_most, third, burst = string.match(text, '^(%S+) (%S+) (%S+) ?(%S*)$')
        local g = {id = gate, spot = spot, at_most = tonumber(at_most)}
        if spot == 't' then
          g.per, g.burst = tonumber(third), tonumber(burst)
        else
          g.kept, g.full = string.sub(third, 1, 1) == 'k', string.sub(third, 2)
        end
        r.limits[#r.limits + 1] = g
      end
    end
    return r.limits
  end
  F.limits_of = limits_of
  --
  -- Its number and period that are in force: those of the code, unless they were changed.
  local function in_force(g, name)
    if any_tuned and name then
      local text = call('HGET', tuned_key, name)
      local tuned = text and cjson.decode(text)
      if tuned then return tuned.at_most, g.per and (tuned.per or g.per) end
    end
    return g.at_most, g.per
  end
  --
  -- What note() has just read of gates.
  local seen = {}
  -- Look at a gate: how many places are taken, or when the next may start. A throttle is the generic
  -- cell rate algorithm (GCRA). tat is its theoretical arrival time: when the next run would start if
  -- runs started exactly one step apart. One may start up to `burst` steps before that.
  local function look(g)
    local name, waiting, tat = unpack(seen[g.id] or call('HMGET', lkey(g.id), 'n', 'w', 'tat'))
    seen[g.id] = nil
    g.waiting = tonumber(waiting or '0')
    g.most, g.span = in_force(g, g.name or name)
    if not g.per then
      g.used = call('ZCARD', pkey(g.id))
    else
      g.tat = tonumber(tat or '0')
      g.step = g.most > 0 and g.span / g.most
      -- capped: after a change to a faster limit it may lie further ahead than the new numbers put it
      if g.step then g.tat = math.min(g.tat, now + (g.burst + 1) * g.step) end
      g.next = g.step and g.tat - g.burst * g.step or math.huge
    end
    return g
  end
  F.look = look
  --
  -- Look again at the gate of a throttle, at a time.
  local function wait_until(g, at)
    call('HSET', lkey(g.id), 'tat', f(g.tat))
    call('ZADD', gates_key, f(at), g.id)
  end
  --
  -- What a rate limit has let through within its period: how many, and when the oldest that counts
  -- is out of it.
  local function window(g)
    local key = K .. ':lx:' .. g.id
    g.most, g.span = in_force(g, g.name)
    local length = call('LLEN', key)
    g.full = g.most <= 0
    if g.most > 0 and length >= g.most then
      g.free_at = tonumber(call('LINDEX', key, length - g.most)) + g.span
      g.full = g.free_at > now + TINY
    end
    return g
  end
  F.window = window
  --
  -- Note that a gate is used.
  local function touch(gate, span)
    call('HSET', lkey(gate), 'us', f(now))
    call('ZADD', K .. ':limits', f(now), gate)
    -- while somebody waits it must not go
    if tonumber(call('HGET', lkey(gate), 'w') or '0') <= 0 then
      call('EXPIRE', lkey(gate), math.ceil(math.max(86400, 2 * (span or 0))))
    end
  end
  --
  -- Note the gates of a new run: lists of id, name, key, "at_most period burst", period.
  local function note(gates)
    for _, g in ipairs(gates) do
      local id, name, key, numbers, span = unpack(g)
      local known = call('HMGET', lkey(id), 'n', 'w', 'tat', 'at', 'us')
      if known[4] ~= numbers or tonumber(known[5]) < now - NOTE then
        call('HSET', lkey(id), 'n', name, 'k', key, 'at', numbers)
        known[1] = name
        touch(id, span)
      end
      seen[id] = known
    end
  end
  --
  -- Whether a run has a limit behind it already.
  local function has(r, g)
    if g.per then return r.lh end
    return (g.kept or g.full ~= 'w') and call('ZSCORE', pkey(g.id), r.id)
  end
  --
  -- Return the first gate that refuses a run, or nil; then `try` can take a place at each, at once.
  -- `first`: the gate at which the run is next in turn; nil if it does not wait yet.
  -- A run that does not wait yet is refused where others wait: it must not overtake them. One that is
  -- next in turn at `first` may take a free place at another gate, though others wait there. A place
  -- that is free while runs wait became free in this script, which pumps that gate too. At another
  -- throttle it is refused while others wait: there a start may have been free for longer.
  function F.refused(r, first)
    for _, g in ipairs(limits_of(r)) do
      if not has(r, g) then
        look(g)
        local others = g.waiting > 0 and g.id ~= first
        if g.per then
          if g.next > now + TINY or others then return g end
        elseif g.used >= g.most or others and not first then
          return g
        end
      end
    end
  end
  local function try(r, first)
    local refused = F.refused(r, first)
    if refused then return refused end
    for _, g in ipairs(limits_of(r)) do
      if not g.per then
        call('ZADD', pkey(g.id), 'NX', f(now), r.id)
      elseif not r.lh then
        -- after a timer that is late by a little the next is not later for it
        local from = g.id == first and now - math.max(g.step, LATE) or now
        call('HSET', lkey(g.id), 'tat', f(math.max(g.tat, from) + g.step))
        touch(g.id, g.span)
        -- a run that leaves another limit may wait for this one: keepers look more often for a while
        if g.step < 1 then call('SET', K .. ':busy', f(now + BUSY), 'EX', 60) end
        set(r, 'lh', 1)
      end
    end
    set(r, 'la', 1)
  end
  --
  -- A throttle lets runs in one step apart, but if workers are busy or away, their messages wait, and
  -- are claimed together. So claims follow GCRA too, with a theoretical arrival time of their own, st.
  -- If a claim is too early by more than one step, return when the run may start; nil otherwise. That
  -- time is then reserved for it (lr), so it is put off once only.
  function F.too_soon(r)
    local limits = limits_of(r)
    local g = look(limits[#limits])
    if r.lr or not g.step then return end
    local next = tonumber(call('HGET', lkey(g.id), 'st') or '0')
    local at = next - g.burst * g.step
    call('HSET', lkey(g.id), 'st', f(math.max(next, now) + g.step))
    if at <= now + math.max(g.step, LATE) + TINY then return end
    call('HSET', rkey(r.id), 'lr', 1)
    return at
  end
  --
  -- Give a lane the last turn of the round at a gate.
  local function rotate(gate, lane)
    call('ZADD', lanes_key(gate), call('HINCRBY', lkey(gate), 'turn', 1), lane)
  end
  --
  -- Have a lane wait at a gate, from now on.
  local function park(lane, g)
    call('HSET', where_key, lane, g.id)
    rotate(g.id, lane)
    call('PERSIST', lkey(g.id))
    call('ZADD', K .. ':limits', f(now), g.id)
    if g.per and g.step and not call('ZSCORE', gates_key, g.id) then wait_until(g, math.max(g.next, now)) end
  end
  --
  -- Have so many runs less wait at a gate.
  local function fewer(gate, number, span)
    if call('HINCRBY', lkey(gate), 'w', -number) <= 0 then
      call('ZREM', gates_key, gate)
      touch(gate, span)
    end
  end
  --
  -- Put a run into its lane, where it waits at a gate, or where those before it wait already: first
  -- come, first served, by the number it got when it was recorded. All runs of a lane need the same.
  local function queue(r, g)
    local lane, priority = string.match(r.fl, '^(%S+) (%S+)$')
    local needs = {lane}
    for _, each in ipairs(limits_of(r)) do if not has(r, each) then needs[#needs + 1] = each.id end end
    lane = string.sub(redis.sha1hex(table.concat(needs, ' ')), 1, 16)
    local gate = call('HGET', where_key, lane)
    if not gate then
      park(lane, g)
      gate = g.id
    end
    call('ZADD', queue_key(lane), string.format('%.0f', tonumber(r.ls) - tonumber(priority) * 2 ^ 43), r.id)
    call('HINCRBY', lkey(gate), 'w', 1)
    set(r, 'lw', lane)
  end
  --
  -- Take a run out of its lane; return the lane if it goes on.
  local function leave(r)
    local lane, left, span = r.lw, nil, nil
    local gate = call('HGET', where_key, lane)
    if call('ZREM', queue_key(lane), r.id) == 1 then
      left = call('EXISTS', queue_key(lane)) == 1
      if not left then
        call('ZREM', lanes_key(gate), lane)
        call('HDEL', where_key, lane)
      end
      for _, g in ipairs(limits_of(r)) do if g.id == gate then span = g.per end end
      fewer(gate, 1, span)
    end
    drop(r, 'lw')
    return left and lane
  end
  --
  -- Hold a run back if its subscription is paused.
  local function is_paused(r)
    if call('EXISTS', K .. ':paused') == 0 then return false end
    local sub = r.sub or call('HGET', K .. ':subs', r.u) or ''
    return sub ~= '' and call('HEXISTS', K .. ':paused', sub) == 1
  end
  local function hold_back(r)
    if not is_paused(r) then return false end
    if r.lw then leave(r) end
    call('ZADD', K .. ':g:' .. r.u, f(now), r.id)
    drop(r, 'z')
    enter(r, 'gated', patience(r))
    return true
  end
  --
  -- Let those start who wait at a gate, while it has room. What another gate refuses the first run of a
  -- lane it refuses them all, as they need the same: the lane waits there from now on.
  local function pump(gate)
    call('ZREM', gates_key, gate)
    for _ = 1, TRIES do
      local lane = call('ZRANGE', lanes_key(gate), 0, 0)[1]
      if not lane then return end
      local r, g = rec(call('ZRANGE', queue_key(lane), 0, 0)[1])
      if not hold_back(r) then
        for _, each in ipairs(limits_of(r)) do if each.id == gate then g = each end end
        local refused = try(r, gate)
        if not refused then
          if leave(r) then rotate(gate, lane) end
          enter(r, 'pending', now)
          woken[#woken + 1] = r.id
        elseif refused == g then
          if g.step then wait_until(g, g.next) end
          return
        else
          local many = call('ZCARD', queue_key(lane))
          call('ZREM', lanes_key(gate), lane)
          fewer(gate, many, g.per)
          park(lane, refused)
          call('HINCRBY', lkey(refused.id), 'w', many)
        end
      end
    end
    if call('EXISTS', lanes_key(gate)) == 1 then call('ZADD', gates_key, f(now), gate) end
  end
  --
  -- Let in who waited for the time.
  function F.pump_due()
    for _, gate in ipairs(call('ZRANGEBYSCORE', gates_key, '-inf', f(now), 'LIMIT', 0, 20)) do pump(gate) end
  end
  --
  -- Return whether a run may start now; if not, it is gated.
  function F.admit(r)
    if r.la then return true end
    if hold_back(r) then return false end
    local refused = try(r)
    if not refused then return true end
    queue(r, refused)
    drop(r, 'b', 'y', 'w', 'i', 'rl', 'h', 'z')
    enter(r, 'gated', patience(r))
    return false
  end
  --
  -- Give back the places of a run; `all`: it has ended, and gives back also those that it keeps.
  function F.give(r, all)
    local freed = {}
    if all and r.lw then leave(r) end
    if all and r.co then
      call('DEL', K .. ':lc:' .. r.co)
      drop(r, 'co', 'cd')
    end
    for _, g in ipairs((all or r.la) and limits_of(r) or {}) do
      if not g.per and (all or not g.kept) and call('ZREM', pkey(g.id), r.id) == 1 then
        freed[#freed + 1] = g.id
      end
    end
    if r.la then drop(r, 'la') end
    -- what many share first: who waits there got as far as that
    for n = #freed, 1, -1 do pump(freed[n]) end
  end
  --
  -- Take no more events into a run; return whether it may start now.
  function F.flush(r)
    call('DEL', K .. ':lc:' .. r.co)
    drop(r, 'co', 'cd')
    if r.i and tonumber(r.i) > now then
      enter(r, 'pending', tonumber(r.i))
      return false
    end
    return F.admit(r)
  end
  --
  local function flush_now(r)
    if not F.flush(r) then return end
    drop(r, 'i')
    enter(r, 'pending', now)
    woken[#woken + 1] = r.id
  end
  --
  -- Whether a run that is due, and neither runs nor has ended, may start now.
  function F.ready(r)
    if r.co then return F.flush(r) end
    if r.s == 'gated' then
      local timer = patience(r)
      if timer then call('ZADD', K .. ':due', f(timer), r.id) else call('ZREM', K .. ':due', r.id) end
      return false
    end
    return F.admit(r)
  end
  --
  -- Add an event to the run that collects. c: gate, kind, period, time-out, size.
  local function join(r, c, event, resume)
    local _, kind, period, _, size = unpack(c)
    local many = call('RPUSH', lekey(r.id), event)
    seen = {}
    local due = tonumber(call('ZSCORE', K .. ':due', r.id) or f(now))
    if resume and resume > tonumber(r.i or '0') then set(r, 'i', f(resume)) end
    if kind == 'debounce' then
      set(r, 'e', event)
      due = now + period
      if r.cd then due = math.min(due, tonumber(r.cd)) end
    end
    due = math.max(due, tonumber(r.i or '0'))
    if r.o then due = math.min(due, tonumber(r.o)) end
    call('ZADD', K .. ':due', f(due), r.id)
    if kind == 'batch' and many >= size then flush_now(r) end
  end
  --
  -- The limit because of which a run would be dropped. m: see _flow_values in packing.py.
  function F.dropped_by(m)
    if m.o then
      local known = call('GET', K .. ':li:' .. m.o[1])
      local till = tonumber(known and string.match(known, '^%S+') or '0')
      if till > now then return {id = m.o[1], name = m.o[3], at_most = 1, most = 1, used = 1, free_at = till} end
    end
    if m.r then
      local g = window({id = m.r[1], at_most = m.r[2], per = m.r[3], name = m.r[4]})
      if g.full then return g end
    end
    for _, g in ipairs(limits_of(m.run)) do
      if g.full == 'd' and look(g).used >= g.most then return g end
    end
  end
  --
  local function note_drops(r, m)
    if m.o then
      call('SET', K .. ':li:' .. m.o[1], f(now + m.o[2]) .. ' ' .. r.id, 'EX', math.ceil(m.o[2]) + NOTE)
    end
    if m.r then
      local key, most, span = K .. ':lx:' .. m.r[1], in_force({at_most = m.r[2], per = m.r[3]}, m.r[4])
      call('RPUSH', key, f(now))
      call('LTRIM', key, -most, -1)
      call('EXPIRE', key, math.ceil(span) + NOTE)
    end
  end
  --
  -- Take the places that a run has from the beginning, if need be those of others.
  local function take_kept(r)
    for _, g in ipairs(limits_of(r)) do
      if g.full == 'c' and look(g).used >= g.most then
        local name = call('HGET', lkey(g.id), 'n') or ''
        for _, id in ipairs(call('ZRANGE', pkey(g.id), 0, -1)) do
          if g.used < g.most then break end
          if call('HGET', rkey(id), 's') ~= 'completing' then -- that is waited for
            call('ZREM', pkey(g.id), id)
            g.used = g.used - 1
            F.victims[#F.victims + 1] = {id, 'cancelled: ' .. name}
          end
        end
      end
      if g.full == 'd' or g.full == 'c' and look(g).used < g.most then
        call('ZADD', pkey(g.id), 'NX', f(now), r.id)
      end
    end
  end
  --
  -- Decide what becomes of a new run. m: see _flow_values in packing.py; more: see add_runs.
  -- Returns its state, its timer, the fields of its record; or only the run that its event has joined.
  function F.begin(id, sub, h, m, event, more)
    local r = {id = id, sub = sub, u = h, fields = m.f}
    m.run = r
    for i = 1, #m.f, 2 do r[m.f[i]] = m.f[i + 1] end
    note(m.g)
    if not more.replay then
      local dropped = F.dropped_by(m)
      if dropped then
        set(r, 'ls', call('INCR', K .. ':lseq'), 'f', f(now), 'z', 'dropped: ' .. (dropped.name
          or call('HGET', lkey(dropped.id), 'n') or ''))
        if m.c then
          set(r, 'cl', m.c[2])
          call('RPUSH', lekey(id), event)
          call('EXPIRE', lekey(id), math.ceil(SUCCESS) + SLACK)
        end
        return 'cancelled', nil, r.fields
      end
      note_drops(r, m)
      local other = m.c and call('GET', K .. ':lc:' .. m.c[1])
      other = other and rec(other)
      if other and other.co == m.c[1] then
        join(other, m.c, event, more.resume)
        return nil, nil, nil, other.id
      end
      take_kept(r)
    end
    set(r, 'ls', call('INCR', K .. ':lseq'))
    local latest = m.s and math.max(now, more.resume or 0) + m.s
    if latest and (not more.expires or latest < more.expires) then
      r.o = f(latest)
      set(r, 'os', 1)
    elseif more.expires then
      r.o = f(more.expires)
    end
    if r.o then copy({'o', r.o}, r.fields) end
    if m.c then
      set(r, 'cl', m.c[2])
      call('RPUSH', lekey(id), event)
      local gate, kind, period, timeout, size = unpack(m.c)
      if not more.replay and (kind == 'debounce' or size > 1) then
        set(r, 'co', gate)
        call('SET', K .. ':lc:' .. gate, id)
        if timeout > 0 then set(r, 'cd', f(now + timeout)) end
        local due = math.max(now + period, more.resume or 0)
        return 'gated', r.o and math.min(due, tonumber(r.o)) or due, r.fields
      end
    end
    local function by_then(due) return r.o and math.min(due, tonumber(r.o)) or due end
    if more.resume then return 'pending', by_then(more.resume), r.fields end
    if more.recreate then return 'pending', now + GRACE, r.fields end
    if is_paused(r) then
      call('ZADD', K .. ':g:' .. h, f(now), id)
      return 'gated', patience(r), r.fields
    end
    local refused = try(r)
    if refused then
      queue(r, refused)
      return 'gated', patience(r), r.fields
    end
    if m.c and not more.replay then -- a batch of one: who recorded it does not know what it is given
      woken[#woken + 1] = id
      return 'pending', now, r.fields
    end
    if not m.list then return 'pending', by_then(now + GRACE), r.fields end
    local list = F.lists[m.list] or {}
    list[#list + 1] = more.lists[m.message]
    F.lists[m.list] = list
    return 'published', by_then(now + REPUBLISH), r.fields
  end
  --
  -- Once the new runs are recorded: publish them, and cancel those whose places they have taken.
  function F.finish(cancel)
    for list, messages in pairs(F.lists) do
      for start = 1, #messages, 4000 do
        call('LPUSH', list, unpack(messages, start, math.min(start + 3999, #messages)))
      end
    end
    seen = {}
    for _, victim in ipairs(F.victims) do cancel(victim[1], victim[2], {}) end
  end
  return F
end
