-- Remove from the indexes what has outlived its retention. ARGV[3] limit
-- Returns how many runs.
local swept, limit = 0, tonumber(ARGV[3])
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
return swept
