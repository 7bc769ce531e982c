-- Change a limit for all its gates.
-- args: limit numbers
--   limit: its name
--   numbers: JSON, or "" as in the code
if numbers == '' then
  call('HDEL', K .. ':tuned', limit)
else
  call('HSET', K .. ':tuned', limit, numbers)
end
-- Whoever may start now is let in by the next take: first, or who waits elsewhere for the time took
-- the new places from those who wait here.
for _, gate in ipairs(call('ZRANGE', K .. ':limits', 0, -1)) do
  if call('EXISTS', K .. ':lr:' .. gate) == 1 and call('HGET', K .. ':l:' .. gate, 'n') == limit then
    call('ZADD', K .. ':gates', 0, gate)
  end
end
return 1
