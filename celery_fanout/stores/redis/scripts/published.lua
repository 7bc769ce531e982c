-- Runs were published. ARGV[3..] ids
for i = 3, #ARGV do
  local r = {id = ARGV[i]}
  local state, times = unpack(call('HMGET', rkey(r.id), 's', 'h'))
  if state == 'pending' then
    r.s = state
    times = tonumber(times or '0')
    enter(r, 'published', now + math.min(REPUBLISH * 2 ^ math.min(times, 20), math.max(3600, REPUBLISH)), 'h', times + 1)
  end
end
return 1
