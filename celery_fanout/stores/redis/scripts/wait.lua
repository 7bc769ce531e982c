-- Wait for an event, or find one that is recorded.
--
-- ARGV[2] id  ARGV[3] token  ARGV[4] field  ARGV[5] name  ARGV[6] match  ARGV[7] since  ARGV[8] due
-- ARGV[9] how many events to look through in one call, from ARGV[10] on
-- Returns the checkpoint's text; a number: go on from there; false: the token is stale.
local id, field, name = ARGV[2], ARGV[4], ARGV[5]
local r = rec(id)
if not holds(r, ARGV[3]) then return false end
local d = dkey(id)
local known = call('HGET', d, field)
if known then return known end
local chunk, from = tonumber(ARGV[9]), tonumber(ARGV[10])
-- its own event is no answer to it
local attributes, data, _, many = look_back(name, ARGV[6], ARGV[7], r.e, from, chunk)
if data then
  local text = '{"v":1,"s":"done","n":1,"r":{"a":' .. attributes .. ',"d":' .. data .. '},"t":' .. f(now) .. '}'
  call('HSET', d, field, text)
  return text
end
if many == chunk then return from + chunk end
local text = '{"v":1,"s":"waiting","n":0,"d":' .. ARGV[8] .. ',"t":' .. f(now) .. '}'
call('HSET', d, field, text, 'n' .. field, 1, 'w' .. field, file(filing(name, ARGV[6], 'w|' .. id .. '|' .. field)))
call('HSET', rkey(id), 'ws', 1)
return text
