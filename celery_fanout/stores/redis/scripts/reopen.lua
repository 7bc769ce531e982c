-- Run a dead letter or a cancelled run again.
-- args: id reason
-- Returns 1, or 0 if it is neither.
local r = rec(id)
if not r or (r.s ~= 'failed' and r.s ~= 'cancelled') then return 0 end
reopen(r, reason)
return 1
