-- Make due what was published to a queue before a time and never received.
-- args: queue before limit
-- Returns the ids.
local overdue, page = {}, 500
limit = tonumber(limit)
-- The limit is on what is found: older runs of other queues, or received ones, are only passed by.
-- No further than this, or it would block Redis; the timer of each run is there too.
for from = 0, 9 * page, page do
  local ids = call('ZRANGEBYSCORE', K .. ':s:published', '-inf', '(' .. before, 'LIMIT', from, page)
  for _, id in ipairs(ids) do
    if #overdue >= limit then return overdue end
    local sent_to, boot = unpack(call('HMGET', rkey(id), 'q', 'b'))
    if sent_to == queue and not boot then
      call('ZADD', K .. ':due', f(now), id)
      overdue[#overdue + 1] = id
    end
  end
  if #ids < page then break end
end
return overdue
