-- Runs were published. ARGV[2..] pairs of an id and the queue that it went to, "" if that is as recorded
for i = 2, #ARGV, 2 do
  local r = {id = ARGV[i]}
  local state, times
  state, times, r.fd = unpack(call('HMGET', rkey(r.id), 's', 'h', 'fd'))
  if state == 'pending' then
    r.s = state
    times = tonumber(times or '0')
    local wait = math.min(REPUBLISH * 2 ^ math.min(times, 20), math.max(3600, REPUBLISH))
    if ARGV[i + 1] ~= '' then
      enter(r, 'published', now + wait, 'h', times + 1, 'q', ARGV[i + 1])
    else
      enter(r, 'published', now + wait, 'h', times + 1)
    end
  end
end
return 1
