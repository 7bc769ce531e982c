-- This worker does not know a run's task.
-- args: id delay
-- Returns {1 or 0, woken}
local r = rec(id)
if not r or (r.s ~= 'pending' and r.s ~= 'published') then return {0, woken} end
local since = tonumber(r.un or f(now))
if now - since >= UNREGISTERED then
  fail(r, cjson.encode({type = 'Unregistered', traceback = '',
    message = 'No worker that serves its queue knows its task.'}), 'unregistered')
else
  local resume = f(now + tonumber(delay))
  drop(r, 'b')
  enter(r, 'pending', tonumber(resume), 'i', resume, 'un', f(since))
  if r.fl then flow().give(r) end
end
return {1, woken}
