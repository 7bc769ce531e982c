-- Renew the leases of what a worker holds.
-- args: boot ids...
-- Returns the ids of those that had to be finished by now.
local late = {}
for _, id in ipairs(ids) do
  local state, holder, resume, latest, start, began = unpack(call('HMGET', rkey(id), 's', 'b', 'i', 'fd', 'o', 'a'))
  if state == 'running' or state == 'completing' then
    if holder == boot then
      if state == 'running' and latest and tonumber(latest) <= now then
        late[#late + 1] = id
      else
        call('ZADD', K .. ':due', 'XX', f(now + LEASE), id)
      end
    end
  elseif state == 'pending' or state == 'published' then
    if not resume or tonumber(resume) <= now then
      call('HSET', rkey(id), 'b', boot)
      local due = now + LEASE
      latest = began and latest or not began and start
      if latest then due = math.min(due, tonumber(latest)) end
      call('ZADD', K .. ':due', 'XX', f(due), id)
    end
  end
end
return late
