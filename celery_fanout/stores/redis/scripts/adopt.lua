-- Record a child of a run that has ended.
-- args: id run
--   run: JSON of the child, see add_runs in lib.lua
-- Returns 1 if it is new.
local r = rec(id)
if not r then return 0 end
local child = cjson.decode(run)
local new = #add_runs({child}, r.e, now, r.g or '0', {parent = r})
if new == 1 then
  call('HSET', dkey(r.id), 'c' .. child[1], child[2])
  -- a run that was cancelled before it began had no data, which could have been told to expire
  local ttl = call('TTL', rkey(r.id))
  if ttl > 0 then call('EXPIRE', dkey(r.id), ttl) end
end
return new
