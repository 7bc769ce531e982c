-- Give up a wait. ARGV[2] id  ARGV[3] token  ARGV[4] field  ARGV[5] JSON of an event that answers it
-- Returns the checkpoint's text, or false if the token is stale.
local r = rec(ARGV[2])
if not holds(r, ARGV[3]) then return false end
local d, field = dkey(r.id), ARGV[4]
local known = call('HGET', d, field)
if known and string.find(known, '^{"v":%d+,"s":"done"') then return known end
local place = call('HGET', d, 'w' .. field)
if place then unfile(place) end
local text = '{"v":1,"s":"done","n":1,"r":' .. (ARGV[5] or 'null') .. ',"t":' .. f(now) .. '}'
call('HDEL', d, 'w' .. field)
call('HSET', d, field, text, 'n' .. field, 0)
return text
