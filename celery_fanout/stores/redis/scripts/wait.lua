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
local match = cjson.decode(ARGV[7])
local paths = sorted_paths(match)
local wanted = filed(paths, function(path) return match[path] end)
local chunk, from = tonumber(ARGV[10]), tonumber(ARGV[11])
local keys = call('ZRANGEBYSCORE', K .. ':n:' .. name, ARGV[8], '+inf', 'LIMIT', from, chunk)
for _, key in ipairs(keys) do
  local attributes, data = unpack(call('HMGET', ekey(key), 'a', 'd'))
  if data and key ~= r.e then -- its own event is no answer to it
    local decoded = #paths > 0 and cjson.decode(data)
    if #paths == 0 or filed(paths, function(path) return at_path(decoded, path) end) == wanted then
      local text = '{"v":1,"s":"done","n":1,"r":{"a":' .. attributes .. ',"d":' .. data .. '},"t":' .. f(now) .. '}'
      call('HSET', d, field, text)
      return text
    end
  end
end
if #keys == chunk then return from + chunk end
local text = '{"v":1,"s":"waiting","n":0,"d":' .. ARGV[9] .. ',"t":' .. f(now) .. '}'
call('HSET', d, field, text, 'n' .. field, 1, 'w' .. field, file(name, ARGV[7], 'w|' .. id .. '|' .. field))
call('HSET', rkey(id), 'ws', 1)
return text
