-- Record child runs. ARGV[3] id  ARGV[4] token  ARGV[5] group  ARGV[6] how many, then 9 values each
-- Returns {1 or 0, woken}
local r = rec(ARGV[3])
if not holds(r, ARGV[4]) then return {0, woken} end
local count, group = tonumber(ARGV[6]), ARGV[5]
local fresh = call('HSETNX', dkey(r.id), 'n' .. group, count) == 1
if fresh then
  add_runs(7, count, r.e, now, r.g or '0', r.id)
  for n = 0, count - 1 do
    call('HSET', dkey(r.id), 'c' .. ARGV[7 + n * 9], ARGV[8 + n * 9])
  end
end
return {1, woken}
