"""The ledger in Redis, spread over several slots of a cluster: ``fanout_shards``.

Which shard has an event, one shard's operations, and those that concern several shards.

May import what ``stores`` may, and the ledger of one slot beside it.
Private: its modules may change without notice.
"""
