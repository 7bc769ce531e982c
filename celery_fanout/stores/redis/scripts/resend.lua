-- Make due what was published to a queue before a time and never received.
-- ARGV[3] queue  ARGV[4] before  ARGV[5] limit
-- Returns the ids.
local found = {}
for _, id in ipairs(call('ZRANGEBYSCORE', K .. ':s:published', '-inf', '(' .. ARGV[4], 'LIMIT', 0, ARGV[5])) do
  local queue, boot = unpack(call('HMGET', rkey(id), 'q', 'b'))
  if queue == ARGV[3] and not boot then
    call('ZADD', K .. ':due', f(now), id)
    found[#found + 1] = id
  end
end
return found
