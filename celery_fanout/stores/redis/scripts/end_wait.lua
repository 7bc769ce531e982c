-- Give up a wait.
-- args: id token field event
--   event: JSON of one that answers it, or ""
-- Returns the checkpoint's text, or false if the token is stale.
local r = rec(id)
if not holds(r, token) then return false end
local d = dkey(r.id)
local checkpoint = call('HGET', d, field)
if checkpoint and string.find(checkpoint, '^{"v":%d+,"s":"done"') then return checkpoint end
local place = call('HGET', d, 'w' .. field)
if place then unfile(place) end
local text = '{"v":1,"s":"done","n":1,"r":' .. (event == '' and 'null' or event) .. ',"t":' .. f(now) .. '}'
call('HDEL', d, 'w' .. field)
call('HSET', d, field, text, 'n' .. field, 0)
return text
