"""Looking at events, runs and limits, and changing them by hand.

What ``get_fanout(app).runs``, the commands and the admin show and do: reading, explaining,
cancelling, retrying, replaying, tuning; and what people are shown of data. Nothing here runs by
itself.

May import ``subscribing`` and what is below it.
Private: its modules may change without notice.
"""
