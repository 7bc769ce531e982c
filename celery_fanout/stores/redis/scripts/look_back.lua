-- Find the first event of this shard that fits a wait, of whatever shard.
-- args: name match since own_event chunk start
--   own_event: key of the run's own event, which does not count
--   chunk: how many events to look through in one call, from `start` on
-- Returns {when, attributes, data}; a number: go on from there; false: there is none.
start, chunk = tonumber(start), tonumber(chunk)
local attributes, data, key, many = look_back(name, match, since, own_event, start, chunk)
if key then return {call('ZSCORE', K .. ':n:' .. name, key), attributes, data} end
return many == chunk and start + chunk
