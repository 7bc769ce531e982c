-- Remove from the indexes what has outlived its retention, and let go of what is held back though its
-- subscription is not paused: a resume was cut short. ARGV[2] limit
-- Returns how many runs it removed.
local swept, limit = 0, tonumber(ARGV[2])
for state, keep in pairs({succeeded = SUCCESS, cancelled = SUCCESS, failed = FAILURE}) do
  local index = K .. ':s:' .. state
  for _, id in ipairs(call('ZRANGEBYSCORE', index, '-inf', '(' .. f(now - keep), 'LIMIT', 0, limit - swept)) do
    local sub = call('HGET', rkey(id), 'u')
    -- a record that Redis expired first, as no keeper ran for long, does not say whose it was
    for _, h in ipairs(sub and {sub} or call('HKEYS', K .. ':subs')) do call('ZREM', K .. ':u:' .. h, id) end
    call('ZREM', index, id)
    call('ZREM', K .. ':untold', id)
    call('DEL', rkey(id), dkey(id))
    swept = swept + 1
  end
end
call('ZREMRANGEBYSCORE', K .. ':ev', '-inf', '(' .. f(now - EVENTS))
for h, sub in pairs(hash(K .. ':subs') or {}) do
  if call('EXISTS', K .. ':g:' .. h) == 1 and call('HEXISTS', K .. ':paused', sub) == 0 then let_go(sub, limit) end
end
return swept
