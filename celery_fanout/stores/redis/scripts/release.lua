-- Let go of what a worker that stops has. ARGV[2] boot  ARGV[3..] ids
-- Returns the ids that are due now.
for i = 3, #ARGV do
  local r = rec(ARGV[i])
  if r and r.b == ARGV[2] then
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
