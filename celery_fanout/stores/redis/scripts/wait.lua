-- Wait for an event, or find one that is recorded.
--
-- ARGV[3] id  ARGV[4] token  ARGV[5] field  ARGV[6] name  ARGV[7] match  ARGV[8] since  ARGV[9] due
-- ARGV[10] how many events to look through in one call, from ARGV[11] on
-- Returns the checkpoint's text; a number: go on from there; false: the token is stale.
local id, field, name = ARGV[3], ARGV[5], ARGV[6]
local r = rec(id)
if not holds(r, ARGV[4]) then return false end
local d = dkey(id)
local known = call('HGET', d, field)
if known then return known end
local chunk, from = tonumber(ARGV[10]), tonumber(ARGV[11])
-- its own event is no answer to it
local attributes, data, _, many = look_back(name, ARGV[7], ARGV[8], r.e, from, chunk)
if data then
  local text = '{"v":1,"s":"done","n":1,"r":{"a":' .. attributes .. ',"d":' .. data .. '},"t":' .. f(now) .. '}'
  call('HSET', d, field, text)
  return text
end
if many == chunk then return from + chunk end
local text = '{"v":1,"s":"waiting","n":0,"d":' .. ARGV[9] .. ',"t":' .. f(now) .. '}'
call('HSET', d, field, text, 'n' .. field, 1, 'w' .. field, file(name, ARGV[7], 'w|' .. id .. '|' .. field))
call('HSET', rkey(id), 'ws', 1)
return text
