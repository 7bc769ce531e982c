"""The words of the package: events, runs, ids, headers, settings, JSON.

Values, and what can be computed from them alone. Nothing here does I/O, keeps state that differs
between apps, or decides what happens next.

May import ``exceptions``, ``signals``.
Private: its modules may change without notice.
"""
