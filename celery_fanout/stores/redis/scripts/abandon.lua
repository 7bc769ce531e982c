-- The process that executed a run is gone. ARGV[2] id  ARGV[3] boot  ARGV[4] error JSON  ARGV[5] "1" if final
-- Returns {1 or 0, woken}
local r = rec(ARGV[2])
if not r or r.s ~= 'running' or r.b ~= ARGV[3] then return {0, woken} end
local err = cjson.decode(ARGV[4])
local text = err.type .. ': ' .. err.message
if ARGV[5] == '1' then
  log_attempt(r, 'failed', text)
  fail(r, ARGV[4], 'error')
elseif not crash(r, text) then
  -- due now; its token stays, so that what is left of the process writes nothing
  enter(r, 'pending', now)
  woken[#woken + 1] = r.id
end
return {1, woken}
