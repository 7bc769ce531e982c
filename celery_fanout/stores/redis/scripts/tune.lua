-- Change a limit for all its gates. ARGV[2] its name  ARGV[3] JSON of its numbers, or "" as in the code
if ARGV[3] == '' then
  call('HDEL', K .. ':tuned', ARGV[2])
else
  call('HSET', K .. ':tuned', ARGV[2], ARGV[3])
end
-- Whoever may start now is let in by the next take: first, or who waits elsewhere for the time took
-- the new places from those who wait here.
for _, gate in ipairs(call('ZRANGE', K .. ':limits', 0, -1)) do
  if call('EXISTS', K .. ':lr:' .. gate) == 1 and call('HGET', K .. ':l:' .. gate, 'n') == ARGV[2] then
    call('ZADD', K .. ':gates', 0, gate)
  end
end
return 1
