-- The process that executed a run is gone.
-- args: id boot error final
--   error: JSON
--   final: "1" if it failed for good
-- Returns {1 or 0, woken}
local r = rec(id)
if not r or r.s ~= 'running' or r.b ~= boot then return {0, woken} end
local err = cjson.decode(error)
local text = err.type .. ': ' .. err.message
if final == '1' then
  log_attempt(r, 'failed', text)
  fail(r, error, 'error')
elseif not crash(r, text) then
  -- due now; its token stays, so that what is left of the process writes nothing
  enter(r, 'pending', now)
  woken[#woken + 1] = r.id
end
return {1, woken}
