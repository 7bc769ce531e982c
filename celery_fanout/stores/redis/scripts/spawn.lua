-- Record child runs. ARGV[3] id  ARGV[4] token  ARGV[5] group  ARGV[6] JSON of them, see add_runs in lib.lua
-- Returns {1 or 0, woken}
local r = rec(ARGV[3])
if not holds(r, ARGV[4]) then return {0, woken} end
local children, counter = cjson.decode(ARGV[6]), 'n' .. ARGV[5]
if call('HEXISTS', dkey(r.id), counter) == 1 then return {1, woken} end -- a repeated call
local left, group = #children, ARGV[5]
-- What the items of step.parallel replay the body with: not one another's results, or n items would
-- read n * n of them.
if left > 0 and children[1][2] == 'parallel' then
  call('HSET', dkey(r.id), 'b' .. group, cjson.encode(steps(r.id, string.sub(group, 1, -2) .. ',')))
end
for _, given in ipairs(children) do
  -- One that is there already is of an earlier life of a parent that was reopened: what it did
  -- succeed in counts, what had failed runs again. Else nothing would ever wake the parent.
  local child = rec(given[1])
  if child and child.s == 'succeeded' then
    deliver(child)
    left = left - 1
  elseif child and FINAL[child.s] then
    reopen(child, 'retried with its run')
  end
end
add_runs(children, r.e, now, r.g or '0', {parent = r.id})
for _, given in ipairs(children) do call('HSET', dkey(r.id), 'c' .. given[1], given[2]) end
call('HSET', dkey(r.id), counter, left)
return {1, woken}
