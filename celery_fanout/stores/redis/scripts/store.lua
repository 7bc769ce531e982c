-- Store a checkpoint, fenced. ARGV[3] id  ARGV[4] token  ARGV[5] field  ARGV[6] text  ARGV[7] "1" if final
-- Returns the text that is stored, or false if the token is stale.
local state, token = unpack(call('HMGET', rkey(ARGV[3]), 's', 'n'))
if state ~= 'running' or token ~= ARGV[4] then return false end
local d = dkey(ARGV[3])
local known = call('HGET', d, ARGV[5])
if is_final(known) then return known end
call('HSET', d, ARGV[5], ARGV[6])
return ARGV[6]
