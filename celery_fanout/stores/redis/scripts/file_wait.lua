-- Let events find a wait whose checkpoint is not written yet; safe to repeat.
-- ARGV[2] id  ARGV[3] token  ARGV[4] field  ARGV[5] name  ARGV[6] match
-- Returns {the checkpoint's text or "", key of the run's event}, or false if the token is stale.
local id, field = ARGV[2], ARGV[4]
local r = rec(id)
if not holds(r, ARGV[3]) then return false end
local d = dkey(id)
local known = call('HGET', d, field)
if known then return {known, r.e} end
call('HSET', d, 'w' .. field, file(filing(ARGV[5], ARGV[6], 'w|' .. id .. '|' .. field)))
call('HSET', rkey(id), 'ws', 1)
return {'', r.e}
