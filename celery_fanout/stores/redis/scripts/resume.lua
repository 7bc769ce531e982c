-- Let the runs of a subscription go. ARGV[3] subscription  ARGV[4] limit  ARGV[5] "1" to go on
-- Returns {how many, 1 if any are left}
if ARGV[5] == '1' and call('HEXISTS', K .. ':paused', ARGV[3]) == 1 then return {0, 0} end
call('HDEL', K .. ':paused', ARGV[3])
local gate = K .. ':g:' .. subhash(ARGV[3])
local ids = call('ZRANGEBYSCORE', gate, '-inf', '+inf', 'LIMIT', 0, ARGV[4])
for _, id in ipairs(ids) do
  call('ZREM', gate, id)
  local r = rec(id)
  if r and r.s == 'gated' then
    local resume = r.i and r.i ~= 'inf' and math.max(tonumber(r.i), now) or now
    enter(r, 'pending', resume)
  end
end
return {#ids, call('EXISTS', gate)}
