"""``emit()`` to broker: draft, deliver, freeze, record, publish.

The path of an event until its messages are in the broker, and, with a ledger, written down; and
the handles that the caller gets back. ``broker`` has everything that touches a connection.

May import ``subscribing`` and what is below it.
Private: its modules may change without notice.
"""
