-- Remove from the indexes what has outlived its retention. ARGV[3] limit
-- Returns how many runs.
local swept = 0
for state, keep in pairs({succeeded = SUCCESS, cancelled = SUCCESS, failed = FAILURE}) do
  local index = K .. ':s:' .. state
  for _, id in ipairs(call('ZRANGEBYSCORE', index, '-inf', '(' .. f(now - keep), 'LIMIT', 0, ARGV[3])) do
    local sub = call('HGET', rkey(id), 'u')
    if sub then call('ZREM', K .. ':u:' .. sub, id) end
    call('ZREM', index, id)
    call('DEL', rkey(id), dkey(id))
    swept = swept + 1
  end
end
call('ZREMRANGEBYSCORE', K .. ':ev', '-inf', '(' .. f(now - EVENTS))
return swept
