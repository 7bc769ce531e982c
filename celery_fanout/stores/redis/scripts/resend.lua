-- Make due what was published to a queue before a time and never received.
-- ARGV[2] queue  ARGV[3] before  ARGV[4] limit
-- Returns the ids.
local found, limit, page = {}, tonumber(ARGV[4]), 500
-- The limit is on what is found: older runs of other queues, or received ones, are only passed by.
-- No further than this, or it would block Redis; the timer of each run is there too.
for from = 0, 9 * page, page do
  local ids = call('ZRANGEBYSCORE', K .. ':s:published', '-inf', '(' .. ARGV[3], 'LIMIT', from, page)
  for _, id in ipairs(ids) do
    if #found >= limit then return found end
    local queue, boot = unpack(call('HMGET', rkey(id), 'q', 'b'))
    if queue == ARGV[2] and not boot then
      call('ZADD', K .. ':due', f(now), id)
      found[#found + 1] = id
    end
  end
  if #ids < page then break end
end
return found
