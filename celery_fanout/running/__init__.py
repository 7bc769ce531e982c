"""Message to run to step to store: wrap, execute, claim, step, suspend, settle.

What happens in a worker between Celery's call of a task and its return. ``steps`` has ``step.*``.

May import ``emitting``, ``operating`` and what is below them.
Private: its modules may change without notice.
"""
