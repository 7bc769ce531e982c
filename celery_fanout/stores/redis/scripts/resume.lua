-- Let the runs of a subscription go. ARGV[2] subscription  ARGV[3] limit  ARGV[4] "1" to go on
-- Returns {how many, 1 if any are left}
if ARGV[4] == '1' and call('HEXISTS', K .. ':paused', ARGV[2]) == 1 then return {0, 0} end
call('HDEL', K .. ':paused', ARGV[2])
local count = let_go(ARGV[2], ARGV[3])
return {count, call('EXISTS', K .. ':g:' .. subhash(ARGV[2]))}
