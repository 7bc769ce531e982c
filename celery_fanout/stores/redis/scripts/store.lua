-- Store a checkpoint, fenced. ARGV[2] id  ARGV[3] token  ARGV[4] field  ARGV[5] text  ARGV[6] "1" if final
-- Returns the text that is stored, or false if the token is stale.
local state, token = unpack(call('HMGET', rkey(ARGV[2]), 's', 'n'))
if state ~= 'running' or token ~= ARGV[3] then return false end
local d = dkey(ARGV[2])
local known = call('HGET', d, ARGV[4])
if is_final(known) then return known end
call('HSET', d, ARGV[4], ARGV[5])
return ARGV[5]
