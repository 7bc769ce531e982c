"""The ledger in several shards, one file for each part of the protocol."""
