"""The numbers of the limits in ``limited.py``, for the app and for its tests."""

from __future__ import annotations

__all__ = [
    "AT_ONCE",
    "BURST",
    "COLLECTS",
    "FAIR",
    "KILLED_AT_ONCE",
    "KILLED_STARTS",
    "LEASE",
    "LET_THROUGH",
    "NOT_LATER_THAN",
    "PER_KEY",
    "QUIET",
    "SHARED",
    "SIZE",
    "STARTS",
    "TIMEOUT",
    "WINDOW",
]

LEASE = 2.0

#: Concurrency: of one or two subscriptions, for each key, and of the scope of several.
AT_ONCE, PER_KEY, SHARED = 3, 2, 4

#: A throttle's starts in a second, and how many more at once.
STARTS, BURST = 10, 5

#: How many runs a rate limit lets through, and in how many seconds.
LET_THROUGH, WINDOW = 10, 0.25

#: How long a debounce wants it quiet, and for how long it has patience.
QUIET, NOT_LATER_THAN = 0.5, 2.0

#: How many events a batch has, and how long it collects.
SIZE, COLLECTS = 10, 1.5

#: After how many seconds a run is cancelled that has not started, or not finished.
TIMEOUT = 1.0

#: Concurrency, and starts in a second, of those that are killed.
KILLED_AT_ONCE, KILLED_STARTS = 4, 40

#: Concurrency of the tenants, together.
FAIR = 4
