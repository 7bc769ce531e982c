-- Record a child of a run that has ended. ARGV[3] id  ARGV[4] "1"  then the 9 values of the child
-- Returns 1 if it is new.
local r = rec(ARGV[3])
if not r then return 0 end
local new = #add_runs(5, 1, r.e, now, r.g or '0', r.id)
if new == 1 then
  call('HSET', dkey(r.id), 'c' .. ARGV[5], ARGV[6])
  -- a run that was cancelled before it began had no data, which could have been told to expire
  local ttl = call('TTL', rkey(r.id))
  if ttl > 0 then call('EXPIRE', dkey(r.id), ttl) end
end
return new
