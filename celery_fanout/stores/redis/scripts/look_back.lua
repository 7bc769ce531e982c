-- Find the first event of this shard that fits a wait, of whatever shard.
-- ARGV[2] name  ARGV[3] match  ARGV[4] since  ARGV[5] key of the event that does not count
-- ARGV[6] how many events to look through in one call, from ARGV[7] on
-- Returns {when, attributes, data}; a number: go on from there; false: there is none.
local from, chunk = tonumber(ARGV[7]), tonumber(ARGV[6])
local attributes, data, key, many = look_back(ARGV[2], ARGV[3], ARGV[4], ARGV[5], from, chunk)
if key then return {call('ZSCORE', K .. ':n:' .. ARGV[2], key), attributes, data} end
return many == chunk and from + chunk
