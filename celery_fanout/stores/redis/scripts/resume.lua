-- Let the runs of a subscription go.
-- args: subscription limit go_on
--   go_on: "1" to go on with a resume that left some
-- Returns {how many, 1 if any are left}
if go_on == '1' and call('HEXISTS', K .. ':paused', subscription) == 1 then return {0, 0} end
call('HDEL', K .. ':paused', subscription)
local count = let_go(subscription, limit)
return {count, call('EXISTS', K .. ':g:' .. subhash(subscription))}
