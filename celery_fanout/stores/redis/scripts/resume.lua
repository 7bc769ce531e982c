-- Let the runs of a subscription go. ARGV[3] subscription  ARGV[4] limit  ARGV[5] "1" to go on
-- Returns {how many, 1 if any are left}
if ARGV[5] == '1' and call('HEXISTS', K .. ':paused', ARGV[3]) == 1 then return {0, 0} end
call('HDEL', K .. ':paused', ARGV[3])
local count = let_go(ARGV[3], ARGV[4])
return {count, call('EXISTS', K .. ':g:' .. subhash(ARGV[3]))}
