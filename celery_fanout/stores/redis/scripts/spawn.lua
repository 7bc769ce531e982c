-- Record child runs.
-- args: id token group runs
--   runs: JSON of them, see add_runs in lib.lua
-- Returns {1 or 0, woken}
local r = rec(id)
if not holds(r, token) then return {0, woken} end
local children, counter = cjson.decode(runs), 'n' .. group
if call('HEXISTS', dkey(r.id), counter) == 1 then return {1, woken} end -- a repeated call
local left = #children
-- What the items of step.parallel replay the body with: not one another's results, or n items would
-- read n * n of them.
if left > 0 and children[1][2] == 'parallel' then
  call('HSET', dkey(r.id), 'b' .. group, cjson.encode(steps(r.id, string.sub(group, 1, -2) .. ',')))
end
local fresh = {}
for _, run in ipairs(children) do
  -- One that is there already is of an earlier life of a parent that was reopened: what it did
  -- succeed in counts, what had failed runs again. Else nothing would ever wake the parent.
  local child, field = rec(run[1]), run[6]
  if child and child.s == 'succeeded' then deliver(child) end
  if call('HEXISTS', dkey(r.id), field) == 1 then
    left = left - 1 -- it has ended, and is not counted again; its own record may be gone
  else
    if child and FINAL[child.s] then reopen(child, 'retried with its run') end
    fresh[#fresh + 1] = run
    call('HSET', dkey(r.id), 'c' .. run[1], run[2])
  end
end
add_runs(fresh, r.e, now, r.g or '0', {parent = r})
call('HSET', dkey(r.id), counter, left)
return {1, woken}
