-- Remove from the indexes what has outlived its retention, and let go of what is held back though its
-- subscription is not paused: a resume was cut short.
-- args: limit
-- Returns how many runs it removed, or if that is more how many gates it looked at.
local swept = 0
limit = tonumber(limit)
for state, keep in pairs({succeeded = SUCCESS, cancelled = SUCCESS, failed = FAILURE}) do
  local index = K .. ':s:' .. state
  for _, id in ipairs(call('ZRANGEBYSCORE', index, '-inf', '(' .. f(now - keep), 'LIMIT', 0, limit - swept)) do
    local sub = call('HGET', rkey(id), 'u')
    -- a record that Redis expired first, as no keeper ran for long, does not say whose it was
    for _, h in ipairs(sub and {sub} or call('HKEYS', K .. ':subs')) do call('ZREM', K .. ':u:' .. h, id) end
    call('ZREM', index, id)
    call('ZREM', K .. ':untold', id)
    call('DEL', rkey(id), dkey(id), lekey(id))
    swept = swept + 1
  end
end
call('ZREMRANGEBYSCORE', K .. ':ev', '-inf', '(' .. f(now - EVENTS))
for h, sub in pairs(hash(K .. ':subs') or {}) do
  if call('EXISTS', K .. ':g:' .. h) == 1 and call('HEXISTS', K .. ':paused', sub) == 0 then let_go(sub, limit) end
end
-- gates that nobody has used for a while, or that are needed all the same
local gates = call('ZRANGEBYSCORE', K .. ':limits', '-inf', '(' .. f(now - 3600), 'LIMIT', 0, limit)
for _, gate in ipairs(gates) do
  local key, at, tat, used = K .. ':l:' .. gate
  at, tat, used = unpack(call('HMGET', key, 'at', 'tat', 'us'))
  local per = tonumber(at and string.match(at, '^%S+ (%S+)') or '0')
  if call('EXISTS', K .. ':lr:' .. gate, K .. ':lp:' .. gate, K .. ':lc:' .. gate) > 0
    or tonumber(used or '0') + per > now or tonumber(tat or '0') > now then
    call('ZADD', K .. ':limits', f(now), gate)
    if call('TTL', key) >= 0 then call('EXPIRE', key, math.ceil(math.max(86400, 2 * per))) end
  else
    -- it stays until it expires: a run that is delayed may need its limit's name, to find its number
    if call('TTL', key) < 0 then call('EXPIRE', key, math.ceil(math.max(86400, 2 * per))) end
    call('ZREM', K .. ':limits', gate)
  end
end
return math.max(swept, #gates)
