-- Cancel runs. ARGV[2] reason  ARGV[3..] ids
-- Returns {[cancelled ...], woken}
local done = {}
for i = 3, #ARGV do cancel(ARGV[i], ARGV[2], done) end
return {done, woken}
