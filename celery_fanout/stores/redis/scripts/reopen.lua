-- Run a dead letter or a cancelled run again. ARGV[2] id  ARGV[3] reason
-- Returns 1, or 0 if it is neither.
local r = rec(ARGV[2])
if not r or (r.s ~= 'failed' and r.s ~= 'cancelled') then return 0 end
reopen(r, ARGV[3])
return 1
