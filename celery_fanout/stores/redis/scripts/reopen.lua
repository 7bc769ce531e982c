-- Run a dead letter or a cancelled run again. ARGV[3] id  ARGV[4] reason
-- Returns 1, or 0 if it is neither.
local r = rec(ARGV[3])
if not r or (r.s ~= 'failed' and r.s ~= 'cancelled') then return 0 end
reopen(r, ARGV[4])
return 1
