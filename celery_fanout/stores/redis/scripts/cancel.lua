-- Cancel runs. ARGV[3] reason  ARGV[4..] ids
-- Returns {[cancelled ...], woken}
local done = {}
for i = 4, #ARGV do cancel(ARGV[i], ARGV[3], done) end
return {done, woken}
