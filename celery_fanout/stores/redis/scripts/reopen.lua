-- Run a dead letter or a cancelled run again. ARGV[3] id  ARGV[4] reason
-- Returns 1, or 0 if it is neither.
local r = rec(ARGV[3])
if not r or (r.s ~= 'failed' and r.s ~= 'cancelled') then return 0 end
for field, text in pairs(hash(dkey(r.id)) or {}) do
  local kind = string.sub(field, 1, 1)
  if (kind == 's' and not string.find(text, '^{"v":%d+,"s":"done"')) or kind == 'n' or field == 'E' then
    call('HDEL', dkey(r.id), field)
  end
end
call('PERSIST', rkey(r.id))
call('PERSIST', dkey(r.id))
call('ZREM', K .. ':untold', r.id)
drop(r, 'r', 'x', 'f', 'o', 'un', 'h')
enter(r, 'pending', now, 'z', ARGV[4], 're', tonumber(r.re or '0') + 1)
if r.e ~= '' then
  if call('HINCRBY', ekey(r.e), 'o', 1) == 1 then call('PERSIST', ekey(r.e)) end
  if r.k == 'event' or r.k == 'then' then call('HINCRBY', ekey(r.e), 'of', 1) end
end
return 1
