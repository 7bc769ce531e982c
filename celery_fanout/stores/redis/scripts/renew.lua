-- Renew the leases of what a worker holds. ARGV[2] boot  ARGV[3..] ids
for i = 3, #ARGV do
  local id = ARGV[i]
  local state, boot, resume, latest = unpack(call('HMGET', rkey(id), 's', 'b', 'i', 'fd'))
  local late = latest and tonumber(latest) <= now
  if state == 'running' or state == 'completing' then
    if boot == ARGV[2] and state == 'running' and late then
      cancel(id, 'finish_timeout', {})
    elseif boot == ARGV[2] then call('ZADD', K .. ':due', 'XX', f(now + LEASE), id) end
  elseif state == 'pending' or state == 'published' then
    if not resume or tonumber(resume) <= now then
      call('HSET', rkey(id), 'b', ARGV[2])
      call('ZADD', K .. ':due', 'XX', f(math.min(now + LEASE, tonumber(latest or 'inf'))), id)
    end
  end
end
return 1
