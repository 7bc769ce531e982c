-- Let events find a wait whose checkpoint is not written yet; safe to repeat.
-- ARGV[3] id  ARGV[4] token  ARGV[5] field  ARGV[6] name  ARGV[7] match
-- Returns {the checkpoint's text or "", key of the run's event}, or false if the token is stale.
local id, field = ARGV[3], ARGV[5]
local r = rec(id)
if not holds(r, ARGV[4]) then return false end
local d = dkey(id)
local known = call('HGET', d, field)
if known then return {known, r.e} end
call('HSET', d, 'w' .. field, file(ARGV[6], ARGV[7], 'w|' .. id .. '|' .. field))
call('HSET', rkey(id), 'ws', 1)
return {'', r.e}
