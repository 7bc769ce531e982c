-- Tell the runs of this shard of an event that another shard has recorded; safe to repeat.
-- ARGV[3] key  ARGV[4] name  ARGV[5] attributes  ARGV[6] data  ARGV[7] whom: who was there by then
-- Returns woken
announce(ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[3])
return woken
