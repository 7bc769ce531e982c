-- Let go of what a worker that stops has.
-- args: boot ids...
-- Returns the ids that are due now.
for _, id in ipairs(ids) do
  local r = rec(id)
  if r and r.b == boot then
    if r.s == 'running' then
      call('HSET', rkey(r.id), 'rl', 1)
    elseif r.s == 'pending' or r.s == 'published' then
      drop(r, 'b')
      call('ZADD', K .. ':due', f(now), r.id)
      woken[#woken + 1] = r.id
    end
  end
end
return woken
