"""Stores in this process's memory: for tests, demos, and apps of one process.

The ledger is that of :mod:`celery_fanout.stores.redis`, with the same scripts. Here are a Redis of
dicts, and a Lua that runs the scripts on it.

May import what ``stores`` may, and its ``redis``; no server is asked.
Private: its modules may change without notice.
"""
