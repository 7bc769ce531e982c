-- Runs were published, or are by this. ARGV[2] how many, then pairs of an id and the queue that it goes
-- to, "" if that is as recorded; then messages, see push in lib.lua
local last = 2 + 2 * tonumber(ARGV[2])
for i = 3, last, 2 do
  local r = {id = ARGV[i]}
  local state, times, resume
  state, times, resume, r.fd, r.o, r.a = unpack(call('HMGET', rkey(r.id), 's', 'h', 'i', 'fd', 'o', 'a'))
  -- the message of one that waits for its time comes early, and is dropped: it keeps its timer
  if state == 'pending' and tonumber(resume or '0') <= now + 0.001 then
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
push(last + 1)
return 1
