-- Runs were published, or are by this.
-- args: runs lists...
--   runs: JSON of pairs of an id and the queue that it goes to, "" if that is as recorded
--   lists: messages, see push in lib.lua
for _, run in ipairs(cjson.decode(runs)) do
  local r, queue = {id = run[1]}, run[2]
  local state, times, resume
  state, times, resume, r.fd, r.o, r.a = unpack(call('HMGET', rkey(r.id), 's', 'h', 'i', 'fd', 'o', 'a'))
  -- the message of one that waits for its time comes early, and is dropped: it keeps its timer
  if state == 'pending' and tonumber(resume or '0') <= now + 0.001 then
    r.s = state
    times = tonumber(times or '0')
    local wait = math.min(REPUBLISH * 2 ^ math.min(times, 20), math.max(3600, REPUBLISH))
    if queue ~= '' then
      enter(r, 'published', now + wait, 'h', times + 1, 'q', queue)
    else
      enter(r, 'published', now + wait, 'h', times + 1)
    end
  end
end
push(lists)
return 1
