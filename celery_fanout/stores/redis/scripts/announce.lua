-- Tell the runs of this shard of an event that another shard has recorded; safe to repeat.
-- ARGV[2] key  ARGV[3] name  ARGV[4] attributes  ARGV[5] data  ARGV[6] whom: who was there by then
-- Returns woken
announce(ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[2])
return woken
