"""The outbox: rows that are written in the caller's transaction, and the relay that publishes them.

May import what ``contrib.django`` may, but neither its admin nor its commands.
Private: its modules may change without notice.
"""
