-- Tell the runs of this shard of an event that another shard has recorded; safe to repeat.
-- args: key name attributes data at
--   at: whom it concerns: who was there by then
-- Returns woken
announce(name, attributes, data, tonumber(at), key)
return woken
