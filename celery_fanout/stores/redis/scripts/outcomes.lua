-- How runs ended, followed to the last link of their tails. ARGV[2..] ids
-- Returns {[id, state, result or false, error or false, reason], ...}
local found = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local state, link, reason = unpack(call('HMGET', rkey(id), 's', 'l', 'z'))
  while link and (state == 'succeeded' or state == 'completing') do
    id = link
    state, link, reason = unpack(call('HMGET', rkey(id), 's', 'l', 'z'))
  end
  local result, err = unpack(call('HMGET', dkey(id), 'R', 'E'))
  found[#found + 1] = {ARGV[i], state or '', result, err, reason or ''}
end
return found
