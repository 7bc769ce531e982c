-- Store a checkpoint, fenced.
-- args: id token field text
-- Returns the text that is stored, or false if the token is stale.
local state, holder = unpack(call('HMGET', rkey(id), 's', 'n'))
if state ~= 'running' or holder ~= token then return false end
local d = dkey(id)
local stored = call('HGET', d, field)
if is_final(stored) then return stored end
call('HSET', d, field, text)
return text
