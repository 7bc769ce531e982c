-- How runs ended, followed to the last link of their tails.
-- args: ids...
-- Returns {[id, state, result or false, error or false, reason], ...}
local outcomes = {}
for _, first in ipairs(ids) do
  local id = first
  local state, link, reason = unpack(call('HMGET', rkey(id), 's', 'l', 'z'))
  while link and (state == 'succeeded' or state == 'completing') do
    id = link
    state, link, reason = unpack(call('HMGET', rkey(id), 's', 'l', 'z'))
  end
  local result, err = unpack(call('HMGET', dkey(id), 'R', 'E'))
  outcomes[#outcomes + 1] = {first, state or '', result, err, reason or ''}
end
return outcomes
