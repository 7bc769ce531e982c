-- Let events find a wait whose checkpoint is not written yet; safe to repeat.
-- args: id token field name match
-- Returns {the checkpoint's text or "", key of the run's event}, or false if the token is stale.
local r = rec(id)
if not holds(r, token) then return false end
local d = dkey(id)
local checkpoint = call('HGET', d, field)
if checkpoint then return {checkpoint, r.e} end
call('HSET', d, 'w' .. field, file(filing(name, match, 'w|' .. id .. '|' .. field)))
call('HSET', rkey(id), 'ws', 1)
return {'', r.e}
