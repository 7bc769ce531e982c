-- Wait for an event, or find one that is recorded.
-- args: id token field name match since due chunk start
--   chunk: how many events to look through in one call, from `start` on
-- Returns the checkpoint's text; a number: go on from there; false: the token is stale.
local r = rec(id)
if not holds(r, token) then return false end
local d = dkey(id)
local checkpoint = call('HGET', d, field)
if checkpoint then return checkpoint end
chunk, start = tonumber(chunk), tonumber(start)
-- its own event is no answer to it
local attributes, data, _, many = look_back(name, match, since, r.e, start, chunk)
if data then
  local text = '{"v":1,"s":"done","n":1,"r":{"a":' .. attributes .. ',"d":' .. data .. '},"t":' .. f(now) .. '}'
  call('HSET', d, field, text)
  return text
end
if many == chunk then return start + chunk end
local text = '{"v":1,"s":"waiting","n":0,"d":' .. due .. ',"t":' .. f(now) .. '}'
call('HSET', d, field, text, 'n' .. field, 1, 'w' .. field, file(filing(name, match, 'w|' .. id .. '|' .. field)))
call('HSET', rkey(id), 'ws', 1)
return text
