-- Find the first event of this shard that fits a wait, of whatever shard.
-- ARGV[3] name  ARGV[4] match  ARGV[5] since  ARGV[6] key of the event that does not count
-- ARGV[7] how many events to look through in one call, from ARGV[8] on
-- Returns {when, attributes, data}; a number: go on from there; false: there is none.
local from, chunk = tonumber(ARGV[8]), tonumber(ARGV[7])
local attributes, data, key, many = look_back(ARGV[3], ARGV[4], ARGV[5], ARGV[6], from, chunk)
if key then return {call('ZSCORE', K .. ':n:' .. ARGV[3], key), attributes, data} end
return many == chunk and from + chunk
