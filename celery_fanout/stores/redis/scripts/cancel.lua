-- Cancel runs.
-- args: reason ids...
-- Returns {[cancelled ...], woken}
local done = {}
for _, id in ipairs(ids) do cancel(id, reason, done) end
return {done, woken}
