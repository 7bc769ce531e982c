"""The words of the package: events, runs, ids, headers, settings, JSON.

Values, and what can be computed from them alone. Nothing here keeps state that differs between
apps, or decides what happens next. Nothing but ``failpoints`` does I/O, for the fault tests;
``boot`` is state of the process.

May import ``exceptions``, ``signals``.
Private: its modules may change without notice.
"""
