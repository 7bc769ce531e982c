-- Runs whose follow-up is not recorded.
-- args: older_than limit
--   older_than: in seconds
-- Returns ids, which are not returned again for a while.
-- An entry's score is the time from which the keeper may see to it: the end and a grace.
local ids = call('ZRANGEBYSCORE', K .. ':untold', '-inf', f(now + GRACE - tonumber(older_than)), 'LIMIT', 0, limit)
local found = {}
for _, id in ipairs(ids) do
  if call('EXISTS', rkey(id)) == 1 then
    call('ZADD', K .. ':untold', f(now + 2 * GRACE), id)
    found[#found + 1] = id
  else
    call('ZREM', K .. ':untold', id)
  end
end
return found
